"""What an operator does to a farm, on real workers and a real Redis: drain, confine, map, watch over, take away."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
from celery import Celery
from typer.testing import CliRunner

from neuroscan_farm.cli.main import app as cli
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import ORDERS_PER_WORKER, make_app, send_order, submit
from neuroscan_farm.dispatch.farm_records import Presence
from neuroscan_farm.dispatch.redis_server import RedisServer
from neuroscan_farm.errors import BrokerError, RequestError
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.dispatch.tls import TlsProxy
from tests.farm_fixtures import StartWorker, at_work, ended, entry_of, order_of, wait_for
from tests.tiny_models import make_tiny
from workers.hung import is_gone


@pytest.fixture
def hands_off(broker: Broker) -> Broker:
    """The farm's broker as one sees it who keeps the leases to himself, so that no reconciler acts."""
    return Broker(
        broker.url, queue=broker.queue, timings=dataclasses.replace(broker.timings, lease_ttl=600.0)
    )


def drain(broker: Broker, *arguments: str) -> None:
    result = CliRunner().invoke(
        cli,
        ["drain", *arguments],
        env={"NEUROSCAN_BROKER_URL": broker.url, "NEUROSCAN_QUEUE": broker.queue},
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output


def test_a_drained_worker_finishes_its_shard_and_leaves_with_success(
    broker: Broker, start_worker: StartWorker, long_run: RunDirectory
) -> None:
    process = start_worker("--workers", "2", "--name", "pair")
    submit(long_run, broker)
    hit = at_work(broker, long_run)
    drain(broker, hit.worker)
    wait_for(lambda: hit.worker not in {w.name for w in broker.present()}, "the drained worker gone")
    assert all(record.worker != hit.worker for record in broker.running(long_run.manifest.run_id))
    shard = long_run.shard(hit.shard_id)
    assert shard is not None
    assert long_run.parts.look().done.issuperset(task.task_id for task in shard.tasks), (
        "it finished its shard"
    )
    assert ended(broker, long_run).state == "finished", "the other one goes on"
    assert process.poll() is None
    [other] = broker.present()
    assert other.name != hit.worker
    drain(broker, other.name[:-1])
    assert process.wait(60) == 0, "nothing starts a drained worker anew"
    assert not long_run.attempts.all()


def test_draining_is_taken_back_while_the_worker_is_there(
    broker: Broker, start_worker: StartWorker, long_run: RunDirectory
) -> None:
    process = start_worker()
    submit(long_run, broker)
    hit = at_work(broker, long_run)
    os.kill(hit.pid, signal.SIGSTOP)
    try:
        drain(broker, "w")
        wait_for(lambda: [w.state for w in broker.present()] == ["draining"], "the worker draining")
        drain(broker, "w1", "--undo")
        wait_for(lambda: [w.state for w in broker.present()] == ["ready"], "the worker ready again")
    finally:
        os.kill(hit.pid, signal.SIGCONT)
    assert ended(broker, long_run).state == "finished"
    assert process.poll() is None


def test_who_is_to_be_drained_must_be_clear(broker: Broker, own_settings: Path) -> None:
    env = {"NEUROSCAN_BROKER_URL": broker.url, "NEUROSCAN_QUEUE": broker.queue}
    for name in ("gpu-1", "gpu-2"):
        broker.show_presence(Presence(name, "host", 1, "all visible", "ready", 1.0))
    with pytest.raises(RequestError, match="not clear: gpu-1, gpu-2"):
        CliRunner().invoke(cli, ["drain", "gpu"], env=env, catch_exceptions=False)
    with pytest.raises(BrokerError, match="no such worker on this farm; there are: gpu-1, gpu-2"):
        CliRunner().invoke(cli, ["drain", "cpu"], env=env, catch_exceptions=False)
    assert broker.wanted_drained("gpu-1") is None


def test_a_run_that_one_worker_refuses_is_done_by_another_that_finds_it_by_its_path_map(
    broker: Broker, start_worker: StartWorker, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run("there", executor="celery")
    here = Path(run.location).parent
    entry = dataclasses.replace(entry_of(run), location="/mnt/sweeps/there")
    (tmp_path / "other-root").mkdir()
    start_worker(NEUROSCAN_ROOTS=str(tmp_path / "other-root"))
    broker.register(run.manifest.run_id, entry)
    wait_for(broker.present, "the first worker")
    maps = {"NEUROSCAN_ROOTS": str(here), "NEUROSCAN_PATH_MAP": f"/mnt/sweeps={here}"}
    start_worker("--coordinator", "--name", "c1", **maps)
    start_worker(**maps)  # at once: it needs a while to come, and a run that all live workers refuse ends
    refusals = wait_for(lambda: broker.refusals(run.manifest.run_id), "the refusal")
    assert "outside of the roots" in refusals["w1"].error
    assert ended(broker, run).state == "finished"
    assert set(run.parts.read(["worker"])["worker"].to_pylist()) == {"w3"}


def test_an_urgent_run_of_another_model_overtakes_at_the_next_shard(
    broker: Broker, start_worker: StartWorker, long_run: RunDirectory, make_run: MakeRun, tmp_path: Path
) -> None:
    urgent = make_run("urgent", executor="celery", model=str(make_tiny("qwen2", tmp_path / "other")))
    urgent.set_wanted(priority=9)
    start_worker()
    submit(long_run, broker)
    first = at_work(broker, long_run)
    submit(urgent, broker)
    wait_for(lambda: urgent.manifest.run_id in broker.queued(), "the urgent orders")
    assert ended(broker, urgent).state == "finished"
    assert broker.ended(long_run.manifest.run_id) is None, "the other run had three shards to do"
    shard = long_run.shard(first.shard_id)
    assert shard is not None
    done = long_run.parts.look().done
    assert done.issuperset(task.task_id for task in shard.tasks), "what was in hand was finished"
    assert ended(broker, long_run).state == "finished"


def test_a_coordinator_alone_sends_orders_and_leaves_when_told(
    broker: Broker, start_worker: StartWorker, make_run: MakeRun, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(executor="celery")
    submit(run, broker)
    pair = [start_worker("--coordinator", "--name", name) for name in ("c1", "c2")]
    wait_for(lambda: len(broker.queued().get(run.manifest.run_id, ())) == ORDERS_PER_WORKER, "the orders")
    waiting = broker.queued()[run.manifest.run_id]
    assert broker.present() == [], "a coordinator is no worker"
    said = ""

    def ready() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "coordinator c1 is ready" in said and "coordinator c2 is ready" in said

    wait_for(ready, "the coordinators' word")
    for process in pair:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert broker.queued()[run.manifest.run_id] == waiting
    worker = start_worker()
    assert ended(broker, run).state == "finished"
    assert worker.poll() is None
    assert broker.queued() == {}


def test_a_worker_whose_child_is_hung_replaces_it_and_the_run_goes_on(
    broker: Broker, hands_off: Broker, start_worker: StartWorker, long_run: RunDirectory
) -> None:
    worker = start_worker()
    wait_for(broker.present, "the worker")
    hands_off.take_lease(long_run.manifest.run_id, "test")
    submit(long_run, broker)
    app: Celery = make_app(broker.url, broker.queue)
    send_order(app, broker.queue, order_of(long_run, limit_seconds=12.0))
    hit = at_work(broker, long_run)
    os.kill(hit.pid, signal.SIGSTOP)
    [(_, report)] = wait_for(lambda: broker.reports(long_run.manifest.run_id), "the death")
    assert "hung: no progress for 12 s" in report.error
    assert report.task_id is not None
    assert is_gone(hit.pid)
    hands_off.end_lease(long_run.manifest.run_id, "test")
    assert ended(broker, long_run).state == "finished"
    assert worker.poll() is None
    assert [attempt.kind for attempt in long_run.attempts.all()] == ["died"]


def test_a_frozen_worker_that_thaws_finds_its_shard_gone_and_does_no_harm(
    broker: Broker, start_worker: StartWorker, long_run: RunDirectory
) -> None:
    start_worker()
    submit(long_run, broker)
    hit = at_work(broker, long_run)
    [main] = [worker.pid for worker in broker.present()]
    for pid in (hit.pid, main):
        os.kill(pid, signal.SIGSTOP)
    try:
        start_worker()
        died = wait_for(long_run.attempts.all, "the death on record")
        at_work(broker, long_run, "w2")
    finally:
        for pid in (hit.pid, main):
            os.kill(pid, signal.SIGCONT)
    assert ended(broker, long_run).state == "finished"
    assert [(attempt.kind, attempt.worker) for attempt in died] == [("died", "w1")]
    assert len(long_run.attempts.all()) == 1, "it is not reported again by whoever thawed"
    rows = long_run.parts.read(["task_id", "probe", "sample_id"]).to_pandas()
    assert not rows.duplicated().any()
    wait_for(lambda: {worker.name for worker in broker.present()} == {"w1", "w2"}, "both workers there")


def test_no_secret_is_in_any_output_message_or_process_list_of_a_run_over_tls(
    start_worker: StartWorker,
    make_run: MakeRun,
    broker: Broker,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    secret = "geheim-4711"
    run = make_run(executor="celery")
    with RedisServer(password=secret) as server, TlsProxy(server.socket, tmp_path) as proxy:
        url = proxy.url(secret)
        own = Broker(url, queue=broker.queue, timings=broker.timings)
        submit(run, own)
        start_worker("--log-level", "DEBUG", "--workers", "2", "--name", "pair", url=url)
        start_worker("--log-level", "DEBUG", "--coordinator", "--name", "c1", url=url)
        told = ""

        def heard(words: str) -> bool:
            nonlocal told
            said = capfd.readouterr()
            told += said.err + said.out
            return words in told

        wait_for(lambda: len(own.present()) == 2, "two workers")
        shown = "".join(
            path.read_text(errors="replace")
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if os.access(path, os.R_OK) and path.parent.is_dir()
        )
        assert ended(own, run).state == "finished"
        wrong = start_worker("--log-level", "DEBUG", url=proxy.url(secret, proxy.wrong_ca))
        assert wrong.wait(60) == 4
        denied = start_worker("--log-level", "DEBUG", url=proxy.url("falsch-4712"))
        assert denied.wait(60) == 4
        server.stop()  # workers complain of the broker that went away
        wait_for(lambda: heard("waits for the broker"), "the complaint")
        own.close()
    kept = "".join(
        path.read_text(errors="replace") for path in Path(run.location).rglob("*") if path.is_file()
    )
    assert "is ready" in told
    assert "certificate is not trusted" in told
    assert "refuses us" in told
    for text in (told, shown, kept):
        assert secret not in text
        assert "falsch-4712" not in text
