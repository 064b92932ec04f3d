"""Numbers for Prometheus: what a scrape says of a real run while it goes on and after, and what it leaves out."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import neuroscan_farm
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import start_workers, submit
from neuroscan_farm.dispatch.farm_records import Ended
from neuroscan_farm.dispatch.redis_server import RedisServer
from neuroscan_farm.domain.tasks import Shard
from neuroscan_farm.errors import WorkerError
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.farm_fixtures import IMPATIENT, StartWorker, at_work, wait_for
from tests.paper_models import finish, paper_table, paper_timing
from workers.farm_watch import FarmSeen, FarmWatch, RunSeen
from workers.metrics import MetricsServer
from workers.numbers import NUMBERS, WorkerSeen, numbers_of_farm, numbers_of_worker
from workers.tally import COUNTS, Tally, counted

Scraped = dict[tuple[str, tuple[tuple[str, str], ...]], float]

RUN = RunSeen("r1", "running", "running", 40, 12, 1, 7, 2)
FARM = FarmSeen(True, 1, 2, 3, 4, (RUN,))
WORKER = WorkerSeen(dict.fromkeys(COUNTS, 2.0), 1, "tiny (0123)", True, None, 700)


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def scrape(port: int) -> Scraped:
    """What Prometheus would read."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(scraped: Scraped, name: str, /, **labels: str) -> float | None:
    return scraped.get((name, tuple(sorted(labels.items()))))


def try_scrape(port: int) -> Scraped:
    try:
        return scrape(port)
    except OSError:
        return {}


def test_names_are_as_prometheus_wants_them() -> None:
    assert len({number.name for number in NUMBERS}) == len(NUMBERS)
    for number in NUMBERS:
        assert number.name.startswith("neuroscan_")
        assert number.name.endswith("_total") == (number.kind == "counter")
        assert not number.name.endswith(("_ms", "_mb", "_count"))
        assert number.meaning[0].islower() or number.meaning[0].isdigit()


def test_everything_that_is_shown_is_in_the_reference_and_the_other_way_round() -> None:
    shown = numbers_of_farm(FARM) | numbers_of_worker(WORKER)
    assert {"neuroscan_info", *shown} == {number.name for number in NUMBERS}
    labels = {number.name: set(number.labels) for number in NUMBERS}
    for name, samples in shown.items():
        assert all(set(said) == labels[name] for said, _ in samples), name


def test_two_servers_of_one_process_share_nothing() -> None:
    first = MetricsServer(0, "127.0.0.1", name="a", machine="m", sources=[lambda: numbers_of_farm(FARM)])
    second = MetricsServer(0, "127.0.0.1", name="b", machine="m", sources=[])
    try:
        said = scrape(first.port)
        assert value(said, "neuroscan_info", name="a", host="m", version=neuroscan_farm.__version__) == 1
        assert value(said, "neuroscan_shards_missing") == 7
        assert value(said, "neuroscan_run_tasks", run="r1") == 40
        assert value(said, "process_resident_memory_bytes") or sys.platform != "linux"
        assert value(scrape(second.port), "neuroscan_shards_missing") is None
        with pytest.raises(WorkerError, match="give another NEUROSCAN_METRICS_PORT"):
            MetricsServer(first.port, "127.0.0.1", name="c", machine="m", sources=[])
    finally:
        first.close()
        second.close()
    assert try_scrape(first.port) == {}


def test_what_nobody_knows_is_left_out_and_is_not_zero() -> None:
    away = numbers_of_farm(FarmSeen(False, 1, None, None, None, (RUN,)))
    assert away["neuroscan_broker_up"] == [({}, 0)]
    for name in ("neuroscan_workers", "neuroscan_orders_queued", "neuroscan_shards_running"):
        assert away[name] == []
    assert away["neuroscan_shards_missing"] == [({}, 7)]
    fresh = numbers_of_worker(WorkerSeen(WORKER.counts, 0, None, False, None, None))
    for name in (
        "neuroscan_worker_model",
        "neuroscan_heartbeat_age_seconds",
        "neuroscan_child_resident_memory_bytes",
    ):
        assert fresh[name] == []


def test_runs_that_are_not_wanted_running_need_no_worker() -> None:
    paused = RunSeen("r2", "paused", "paused", 10, 0, 0, 5, 0)
    shown = numbers_of_farm(FarmSeen(True, 2, 0, 0, 0, (RUN, paused)))
    assert shown["neuroscan_shards_missing"] == [({}, 7)]
    assert ({"run": "r2"}, 5) in shown["neuroscan_run_shards_missing"]


def test_the_farm_is_looked_at_and_a_run_that_ended_is_forgotten(broker: Broker, make_run: MakeRun) -> None:
    run = make_run(executor="celery")
    submit(run, broker)
    shards = run.shards()
    watch = FarmWatch(broker, RunDirectory.open)
    watch.look()
    seen = watch.seen
    assert seen is not None
    assert (seen.reachable, seen.registered, seen.workers, seen.running) == (True, 1, 0, 0)
    assert [(one.run_id, one.shards_missing, one.wanted) for one in seen.runs] == [
        (run.manifest.run_id, len(shards), "running")
    ]
    finish(run, shards[:1])
    run.set_wanted("paused")
    watch.look()
    assert watch.seen is not None
    [one] = watch.seen.runs
    assert (one.shards_missing, one.tasks_finished) == (len(shards) - 1, len(shards[0].tasks))
    assert (one.state, one.wanted) == ("paused", "paused")
    broker.unregister(run.manifest.run_id, Ended("cancelled", None, 1))
    watch.look()
    assert watch.seen is not None
    assert watch.seen.runs == ()


def test_a_run_that_cannot_be_opened_here_and_a_broker_that_is_gone_stop_nothing(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(executor="celery")
    with RedisServer() as server:
        broker = Broker(server.url, queue="q", timings=IMPATIENT)
        submit(run, broker)
        watch = FarmWatch(broker, RunDirectory.open)
        watch.look()
        run.root.rename(tmp_path / "elsewhere")
        watch.look()
        assert watch.seen is not None
        assert (watch.seen.registered, watch.seen.runs) == (1, ())
        (tmp_path / "elsewhere").rename(run.root)
    watch.look()
    broker.close()
    assert (watch.seen.reachable, watch.seen.workers, watch.seen.registered) == (False, None, 1)
    assert [one.run_id for one in watch.seen.runs] == [run.manifest.run_id]


def test_a_tally_outlives_the_process_that_counts(tmp_path: Path) -> None:
    tally = Tally.create()
    try:
        child = Tally(tally.path)
        child.add(tasks=3, busy_seconds=1.5)
        del child
        Tally(tally.path).add(tasks=2, shards_left=1)
        assert tally.read() == dict.fromkeys(COUNTS, 0.0) | {
            "tasks": 5.0,
            "busy_seconds": 1.5,
            "shards_left": 1.0,
        }
    finally:
        tally.remove()
    assert not tally.path.exists()
    assert tally.read()["tasks"] == 5.0


@pytest.fixture
def tally() -> Iterator[Tally]:
    tally = Tally.create()
    yield tally
    tally.remove()


def test_parts_of_this_worker_are_counted_and_no_others(make_run: MakeRun, tally: Tally) -> None:
    run = make_run()
    first, second = run.shards()[:2]

    def write(shard: Shard, worker: str, started: float) -> None:
        timing = paper_timing(shard, started=started, worker=worker)
        run.parts.write(shard.shard_id, paper_table(run, shard, worker=worker), timing)

    write(second, "w", time.time() - 60)
    with counted(tally, run, worker="w", shard_id=first.shard_id):
        write(first, "w", time.time())
        write(second, "another", time.time())
    with pytest.raises(KeyError), counted(tally, run, worker="w", shard_id=second.shard_id):
        raise KeyError
    with counted(tally, run, worker="w", shard_id=first.shard_id):
        pass  # the rows were there already
    counts = tally.read()
    assert (counts["tasks"], counts["shards_finished"]) == (len(first.tasks), 1)


def test_a_real_run_is_told_while_it_goes_on_and_forgotten_when_it_is_over(
    broker: Broker, start_worker: StartWorker, long_run: RunDirectory
) -> None:
    run = long_run
    run_id, tasks, shards = run.manifest.run_id, len(run.planned().task_ids), len(run.shards())
    port, coordinator = free_port(), free_port()
    # A child that is held still must not be taken for dead.
    patient = ("--claim-ttl-seconds", "120")
    start_worker("--metrics-port", str(port), *patient)
    start_worker("--coordinator", "--metrics-port", str(coordinator), *patient)
    submit(run, broker)
    record = at_work(broker, run)
    os.kill(record.pid, signal.SIGSTOP)
    try:
        said = wait_for(
            lambda: (
                (found := try_scrape(coordinator))
                and value(found, "neuroscan_run_state", run=run_id, state="running") is not None
                and found
            ),
            "the run in the coordinator's numbers",
        )
        assert value(said, "neuroscan_broker_up") == 1
        assert value(said, "neuroscan_workers") == 1
        assert value(said, "neuroscan_run_tasks", run=run_id) == tasks
        assert 0 < (value(said, "neuroscan_shards_missing") or 0) <= shards
        assert value(said, "neuroscan_worker_busy") is None, "a coordinator measures nothing"
        wait_for(lambda: value(scrape(coordinator), "neuroscan_shards_running") == 1, "the shard in hand")
        of_worker = wait_for(
            lambda: (found := scrape(port)) and value(found, "neuroscan_worker_busy") == 1 and found,
            "the worker at work",
        )
        assert (value(of_worker, "neuroscan_heartbeat_age_seconds") or 0) < 60
        assert any(name == "neuroscan_worker_model" for name, _ in of_worker)
        assert (value(of_worker, "neuroscan_child_resident_memory_bytes") or 0) > 10_000_000
    finally:
        os.kill(record.pid, signal.SIGKILL)
    wait_for(lambda: value(scrape(port), "neuroscan_child_deaths_total") == 1, "the death of the child")
    wait_for(lambda: broker.ended(run_id), "the end of the run")
    said = wait_for(
        lambda: (found := scrape(port)) and value(found, "neuroscan_runs") == 0 and found,
        "the end of the run in the numbers",
    )
    assert value(said, "neuroscan_shards_missing") == 0
    assert not [labels for _, labels in said if ("run", run_id) in labels]
    timings = run.parts.look().timings
    assert value(said, "neuroscan_tasks_finished_total") == tasks
    assert value(said, "neuroscan_layer_evaluations_total") == sum(one.evaluations for one in timings)
    assert value(said, "neuroscan_busy_seconds_total") == pytest.approx(sum(one.seconds for one in timings))
    assert (value(said, "neuroscan_shards_finished_total") or 0) >= 1
    assert value(said, "neuroscan_shards_failed_total") == 0


def test_several_workers_take_the_ports_after_it_and_answer_while_the_broker_is_away(
    own_settings: Path,
) -> None:
    port = free_port()
    with RedisServer() as server:
        command = [sys.executable, "-m", "workers", "--workers", "2", "--threads", "2", "--name", "w"]
        process = start_workers([*command, "--metrics-port", str(port)], server.url)
        try:
            for number in (1, 2):
                said = wait_for(lambda number=number: try_scrape(port + number - 1), "a worker's numbers")  # type: ignore[misc]
                info = {labels for name, labels in said if name == "neuroscan_info"}
                assert [dict(labels)["name"] for labels in info] == [f"w-{number}"]
            os.kill(server.pid, signal.SIGSTOP)
            try:
                wait_for(lambda: value(scrape(port), "neuroscan_broker_up") == 0, "a broker that is away")
            finally:
                os.kill(server.pid, signal.SIGCONT)
            wait_for(lambda: value(scrape(port), "neuroscan_broker_up") == 1, "a broker that is back")
        finally:
            process.terminate()
            assert process.wait(60) == 0
