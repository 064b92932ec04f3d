"""Killed at the very moment: before and after each step of the way from an order to a committed part."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import submit
from neuroscan_farm.dispatch.farm_records import Timings
from neuroscan_farm.dispatch.parent_death import dying_with_parent
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.farm_fixtures import StartWorker, lasting, wait_for
from tests.faults.killed_at import POINTS, WRITTEN_ASIDE

IN_A_WORKER = ["before the claim", "claimed", "in a task", "before the commit", "committed", "released"]
IN_A_COORDINATOR = ["before an order", "order noted", "order sent", "before a new plan", "new plan"]
IN_A_LOCAL_RUN = ["order given", "before a new plan", "new plan", "parts joined", "parts about to go"]
IN_A_LOCAL_CHILD = ["before the commit", WRITTEN_ASIDE, "committed"]


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """Where points that were reached leave their names."""
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


@pytest.fixture
def staged(make_run: MakeRun) -> RunDirectory:
    """A run of two stages, so that its plan is written twice."""
    return make_run("staged", executor="celery", **STAGED)


STAGED = {"parameters": {"sparse_first": True, "sparse_step": 2, "refine_top": 1}, "shard_size": 1}


@pytest.fixture
def undisturbed(make_run: MakeRun, warm: object) -> pd.DataFrame:
    """Its rows as one process measures them in peace."""
    from neuroscan_farm.coordinator.decide import Stop
    from neuroscan_farm.coordinator.drive import drive
    from neuroscan_farm.dispatch.in_process import InProcess
    from neuroscan_farm.engine.shard import execute_shard
    from neuroscan_farm.engine.warm import WarmModel

    assert isinstance(warm, WarmModel)
    run = make_run("undisturbed", **STAGED)
    dispatcher = InProcess(
        lambda run, shard_id, attempt, on_task: execute_shard(
            run, shard_id, attempt, worker="peace", warm=warm, on_task=on_task
        )
    )
    assert drive(run, dispatcher, poll_seconds=0.0) == Stop("finished")
    return lasting(run)


def killed_at(
    marks: Path, *points: str, program: str, arguments: list[str], **environment: str
) -> subprocess.Popen[bytes]:
    """Start a program of ours that dies at these points, once at each."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.killed_at", program, *arguments],
        env={**os.environ, "FAULT_POINTS": ",".join(points), "FAULT_MARKS": str(marks), **environment},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=dying_with_parent(),
    )


def options_of(broker: Broker, cache: Path, name: str) -> list[str]:
    options = ["--queue", broker.queue, "--threads", "1", "--name", name, "--cache-dir", str(cache)]
    for field in dataclasses.fields(Timings):
        options += [f"--{field.name.replace('_', '-')}-seconds", str(getattr(broker.timings, field.name))]
    return options


def test_workers_killed_at_every_point_lose_and_double_nothing(
    broker: Broker,
    start_worker: StartWorker,
    staged: RunDirectory,
    undisturbed: pd.DataFrame,
    marks: Path,
    own_settings: Path,
) -> None:
    submit(staged, broker)
    doomed = [
        killed_at(
            marks,
            point,
            program="worker",
            arguments=options_of(broker, own_settings / "cache", f"doomed-{number}"),
            NEUROSCAN_BROKER_URL=broker.url,
        )
        for number, point in enumerate(IN_A_WORKER)
    ]
    try:
        # Each dies in the shard that it was given first; so all are given one before the run is over.
        wait_for(lambda: any(marks.iterdir()), "a first death")
        start_worker()
        wait_for(lambda: broker.ended(staged.manifest.run_id), "the end of the run")
    finally:
        for process in doomed:
            process.kill()
            process.wait()
    reached = {path.name for path in marks.iterdir()}
    assert reached <= set(IN_A_WORKER)
    assert len(reached) >= 3, "several of them were hit before the others had finished the run"
    pd.testing.assert_frame_equal(lasting(staged), undisturbed, check_exact=True)


@pytest.mark.parametrize("point", IN_A_COORDINATOR)
def test_a_second_coordinator_killed_at_any_point_does_no_harm(
    point: str,
    broker: Broker,
    start_worker: StartWorker,
    staged: RunDirectory,
    undisturbed: pd.DataFrame,
    marks: Path,
) -> None:
    submit(staged, broker)
    # No worker is there yet, so that nobody else drives the run: the doomed one sends, and dies.
    arguments = [staged.location, broker.url, broker.queue]
    if "plan" in point:
        start_worker()
    doomed = killed_at(marks, point, program="driver", arguments=arguments)
    try:
        wait_for(
            lambda: any(marks.iterdir()) or broker.ended(staged.manifest.run_id), "the death, or the end"
        )
    finally:
        doomed.kill()
        doomed.wait()
    if "plan" not in point:
        assert [path.name for path in marks.iterdir()] == [point]
        start_worker()
    end = wait_for(lambda: broker.ended(staged.manifest.run_id), "the end of the run")
    assert end is not None
    assert end.state == "finished"
    pd.testing.assert_frame_equal(lasting(staged), undisturbed, check_exact=True)


def test_a_local_run_killed_at_every_point_goes_on_where_it_was(
    make_run: MakeRun, undisturbed: pd.DataFrame, marks: Path
) -> None:
    run = make_run("local", **STAGED)
    resume = ["resume", str(run.root), "--workers", "1"]
    for point in IN_A_LOCAL_RUN:
        if point.startswith("parts"):
            process = killed_at(marks, point, program="cli", arguments=["compact", str(run.root)])
        else:
            process = killed_at(marks, point, program="cli", arguments=resume)
        assert process.wait(120) == -signal.SIGKILL, point
        assert (marks / point).exists()
        if point == "new plan":  # all of the run is done before its parts are joined
            last = killed_at(marks, *IN_A_LOCAL_CHILD, program="cli", arguments=resume)
            assert last.wait(120) == 0
            assert all((marks / name).exists() for name in IN_A_LOCAL_CHILD)
            pd.testing.assert_frame_equal(lasting(run), undisturbed, check_exact=True)
    pd.testing.assert_frame_equal(lasting(run), undisturbed, check_exact=True)
    command = [sys.executable, "-m", "neuroscan_farm", "compact", str(run.root)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert run.parts.look().loose == 0
    pd.testing.assert_frame_equal(lasting(run), undisturbed, check_exact=True)


def test_every_point_is_tried() -> None:
    tried = {*IN_A_WORKER, *IN_A_COORDINATOR, *IN_A_LOCAL_RUN, *IN_A_LOCAL_CHILD}
    assert tried >= set(POINTS) - {"death recorded"}
