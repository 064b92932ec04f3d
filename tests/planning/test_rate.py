"""The rate of a run is what its workers got done of late, side by side, while they measured."""

from __future__ import annotations

import pytest

from neuroscan_farm.planning.rate import measured_rate, seconds_per_evaluation
from neuroscan_farm.store.parts import ShardTiming


def shard(
    worker: str, started: float, seconds: float, evaluations: int = 600, tasks: int = 16
) -> ShardTiming:
    return ShardTiming(f"s{worker}{started}", worker, "cpu", 1, started, seconds, tasks, evaluations)


def workers(count: int, *, since: float = 0.0, shards: int = 10, seconds: float = 60.0) -> list[ShardTiming]:
    return [shard(f"w{w}", since + k * seconds, seconds) for w in range(count) for k in range(shards)]


def test_without_a_timing_there_is_no_rate() -> None:
    assert measured_rate([]) is None
    assert measured_rate([shard("w", 0.0, 0.0), shard("w", 0.0, 5.0, tasks=0)]) is None


@pytest.mark.parametrize("count", [1, 2, 8, 40])
def test_workers_side_by_side_add_up(count: int) -> None:
    rate = measured_rate(workers(count))
    assert rate is not None
    assert rate.side_by_side == pytest.approx(count)
    assert rate.evaluations_per_second == pytest.approx(10 * count)
    assert rate.tasks_per_second == pytest.approx(16 / 60 * count)


def test_a_pause_before_a_resume_does_not_count() -> None:
    rate = measured_rate([*workers(2), *workers(2, since=100_000.0)])
    assert rate is not None
    assert rate.evaluations_per_second == pytest.approx(20)


def test_workers_that_left_are_not_counted_on() -> None:
    rate = measured_rate([*workers(8), *workers(1, since=600.0)])
    assert rate is not None
    assert rate.evaluations_per_second == pytest.approx(10, rel=0.01)


def test_dear_shards_do_not_look_slow_nor_cheap_ones_fast() -> None:
    rate = measured_rate([shard("w", 0.0, 10.0, evaluations=100), shard("w", 10.0, 90.0, evaluations=900)])
    assert rate is not None
    assert rate.seconds_for(evaluations=5000, tasks=3) == pytest.approx(500)


def test_where_evaluations_tell_nothing_tasks_are_counted() -> None:
    rate = measured_rate([shard("w", 0.0, 10.0, evaluations=0, tasks=2)])
    assert rate is not None
    assert rate.seconds_for(evaluations=0, tasks=4) == pytest.approx(20)


def test_clocks_that_differ_between_machines_give_no_more_workers_than_there_are() -> None:
    rate = measured_rate([*workers(2), *(shard("far", 7200.0 + 60 * k, 60.0) for k in range(10))])
    assert rate is not None
    assert 1 <= rate.side_by_side <= 3


def test_what_one_worker_takes_is_that_of_the_last_shards_and_one_odd_shard_does_not_change_it() -> None:
    old = [shard("w", k, 100.0, 10) for k in range(50)]
    new = [shard("w", 100 + k, 20.0, 10) for k in range(20)]
    assert seconds_per_evaluation([*new, *old]) == 2.0
    assert seconds_per_evaluation([*new[:19], shard("w", 200, 9000.0, 10)]) == 2.0
    assert seconds_per_evaluation([]) is None
    assert seconds_per_evaluation([shard("w", 0, 3.0, 0)]) is None, "the baseline alone tells no rate"
