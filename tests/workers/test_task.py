"""What a worker does with an order, in this process: the engine's place is taken by a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import submit
from neuroscan_farm.dispatch.farm_records import Running
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.errors import CancelledRun, ModelError
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from workers.task import Execute, ShardWorker, read_order


@pytest.fixture
def run(make_run: MakeRun, broker: Broker) -> RunDirectory:
    run = make_run(executor="celery")
    submit(run, broker)
    return run


def order_for(run: RunDirectory, **changes: Any) -> ShardOrder:
    fields = {
        "run_id": run.manifest.run_id,
        "run_dir": str(run.root),
        "shard_id": run.shards()[0].shard_id,
        "attempt": 1,
    }
    return ShardOrder(**{**fields, **changes})


def worker(broker: Broker, execute: Execute, name: str = "w1") -> ShardWorker:
    return ShardWorker(broker=broker, name=name, host="host", execute=execute)


def test_a_shard_delivered_twice_is_measured_once(run: RunDirectory, broker: Broker, warm: Any) -> None:
    from neuroscan_farm.engine.shard import execute_shard

    def execute(run: RunDirectory, order: ShardOrder, on_task: Callable[[str], None]) -> None:
        execute_shard(run, order.shard_id, order.attempt, worker="w1", warm=warm, on_task=on_task)

    worker(broker, execute).carry_out(order_for(run))
    part = run.parts.path(order_for(run).shard_id)
    first = part.stat()
    worker(broker, execute).carry_out(order_for(run, attempt=2))
    assert (part.stat().st_ino, part.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert broker.running(run.manifest.run_id) == []


def test_a_shard_that_another_worker_has_is_dropped(run: RunDirectory, broker: Broker) -> None:
    calls = []

    def execute(run: RunDirectory, order: ShardOrder, on_task: Callable[[str], None]) -> None:
        calls.append(order)
        worker(broker, execute, "w2").carry_out(order)

    worker(broker, execute).carry_out(order_for(run))
    assert len(calls) == 1


def test_a_task_is_told_before_it_runs(run: RunDirectory, broker: Broker) -> None:
    seen: list[Running] = []

    def execute(run: RunDirectory, order: ShardOrder, on_task: Callable[[str], None]) -> None:
        on_task("t1")
        seen.extend(broker.running(run.manifest.run_id))

    worker(broker, execute).carry_out(order_for(run))
    assert [(record.worker, record.task_id) for record in seen] == [("w1", "t1")]


def test_what_the_engine_refuses_is_a_refusal(run: RunDirectory, broker: Broker) -> None:
    def execute(run: RunDirectory, order: ShardOrder, on_task: Callable[[str], None]) -> None:
        raise ModelError("no such model")

    worker(broker, execute).carry_out(order_for(run))
    [(_, report)] = broker.reports(run.manifest.run_id)
    assert (report.error, report.exit_code) == ("no such model", 5)
    assert broker.running(run.manifest.run_id) == []


def test_a_bug_counts_as_a_death_of_its_task_with_the_traceback(run: RunDirectory, broker: Broker) -> None:
    def execute(run: RunDirectory, order: ShardOrder, on_task: Callable[[str], None]) -> None:
        on_task("t1")
        raise ZeroDivisionError("a bug of ours")

    worker(broker, execute).carry_out(order_for(run))
    [(_, report)] = broker.reports(run.manifest.run_id)
    assert (report.task_id, report.exit_code) == ("t1", None)
    assert "ZeroDivisionError: a bug of ours" in report.error


def test_a_cancelled_run_leaves_no_trace(run: RunDirectory, broker: Broker) -> None:
    def execute(run: RunDirectory, order: ShardOrder, on_task: Callable[[str], None]) -> None:
        raise CancelledRun("cancelled")

    worker(broker, execute).carry_out(order_for(run))
    assert broker.reports(run.manifest.run_id) == []
    assert broker.running(run.manifest.run_id) == []


def test_a_worker_asked_to_leave_stops_at_the_next_task(run: RunDirectory, broker: Broker) -> None:
    reached = []

    def execute(run: RunDirectory, order: ShardOrder, on_task: Callable[[str], None]) -> None:
        on_task("t1")
        asked.leave()
        reached.append("t1")
        on_task("t2")
        reached.append("t2")

    asked = worker(broker, execute)
    asked.carry_out(order_for(run))
    assert reached == ["t1"]
    assert broker.reports(run.manifest.run_id) == []
    assert broker.running(run.manifest.run_id) == []


def test_a_worker_whose_claim_was_taken_over_stops_at_the_next_task(
    run: RunDirectory, broker: Broker
) -> None:
    reached = []
    other = Running(order_for(run).shard_id, "other", "w2", "host", 1, 1, None, 1.0)

    def execute(run: RunDirectory, order: ShardOrder, on_task: Callable[[str], None]) -> None:
        [mine] = broker.running(run.manifest.run_id)
        broker.bury(run.manifest.run_id, mine, witnessed=True)
        broker.claim(run.manifest.run_id, other)
        on_task("t1")
        reached.append("t1")

    worker(broker, execute).carry_out(order_for(run))
    assert reached == []
    assert broker.running(run.manifest.run_id) == [other], "the other's claim is left alone"


def test_an_order_for_a_folder_without_that_run_is_refused(
    run: RunDirectory, broker: Broker, tmp_path: Any
) -> None:
    def execute(run: RunDirectory, order: ShardOrder, on_task: Callable[[str], None]) -> None:
        raise AssertionError("must not be reached")

    worker(broker, execute).carry_out(order_for(run, run_dir=str(tmp_path / "elsewhere")))
    broker.register("another-run", str(run.root))
    worker(broker, execute).carry_out(order_for(run, run_id="another-run"))
    assert "no run here" in broker.reports(run.manifest.run_id)[0][1].error
    assert "the order is for another-run" in broker.reports("another-run")[0][1].error


GOOD = {"version": 1, "run_id": "r", "run_dir": "/runs/r", "shard_id": "s0123456789ab", "attempt": 1}


def test_a_good_order_is_read() -> None:
    assert read_order((GOOD,), {}) == ShardOrder(
        run_id="r", run_dir="/runs/r", shard_id="s0123456789ab", attempt=1
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (GOOD, GOOD),
        (None,),
        ("rm -rf /",),
        ([GOOD],),
        ({**GOOD, "version": 2},),
        ({**GOOD, "run_dir": "runs/r"},),
        ({**GOOD, "run_id": "../r"},),
        ({**GOOD, "shard_id": "s0123456789ab/../../x"},),
        ({**GOOD, "attempt": "1"},),
        ({**GOOD, "attempt": 0},),
        ({**GOOD, "attempt": True},),
        ({**GOOD, "command": "true"},),
        ({key: value for key, value in GOOD.items() if key != "run_dir"},),
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
