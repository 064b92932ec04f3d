"""What a worker does with an order, in this process: the engine's place is taken by a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import submit
from neuroscan_farm.dispatch.farm_records import RunEntry, Running
from neuroscan_farm.dispatch.places_here import PlacesHere
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.errors import CancelledRun, ModelError
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.farm_fixtures import order_of, wait_for
from workers.claims import Claim
from workers.task import Execute, ShardWorker, read_order


@pytest.fixture
def run(make_run: MakeRun, broker: Broker) -> RunDirectory:
    run = make_run(executor="celery")
    submit(run, broker)
    return run


def worker(
    broker: Broker,
    execute: Execute,
    name: str = "w1",
    *,
    places: PlacesHere | None = None,
    handed_on: list[ShardOrder] | None = None,
) -> ShardWorker:
    return ShardWorker(
        broker=broker,
        name=name,
        host="host",
        execute=execute,
        places=places or PlacesHere(),
        hand_on=([] if handed_on is None else handed_on).append,
    )


def test_a_shard_delivered_twice_is_measured_once(run: RunDirectory, broker: Broker, warm: Any) -> None:
    from neuroscan_farm.engine.shard import execute_shard

    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        execute_shard(run, order.shard_id, order.attempt, worker="w1", warm=warm, on_task=claim.working_on)

    worker(broker, execute).carry_out(order_of(run))
    part = run.parts.path(order_of(run).shard_id)
    first = part.stat()
    worker(broker, execute).carry_out(order_of(run, attempt=2))
    assert (part.stat().st_ino, part.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert broker.running(run.manifest.run_id) == []


def test_a_shard_that_another_worker_has_is_dropped(run: RunDirectory, broker: Broker) -> None:
    calls = []

    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        calls.append(order)
        worker(broker, execute, "w2").carry_out(order)

    worker(broker, execute).carry_out(order_of(run))
    assert len(calls) == 1


def test_a_task_is_told_before_it_runs(run: RunDirectory, broker: Broker) -> None:
    seen: list[Running] = []

    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        claim.working_on("t1")
        seen.extend(broker.running(run.manifest.run_id))

    worker(broker, execute).carry_out(order_of(run))
    assert [(record.worker, record.task_id) for record in seen] == [("w1", "t1")]


def test_what_the_engine_refuses_is_a_refusal(run: RunDirectory, broker: Broker) -> None:
    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        raise ModelError("no such model")

    worker(broker, execute).carry_out(order_of(run))
    refusal = broker.refusals(run.manifest.run_id)["w1"]
    assert (refusal.error, refusal.exit_code) == ("no such model", 5)
    assert broker.reports(run.manifest.run_id) == []
    assert broker.running(run.manifest.run_id) == []


def test_an_order_for_a_run_that_the_worker_refused_is_handed_on(run: RunDirectory, broker: Broker) -> None:
    calls: list[ShardOrder] = []

    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        calls.append(order)
        raise ModelError("no such model")

    handed_on: list[ShardOrder] = []
    for _ in range(2):
        worker(broker, execute, handed_on=handed_on).carry_out(order_of(run))
    assert (len(calls), handed_on) == (1, [order_of(run)])
    worker(broker, execute, "w2").carry_out(order_of(run))
    assert len(calls) == 2, "another worker may do it"


def test_progress_is_told_with_the_tasks_and_while_loading(run: RunDirectory, broker: Broker) -> None:
    seen: list[float] = []

    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        def told() -> float:
            [record] = broker.running(run.manifest.run_id)
            return record.progressed

        seen.append(told())
        claim.progress()
        wait_for(lambda: told() > seen[-1], "the beat that tells of it")
        seen.append(told())
        claim.working_on("t1")
        seen.append(told())
        assert broker.running(run.manifest.run_id)[0].limit_seconds == order.limit_seconds

    worker(broker, execute).carry_out(order_of(run))
    assert seen == sorted(set(seen))
    assert len(seen) == 3


def test_a_worker_that_was_taken_for_dead_stops_at_the_next_task(run: RunDirectory, broker: Broker) -> None:
    reached = []

    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        [mine] = broker.running(run.manifest.run_id)
        broker.bury(run.manifest.run_id, mine, witnessed=True)
        claim.working_on("t1")
        reached.append("t1")

    worker(broker, execute).carry_out(order_of(run))
    assert reached == []
    assert len(broker.reports(run.manifest.run_id)) == 1


def test_a_bug_counts_as_a_death_of_its_task_with_the_traceback(run: RunDirectory, broker: Broker) -> None:
    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        claim.working_on("t1")
        raise ZeroDivisionError("a bug of ours")

    worker(broker, execute).carry_out(order_of(run))
    [(_, report)] = broker.reports(run.manifest.run_id)
    assert (report.task_id, report.exit_code) == ("t1", None)
    assert "ZeroDivisionError: a bug of ours" in report.error


def test_a_cancelled_run_leaves_no_trace(run: RunDirectory, broker: Broker) -> None:
    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        raise CancelledRun("cancelled")

    worker(broker, execute).carry_out(order_of(run))
    assert broker.reports(run.manifest.run_id) == []
    assert broker.running(run.manifest.run_id) == []


def test_a_worker_asked_to_leave_stops_at_the_next_task(run: RunDirectory, broker: Broker) -> None:
    reached = []

    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        claim.working_on("t1")
        asked.leave()
        reached.append("t1")
        claim.working_on("t2")
        reached.append("t2")

    asked = worker(broker, execute)
    asked.carry_out(order_of(run))
    assert reached == ["t1"]
    assert broker.reports(run.manifest.run_id) == []
    assert broker.running(run.manifest.run_id) == []


def test_a_worker_whose_claim_was_taken_over_stops_at_the_next_task(
    run: RunDirectory, broker: Broker
) -> None:
    reached = []
    other = Running(order_of(run).shard_id, "other", "w2", "host", 1, 1, None, 1.0)

    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        [mine] = broker.running(run.manifest.run_id)
        broker.bury(run.manifest.run_id, mine, witnessed=True)
        broker.claim(run.manifest.run_id, other)
        claim.working_on("t1")
        reached.append("t1")

    worker(broker, execute).carry_out(order_of(run))
    assert reached == []
    assert broker.running(run.manifest.run_id) == [other], "the other's claim is left alone"


def test_an_order_for_a_folder_without_that_run_is_refused(
    run: RunDirectory, broker: Broker, tmp_path: Path
) -> None:
    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        raise AssertionError("must not be reached")

    def refusal_of(order: ShardOrder) -> str:
        broker.register(order.run_id, RunEntry(order.location, order.model))
        worker(broker, execute).carry_out(order)
        return broker.refusals(order.run_id)["w1"].error

    assert "no run here" in refusal_of(order_of(run, location=str(tmp_path / "elsewhere")))
    assert "the order is for another-run" in refusal_of(order_of(run, run_id="another-run"))
    assert "of ffffffffffff" in refusal_of(order_of(run, model="f" * 32))


@pytest.mark.parametrize("change", [{"location": "/elsewhere"}, {"model": "f" * 32}, {"run_id": "no-run"}])
def test_an_order_that_is_not_of_the_registry_is_dropped_and_no_refusal(
    run: RunDirectory, broker: Broker, change: dict[str, str]
) -> None:
    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        raise AssertionError("must not be reached")

    worker(broker, execute).carry_out(order_of(run, **change))
    assert broker.refusals(run.manifest.run_id) == {}
    assert broker.running(run.manifest.run_id) == []


@pytest.mark.parametrize("place", ["outside", "link", "s3://bucket/run"])
def test_a_place_outside_of_the_roots_is_refused_before_anything_is_opened(
    run: RunDirectory, broker: Broker, tmp_path: Path, place: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(run.location)
    where = {"outside": run.location, "link": str(root / "link")}.get(place, place)

    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        raise AssertionError("must not be reached")

    broker.register(run.manifest.run_id, RunEntry(where, run.manifest.model_fingerprint))
    confined = worker(broker, execute, places=PlacesHere(roots=(str(root),)))
    confined.carry_out(order_of(run, location=where))
    assert "outside of the roots" in broker.refusals(run.manifest.run_id)["w1"].error


def test_a_run_is_found_by_the_path_map(run: RunDirectory, broker: Broker, tmp_path: Path) -> None:
    found = []

    def execute(run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        found.append(run.location)

    places = PlacesHere(roots=(str(tmp_path),), path_map=(("/mnt/sweeps", str(Path(run.location).parent)),))
    order = order_of(run, location=f"/mnt/sweeps/{Path(run.location).name}")
    broker.register(order.run_id, RunEntry(order.location, order.model))
    worker(broker, execute, places=places).carry_out(order)
    assert found == [str(Path(run.location).resolve())]


GOOD = {
    "version": 2,
    "run_id": "r",
    "location": "/runs/r",
    "shard_id": "s0123456789ab",
    "attempt": 1,
    "model": "0123456789abcdef",
    "priority": 5,
    "limit_seconds": 600.0,
}


def test_a_good_order_is_read() -> None:
    assert read_order((GOOD,), {}) == ShardOrder(**GOOD)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (GOOD, GOOD),
        (None,),
        ("rm -rf /",),
        ([GOOD],),
        ({**GOOD, "version": 1},),
        ({**GOOD, "location": "runs/r"},),
        ({**GOOD, "location": "/runs/../etc"},),
        ({**GOOD, "run_id": "../r"},),
        ({**GOOD, "shard_id": "s0123456789ab/../../x"},),
        ({**GOOD, "attempt": "1"},),
        ({**GOOD, "attempt": 0},),
        ({**GOOD, "attempt": True},),
        ({**GOOD, "command": "true"},),
        ({key: value for key, value in GOOD.items() if key != "location"},),
    ],
)
def test_anything_else_is_dropped_with_a_line_in_the_log(
    arguments: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    assert read_order(arguments, {}) is None
    assert len(caplog.records) == 1
    assert "message dropped" in caplog.text


def test_options_beside_an_order_are_not_ignored() -> None:
    assert read_order((GOOD,), {"shell": True}) is None
