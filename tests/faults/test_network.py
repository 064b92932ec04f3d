"""A worker whose network is cut in the middle of a shard, and heals: its shard is measured elsewhere, and nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import submit
from neuroscan_farm.dispatch.redis_server import RedisServer
from neuroscan_farm.engine.shard import execute_shard
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.farm_fixtures import StartWorker, at_work, lasting, long_request, wait_for
from tests.faults.network import Relay


def test_a_worker_that_is_cut_off_and_comes_back_does_no_harm(
    redis_server: RedisServer,
    broker: Broker,
    start_worker: StartWorker,
    long_run: RunDirectory,
    make_run: MakeRun,
    long_probe: Path,
    warm: Any,
) -> None:
    expected = make_run("expected", **long_request(long_probe))
    for shard in expected.shards():
        execute_shard(expected, shard.shard_id, 1, worker="peace", warm=warm)
    run_id = long_run.manifest.run_id
    with Relay(redis_server.socket) as network:
        far = start_worker("--name", "far", url=network.url)
        submit(long_run, broker)
        hit = at_work(broker, long_run, worker="far")
        network.cut()
        start_worker("--name", "near")
        wait_for(
            lambda: (
                hit.shard_id not in broker.snapshot([run_id]).states[run_id].claimed
                or any(r.worker == "near" for r in broker.running(run_id) if r.shard_id == hit.shard_id)
            ),
            "the claim of the worker that is cut off run out",
        )
        network.heal()
        wait_for(lambda: any(worker.name == "far" for worker in broker.workers()), "the worker back")
        ended = wait_for(lambda: broker.ended(run_id), "the end of the run")
        assert ended is not None
        assert ended.state == "finished"
        assert far.poll() is None, "it goes on working"
    rows: pd.DataFrame = lasting(long_run)
    pd.testing.assert_frame_equal(rows, lasting(expected), check_exact=True)
    assert not rows.duplicated(["task_id", "probe", "sample_id"]).any()
