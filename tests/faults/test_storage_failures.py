"""A disk that is full, a store that is read-only, a broker that forgot everything: the farm goes on by itself."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import redis

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_url import client_url
from neuroscan_farm.dispatch.celery_queue import submit
from neuroscan_farm.engine.shard import execute_shard
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.farm_fixtures import StartWorker, ended, lasting, wait_for


@pytest.fixture
def expected(make_run: MakeRun, warm: object) -> pd.DataFrame:
    from neuroscan_farm.engine.warm import WarmModel

    assert isinstance(warm, WarmModel)
    run = make_run("expected")
    for shard in run.shards():
        execute_shard(run, shard.shard_id, 1, worker="peace", warm=warm)
    return lasting(run)


def with_small_files(most_bytes: int) -> Callable[[], None]:
    """What a child does first: no file of it may grow beyond so many bytes, as if the disk were full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))


def test_a_local_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    make_run: MakeRun, expected: pd.DataFrame, own_settings: Path
) -> None:
    run = make_run()
    command = [sys.executable, "-m", "neuroscan_farm", "resume", str(run.root)]
    full = subprocess.run(
        command, preexec_fn=with_small_files(4000), capture_output=True, text=True, check=False
    )
    assert full.returncode == 1
    assert "full" in full.stderr
    assert "Traceback" not in full.stderr
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    pd.testing.assert_frame_equal(lasting(run), expected, check_exact=True)


def test_a_farm_whose_store_is_away_for_a_while_goes_on_by_itself(
    broker: Broker, start_worker: StartWorker, make_run: MakeRun, expected: pd.DataFrame
) -> None:
    run = make_run(executor="celery")
    start_worker()
    (run.root / "parts").write_text(
        "a file where the folder of parts should be, as a store that lost its mount"
    )
    submit(run, broker)
    refusal = wait_for(lambda: broker.refusals(run.manifest.run_id), "a worker that cannot write")
    assert all(one.passing for one in refusal.values())
    assert broker.ended(run.manifest.run_id) is None
    (run.root / "parts").unlink()
    assert ended(broker, run).state == "finished"
    pd.testing.assert_frame_equal(lasting(run), expected, check_exact=True)
    assert not run.attempts.all()


def test_a_coordinator_takes_up_the_runs_that_a_wiped_broker_has_forgotten(
    broker: Broker,
    start_worker: StartWorker,
    make_run: MakeRun,
    expected: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run(executor="celery")
    other = make_run("cancelled", executor="celery", parameters={"max_block": 2})
    local = make_run("local", parameters={"max_block": 3})
    submit(run, broker)
    submit(other, broker)
    other.set_wanted("cancelled")
    client = redis.Redis.from_url(client_url(broker.url))
    client.flushall()  # and nobody lives who knew
    client.close()
    assert broker.runs() == {}
    monkeypatch.setenv("NEUROSCAN_RUNS_DIR", str(run.root.parent))
    start_worker("--coordinator")
    wait_for(broker.runs, "the run registered anew")
    assert set(broker.runs()) == {run.manifest.run_id}
    start_worker()
    assert ended(broker, run).state == "finished"
    pd.testing.assert_frame_equal(lasting(run), expected, check_exact=True)
    assert local.parts.look().done == other.parts.look().done == frozenset()


def test_a_worker_with_another_version_of_the_model_leaves_the_run_to_others(
    broker: Broker, start_worker: StartWorker, make_run: MakeRun, tiny_llama: Path, tmp_path: Path
) -> None:
    from tests.tiny_models import make_tiny

    run = make_run(executor="celery")
    wrong = make_tiny("llama", tmp_path / "another" / tiny_llama.name, seed=3)
    start_worker("--name", "outdated", NEUROSCAN_PATH_MAP=f"{tiny_llama}={wrong}")
    submit(run, broker)
    refusals = wait_for(lambda: broker.refusals(run.manifest.run_id), "the refusal of the outdated worker")
    assert "not that of the run" in refusals["outdated"].error
    start_worker("--name", "right")
    assert ended(broker, run).state == "finished"
    assert set(run.parts.read()["worker"].to_pylist()) == {"right"}


def test_a_run_directory_that_cannot_be_written_is_said_at_once(
    make_run: MakeRun, own_settings: Path
) -> None:
    run: RunDirectory = make_run()
    (run.root / "attempts").write_text("in the way")
    (run.root / "parts").write_text("in the way")
    command = [sys.executable, "-m", "neuroscan_farm", "resume", str(run.root)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "parts" in ended.stderr
