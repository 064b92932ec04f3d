"""Real Celery workers on a real Redis: whatever dies, the rows are those of an undisturbed run, each once."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import redis

from neuroscan_farm.coordinator.drive import Driver
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_orders import lists_of
from neuroscan_farm.dispatch.broker_url import client_url
from neuroscan_farm.dispatch.celery_queue import CeleryDispatcher, make_app, queue_of, submit
from neuroscan_farm.dispatch.farm_records import Ended
from neuroscan_farm.dispatch.redis_server import RedisServer
from neuroscan_farm.dispatch.wire import model_queue
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.farm_fixtures import StartWorker, at_work, ended, lasting, long_request, wait_for
from workers.hung import is_gone


@pytest.fixture
def undisturbed(make_run: MakeRun, long_probe: Path, warm: object) -> pd.DataFrame:
    """The rows of the long run as this process measures them."""
    from neuroscan_farm.engine.shard import execute_shard
    from neuroscan_farm.engine.warm import WarmModel

    assert isinstance(warm, WarmModel)
    run = make_run("undisturbed", **long_request(long_probe))
    for shard in run.shards():
        execute_shard(run, shard.shard_id, 1, worker="test", warm=warm)
    return lasting(run)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Hold a process still, so that what is done to the farm meanwhile happens in the middle of its task."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_two_workers_measure_a_submitted_run_and_agree_with_this_process(
    broker: Broker, start_worker: StartWorker, long_run: RunDirectory, undisturbed: pd.DataFrame
) -> None:
    start_worker("--workers", "2", "--name", "pair")
    wait_for(lambda: len(broker.workers()) == 2, "two workers")
    submit(long_run, broker)
    busy = at_work(broker, long_run)
    assert {worker.name for worker in broker.workers()} == {"pair-1", "pair-2"}
    assert busy.worker in {worker.name for worker in broker.workers() if worker.shard_id}

    def described() -> bool:
        worker = next(worker for worker in broker.workers() if worker.name == busy.worker)
        fingerprint = long_run.manifest.model_fingerprint[:12]
        return worker.model == f"{long_run.manifest.model_name} ({fingerprint})" and bool(worker.memory_mb)

    wait_for(described, "the model and the memory of the worker")
    assert ended(broker, long_run) == Ended("finished", None, 0)
    pd.testing.assert_frame_equal(lasting(long_run), undisturbed)
    assert not long_run.attempts.all()
    assert broker.runs() == {}


def test_a_killed_child_is_replaced_and_nothing_is_lost_or_doubled(
    broker: Broker, start_worker: StartWorker, long_run: RunDirectory, undisturbed: pd.DataFrame
) -> None:
    worker = start_worker()
    submit(long_run, broker)
    hit = at_work(broker, long_run)
    os.kill(hit.pid, signal.SIGKILL)
    assert ended(broker, long_run).state == "finished"
    assert worker.poll() is None, "the worker goes on with a fresh child"
    pd.testing.assert_frame_equal(lasting(long_run), undisturbed)
    deaths = long_run.attempts.all()
    assert [(death.shard_id, death.kind) for death in deaths] == [(hit.shard_id, "died")]
    assert deaths[0].task_id is not None


def test_a_killed_worker_takes_its_child_along_and_its_supervisor_starts_another(
    broker: Broker, start_worker: StartWorker, long_run: RunDirectory, undisturbed: pd.DataFrame
) -> None:
    supervisor = start_worker("--workers", "2", "--name", "pair")
    submit(long_run, broker)
    hit = at_work(broker, long_run)
    main = next(worker.pid for worker in broker.workers() if worker.name == hit.worker)
    os.kill(main, signal.SIGKILL)
    wait_for(lambda: is_gone(hit.pid), "the end of the killed worker's child")
    assert ended(broker, long_run).state == "finished"
    pd.testing.assert_frame_equal(lasting(long_run), undisturbed)
    assert [attempt.kind for attempt in long_run.attempts.all()] == ["died"]
    wait_for(lambda: len({w.pid for w in broker.workers()} - {main}) == 2, "another worker in its place")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 0


def test_a_wiped_broker_costs_nothing_but_sending_again(
    broker: Broker, start_worker: StartWorker, long_run: RunDirectory, undisturbed: pd.DataFrame
) -> None:
    start_worker()
    submit(long_run, broker)
    hit = at_work(broker, long_run)
    with frozen(hit.pid):
        client = redis.Redis.from_url(client_url(broker.url))
        client.flushall()
        client.close()
        wait_for(broker.runs, "the run registered anew")
    assert ended(broker, long_run).state == "finished"
    pd.testing.assert_frame_equal(lasting(long_run), undisturbed)
    assert not long_run.attempts.all(), "nobody died"


def test_a_broker_that_restarts_empty_is_waited_for(
    make_run: MakeRun, long_run: RunDirectory, start_worker: StartWorker, tmp_path: Path, broker: Broker
) -> None:
    server = RedisServer(folder=tmp_path / "redis").start()
    own = Broker(server.url, queue=broker.queue, timings=broker.timings)
    try:
        worker = start_worker(url=server.url)
        submit(long_run, own)
        at_work(own, long_run)
        server.stop()
        server.start()
        assert ended(own, long_run).state == "finished"
        assert worker.poll() is None
    finally:
        own.close()
        server.stop()


def test_lost_and_malformed_messages_do_not_stop_the_farm(
    broker: Broker, start_worker: StartWorker, make_run: MakeRun
) -> None:
    run = make_run(executor="celery")
    app = make_app(broker.url, broker.queue)
    submit(run, broker)
    Driver(run, CeleryDispatcher(run, broker, app)).step(0.0)
    client = redis.Redis.from_url(client_url(broker.url))
    name = model_queue(broker.queue, run.manifest.model_fingerprint)
    assert broker.queued()
    client.delete(*lists_of(name))  # as a kill -9 between two of Redis' commands loses them
    for where in ({}, {"queue": queue_of(name), "routing_key": name}):
        app.send_task("neuroscan.measure_shard", args=[{"version": 1, "run_dir": "/etc"}], **where)
        app.send_task("neuroscan.measure_shard", args=[{"version": 2, "location": "/etc"}], **where)
        app.send_task("neuroscan.measure_shard", args=[], **where)
        app.send_task("neuroscan.measure_shard", args=[1, 2], kwargs={"shell": "true"}, **where)
        app.send_task("os.system", args=["true"], **where)
        app.send_task("neuroscan.measure_shard", args=[{}], serializer="yaml", **where)
    for key in (broker.queue, name, lists_of(name)[4]):
        client.lpush(key, "no message at all", "[]", "{}", "null", '{"headers": 3, "body": []}', b"\xff")
    client.hset(f"{broker.queue}:runs", "no-run", "no entry")
    client.hset(f"{broker.queue}:running:{run.manifest.run_id}", "s", "no record")
    client.rpush(f"{broker.queue}:reports:{run.manifest.run_id}", "no report")
    client.close()
    worker = start_worker()
    assert ended(broker, run).state == "finished"
    assert worker.poll() is None
    wait_for(lambda: not broker.queued(), "an empty queue")


def test_a_worker_that_is_asked_to_leave_hands_its_shard_back(
    broker: Broker, start_worker: StartWorker, long_run: RunDirectory, undisturbed: pd.DataFrame
) -> None:
    worker = start_worker()
    submit(long_run, broker)
    hit = at_work(broker, long_run)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert broker.running(long_run.manifest.run_id) == []
    assert not long_run.parts.path(hit.shard_id).exists()
    assert broker.workers() == []
    start_worker()
    assert ended(broker, long_run).state == "finished"
    pd.testing.assert_frame_equal(lasting(long_run), undisturbed)
    assert not long_run.attempts.all(), "handing back is no death"


def test_a_worker_whose_grace_runs_out_still_records_no_death(
    broker: Broker, start_worker: StartWorker, long_run: RunDirectory
) -> None:
    worker = start_worker("--grace-seconds", "0.2")
    submit(long_run, broker)
    hit = at_work(broker, long_run)
    with frozen(hit.pid):
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 128 + signal.SIGTERM
    assert broker.running(long_run.manifest.run_id) == []
    assert broker.reports(long_run.manifest.run_id) == []


def test_a_run_that_no_worker_can_work_on_ends_refused_with_the_reason(
    broker: Broker, start_worker: StartWorker, make_run: MakeRun, tiny_llama: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    run = make_run(executor="celery", model=str(model))
    shutil.rmtree(model)
    start_worker()
    submit(run, broker)
    end = ended(broker, run)
    assert end.state == "refused"
    assert end.exit_code == 5
    assert "model" in (end.reason or "")
    assert {attempt.kind for attempt in run.attempts.all()} == {"refused"}


def test_a_cancelled_run_is_dropped(
    broker: Broker, start_worker: StartWorker, long_run: RunDirectory
) -> None:
    start_worker()
    submit(long_run, broker)
    at_work(broker, long_run)
    long_run.set_wanted("cancelled")
    assert ended(broker, long_run).state == "cancelled"
    wait_for(lambda: all(worker.shard_id is None for worker in broker.workers()), "an idle worker")
    assert not long_run.attempts.all()


def test_a_worker_without_a_broker_says_so_and_exits_with_4(
    start_worker: StartWorker, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start_worker(url="redis://:geheim@127.0.0.1:1/0").wait(60) == 4
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "out of reach" in said
    assert "neuroscan-farm up" in said
    assert "geheim" not in said
