"""One suite over the three ways to run a shard: in this process, by the local executor, by Celery on a real Redis.

Each test says what any of them must keep: every row there once, equal to those of an undisturbed run, whatever died.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from neuroscan_farm.analyses import read_request
from neuroscan_farm.coordinator.decide import Stop
from neuroscan_farm.coordinator.drive import Driver, drive
from neuroscan_farm.coordinator.prepare import make_plan, prepare, wake
from neuroscan_farm.dispatch.base import Dispatcher, TaskStarted
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import CeleryDispatcher, make_app, submit
from neuroscan_farm.dispatch.devices import DeviceSet, device_sets
from neuroscan_farm.dispatch.in_process import InProcess
from neuroscan_farm.dispatch.local import LocalExecutor
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.engine.shard import execute_shard
from neuroscan_farm.errors import NeuroscanError
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.farm_fixtures import StartWorker, at_work, lasting, wait_for

WAYS = ["in_process", "local", "celery"]


@dataclass
class Way:
    """One way to run shards."""

    name: str
    dispatcher: Callable[[RunDirectory], Dispatcher]
    broker: Broker | None = None

    def drive(self, run: RunDirectory) -> Stop:
        if self.broker is not None:  # the farm's own reconcilers drive
            submit(run, self.broker)
            ended = wait_for(
                lambda: self.broker and self.broker.ended(run.manifest.run_id), "the end of the run"
            )
            assert ended
            return Stop(ended.state, ended.reason)
        dispatcher = self.dispatcher(run)
        try:
            return drive(run, dispatcher, poll_seconds=0.05)
        except NeuroscanError as error:
            return Stop("refused", str(error))
        finally:
            dispatcher.close()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, own_settings: Path, warm: Any) -> Iterator[Way]:
    """Each of the three, ready to work."""

    def in_process(run: RunDirectory) -> Dispatcher:
        return InProcess(
            lambda run, shard_id, attempt, on_task: execute_shard(
                run, shard_id, attempt, worker="in-process", warm=warm, on_task=on_task
            )
        )

    def local(run: RunDirectory) -> Dispatcher:
        sets = device_sets([], workers=1, visible=None, cores=1)
        return LocalExecutor(sets, cache_dir=own_settings / "cache", cache_bytes=10**9)

    if request.param == "celery":
        broker: Broker = request.getfixturevalue("broker")
        start_worker: StartWorker = request.getfixturevalue("start_worker")
        start_worker()
        app = make_app(broker.url, broker.queue)

        def celery(run: RunDirectory) -> Dispatcher:
            submit(run, broker)
            return CeleryDispatcher(run, broker, app)

        yield Way("celery", celery, broker)
    else:
        yield Way(request.param, {"in_process": in_process, "local": local}[request.param])


@pytest.fixture
def undisturbed(make_run: MakeRun, warm: Any) -> pd.DataFrame:
    """The rows of the standard run as this process measures them."""
    run = make_run("undisturbed")
    for shard in run.shards():
        execute_shard(run, shard.shard_id, 1, worker="test", warm=warm)
    return lasting(run)


def test_every_row_is_there_once_and_equal_to_those_of_the_other_ways(
    way: Way, make_run: MakeRun, undisturbed: pd.DataFrame
) -> None:
    run = make_run()
    assert way.drive(run) == Stop("finished")
    rows = lasting(run)
    pd.testing.assert_frame_equal(rows, undisturbed, check_exact=True)
    assert len(rows) == 22 * 8
    assert not rows.duplicated(["task_id", "probe", "sample_id"]).any()


def test_driving_a_finished_run_again_does_nothing(way: Way, make_run: MakeRun) -> None:
    run = make_run(parameters={"max_block": 1})
    way.drive(run)
    before = {path: path.stat().st_mtime_ns for path in (run.root / "parts").iterdir()}
    assert way.drive(run) == Stop("finished")
    assert {path: path.stat().st_mtime_ns for path in (run.root / "parts").iterdir()} == before


def test_a_shard_delivered_twice_is_measured_once(way: Way, make_run: MakeRun) -> None:
    run = make_run(parameters={"blocks": ["2,4"]})
    (shard,) = run.shards()
    order = ShardOrder(
        run_id=run.manifest.run_id,
        location=run.location,
        shard_id=shard.shard_id,
        attempt=1,
        model=run.manifest.model_fingerprint,
        priority=5,
        limit_seconds=600.0,
    )
    dispatcher = way.dispatcher(run)
    try:
        for _ in range(2):
            wait_for(lambda: (dispatcher.poll(0.05), dispatcher.room())[1], "room for an order")
            dispatcher.send(order)
        wait_for(lambda: (dispatcher.poll(0.05), run.parts.look().done)[1], "the part")
        wait_for(lambda: (dispatcher.poll(0.05), not dispatcher.in_flight())[1], "the end of the orders")
    finally:
        dispatcher.close()
    assert len(run.parts.look().timings) == 1, "it was measured once"
    assert run.parts.read().num_rows == 2 * 8
    assert not run.attempts.all()


def test_a_truncated_part_and_a_foreign_one_are_measured_again(
    way: Way, make_run: MakeRun, undisturbed: pd.DataFrame
) -> None:
    run = make_run()
    way.drive(run)
    first, second, *_ = sorted((run.root / "parts").glob("*.parquet"))
    data = first.read_bytes()
    first.write_bytes(data[: len(data) // 2])
    second.write_bytes(data)
    assert way.drive(run) == Stop("finished")
    pd.testing.assert_frame_equal(lasting(run), undisturbed, check_exact=True)


def test_a_cancelled_run_stops_and_resumes(way: Way, make_run: MakeRun, undisturbed: pd.DataFrame) -> None:
    run = make_run()
    run.set_wanted("cancelled")
    assert way.drive(run) == Stop("cancelled")
    assert len(lasting(run)) < len(undisturbed)
    wake(run)
    assert way.drive(run) == Stop("finished")
    pd.testing.assert_frame_equal(lasting(run), undisturbed, check_exact=True)


def test_a_run_that_no_worker_can_work_on_ends_with_the_reason_and_goes_on_after_the_mend(
    way: Way, make_run: MakeRun, tiny_llama: Path, tmp_path: Path
) -> None:
    import shutil

    model = shutil.copytree(tiny_llama, tmp_path / "model")
    run = make_run(model=str(model), parameters={"blocks": ["2,4"]})
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-100])
    end = way.drive(run)
    assert end.state == "refused"
    assert "not that of the run" in str(end.reason)
    (model / "model.safetensors").write_bytes(weights)
    wake(run)
    assert way.drive(run) == Stop("finished")


def test_two_stages_refine_around_the_best_and_resume_like_any_run(way: Way, make_run: MakeRun) -> None:
    parameters = {"sparse_first": True, "sparse_step": 2, "refine_top": 1}
    whole = make_run("whole", parameters=parameters)
    assert way.drive(whole) == Stop("finished")
    assert {task.stage for shard in whole.shards() for task in shard.tasks} == {0, 1}
    resumed = make_run("resumed", parameters=parameters)
    dispatcher = way.dispatcher(resumed)
    try:
        driver = Driver(resumed, dispatcher)
        wait_for(lambda: (driver.step(0.05), driver.tasks_done)[1], "a first part")
    finally:
        dispatcher.close()
    assert way.drive(resumed) == Stop("finished")
    pd.testing.assert_frame_equal(lasting(resumed), lasting(whole), check_exact=True)


@pytest.mark.parametrize("way", ["local", "celery"], indirect=True)
def test_a_worker_killed_in_the_middle_of_a_shard_loses_nothing_and_doubles_nothing(
    way: Way, make_run: MakeRun, long_probe: Path, warm: Any, request: pytest.FixtureRequest
) -> None:
    changes: dict[str, Any] = {
        "probes": [str(long_probe)],
        "engine": {"batch_size": 4, "lane": "general"},
        "parameters": {"max_block": 1},
    }
    expected = make_run("expected", **changes)
    for shard in expected.shards():
        execute_shard(expected, shard.shard_id, 1, worker="test", warm=warm)
    run = make_run("killed", **changes)
    dispatcher = way.dispatcher(run)
    try:
        driver = Driver(run, dispatcher)
        if isinstance(dispatcher, LocalExecutor):
            wait_for(lambda: any(isinstance(event, TaskStarted) for event in driver.step(0.05)[1]), "a task")
            (pid,) = dispatcher.process_ids().values()
        else:
            driver.step(0.0)
            pid = at_work(request.getfixturevalue("broker"), run).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        end = wait_for(lambda: driver.step(0.05)[0], "the end of the run")
    finally:
        dispatcher.close()
    assert end == Stop("finished")
    pd.testing.assert_frame_equal(lasting(run), lasting(expected), check_exact=True)
    assert [attempt.kind for attempt in run.attempts.all()] == ["died"]


_DRIVERS = {
    "in_process": """
from neuroscan_farm.dispatch.in_process import InProcess
from neuroscan_farm.engine.shard import execute_shard
from neuroscan_farm.engine.warm import WarmModel
warm = WarmModel(threads=1, cache_dir=cache, cache_bytes=10**9)
dispatcher = InProcess(lambda run, shard, attempt, on_task: execute_shard(
    run, shard, attempt, worker="in-process", warm=warm, on_task=on_task))
""",
    "local": """
from neuroscan_farm.dispatch.devices import DeviceSet, device_sets
from neuroscan_farm.dispatch.local import LocalExecutor
sets = device_sets([], workers=1, visible=None, cores=1)
dispatcher = LocalExecutor(sets, cache_dir=cache, cache_bytes=10**9)
""",
    "celery": """
import sys
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import CeleryDispatcher, make_app, submit
broker = Broker(sys.argv[3], queue=sys.argv[4])
submit(run, broker)
dispatcher = CeleryDispatcher(run, broker, make_app(sys.argv[3], sys.argv[4]))
""",
}


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_a_coordinator_killed_in_mid_run_loses_nothing_and_leaves_no_process_behind(
    way: Way,
    make_run: MakeRun,
    undisturbed: pd.DataFrame,
    own_settings: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    run = make_run(shard_size=1)
    script = tmp_path / "coordinator.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from neuroscan_farm.coordinator.drive import drive\n"
        "from neuroscan_farm.store.run_directory import RunDirectory\n"
        "if __name__ == '__main__':\n"
        "    run, cache = RunDirectory.open(Path(sys.argv[1])), Path(sys.argv[2])\n"
        + "".join(f"    {line}\n" for line in _DRIVERS[way.name].strip().splitlines())
        + "    drive(run, dispatcher, poll_seconds=0.01)\n"
    )
    arguments = [str(run.root), str(own_settings / "cache")]
    if way.name == "celery":
        broker: Broker = request.getfixturevalue("broker")
        arguments += [broker.url, broker.queue]
    process = subprocess.Popen([sys.executable, str(script), *arguments])
    try:
        wait_for(lambda: any((run.root / "parts").glob("s*.parquet")), "a first part")
    finally:
        process.kill()
        process.wait()
    assert way.drive(run) == Stop("finished")
    packing = ["run_id", "shard_id"]
    rows = lasting(run).drop(columns=packing)
    pd.testing.assert_frame_equal(rows, undisturbed.drop(columns=packing), check_exact=True)


def test_rows_do_not_tell_how_many_threads_a_worker_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MKL_CBWR")  # which these tests have set for themselves; a worker sets its own
    # The demo model on demo-json: products of a shape that MKL splits by the number of threads unless it is told not to.
    tables = []
    for threads in (1, 2):
        data = {
            "analysis": "duplication",
            "model": "demo",
            "probes": ["demo-json"],
            "parameters": {"step": 4},
        }
        run = prepare(
            make_plan(read_request(data, where="test")), tmp_path / f"{threads}-threads", executor="local"
        )
        sets = [DeviceSet(None, (), threads)]
        executor = LocalExecutor(sets, cache_dir=tmp_path / f"cache-{threads}", cache_bytes=10**9)
        try:
            assert drive(run, executor) == Stop("finished")
        finally:
            executor.close()
        tables.append(lasting(run))
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
