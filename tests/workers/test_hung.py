"""A child without progress is killed and reported, on a real process and a real Redis; time is the test's own."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator

import pytest

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.farm_records import RunEntry, Running
from neuroscan_farm.dispatch.wire import ShardOrder
from workers.hung import HungWatch, InHand, is_gone

ORDER = ShardOrder(
    run_id="run",
    location="/runs/r",
    shard_id="s0123456789ab",
    attempt=1,
    model="0123456789abcdef",
    limit_seconds=60.0,
)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    yield process
    process.kill()
    process.wait()


class Bench:
    """One worker's watch, its child's record, and a clock."""

    def __init__(self, broker: Broker, pid: int) -> None:
        self.now = 0.0
        self.broker = broker
        broker.register(ORDER.run_id, RunEntry(ORDER.location, ORDER.model))
        self.record = Running(ORDER.shard_id, "token", "w1", "host", pid, 1, None, 1.0, 1.0, 60.0)
        self.in_hand = [InHand(ORDER, pid)]
        self.watch = HungWatch(
            broker, name="w1", host="host", in_hand=lambda: self.in_hand, clock=lambda: self.now
        )

    def progress(self, **changes: object) -> None:
        self.record = dataclasses.replace(self.record, **changes)  # type: ignore[arg-type]
        assert self.broker.beat(ORDER.run_id, self.record)

    def look_at(self, now: float) -> None:
        self.now = now
        self.watch.look()


@pytest.fixture
def bench(broker: Broker, child: subprocess.Popen[bytes]) -> Bench:
    bench = Bench(broker, child.pid)
    broker.claim(ORDER.run_id, bench.record)
    return bench


def test_a_child_without_progress_is_killed_and_its_death_says_so(
    bench: Bench, child: subprocess.Popen[bytes]
) -> None:
    bench.look_at(0.0)
    bench.progress(task_id="t1")
    bench.look_at(50.0)
    bench.progress()  # it beats, but nothing is done
    bench.look_at(109.0)
    assert not is_gone(child.pid)
    bench.look_at(111.0)
    assert is_gone(child.pid)
    [(_, report)] = bench.broker.reports(ORDER.run_id)
    assert "hung: no progress for 60 s" in report.error
    assert (report.task_id, report.exit_code) == ("t1", None)
    assert bench.broker.running(ORDER.run_id) == []


def test_progress_of_any_kind_keeps_a_child_alive(bench: Bench, child: subprocess.Popen[bytes]) -> None:
    for minute, change in enumerate([{}, {"progressed": 2.0}, {"task_id": "t1"}, {"progressed": 1.5}, {}]):
        bench.progress(**change)
        bench.look_at(minute * 55.0)
    assert not is_gone(child.pid)
    assert bench.broker.reports(ORDER.run_id) == []


def test_a_model_may_take_longer_to_load_than_a_task_to_begin(
    bench: Bench, child: subprocess.Popen[bytes]
) -> None:
    bench.look_at(0.0)
    bench.look_at(1799.0)
    assert not is_gone(child.pid)
    bench.look_at(1801.0)
    assert is_gone(child.pid)
    [(_, report)] = bench.broker.reports(ORDER.run_id)
    assert "hung: no progress for 1800 s" in report.error
    assert report.task_id is None


def test_time_in_which_the_broker_was_away_does_not_count(
    bench: Bench, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuroscan_farm.errors import BrokerError

    def away() -> dict[str, list[Running]]:
        raise BrokerError("away")

    bench.look_at(0.0)
    with monkeypatch.context() as patch:
        patch.setattr(bench.broker, "all_running", away)
        with pytest.raises(BrokerError):
            bench.look_at(30.0)
    bench.look_at(70.0)
    assert not is_gone(child.pid)


def test_a_frozen_child_whose_shard_went_to_another_worker_is_killed_without_a_second_death(
    bench: Bench, child: subprocess.Popen[bytes]
) -> None:
    bench.look_at(0.0)
    bench.broker.bury(ORDER.run_id, bench.record, witnessed=True)
    other = dataclasses.replace(bench.record, token="other", worker="w2", pid=1)
    assert bench.broker.claim(ORDER.run_id, other)
    bench.look_at(1.0)
    bench.look_at(62.0)
    assert is_gone(child.pid)
    assert len(bench.broker.reports(ORDER.run_id)) == 1
    assert bench.broker.running(ORDER.run_id) == [other]


def test_a_child_with_nothing_in_hand_is_left_alone(bench: Bench, child: subprocess.Popen[bytes]) -> None:
    bench.in_hand = []
    bench.look_at(0.0)
    bench.look_at(10_000.0)
    assert not is_gone(child.pid)
