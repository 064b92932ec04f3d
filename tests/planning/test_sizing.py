"""The size of shards: one to three minutes by the measured rate, no less than the workers need to finish together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.planning.sizing import (
    LONGEST_SECONDS,
    MOST_ROWS,
    SHORTEST_SECONDS,
    better_cut,
    limit_seconds,
    most_tasks,
)


@pytest.mark.parametrize(
    ("whole", "tasks", "shards", "slots", "cut"),
    [
        (36_000, 1600, 400, 8, None),  # 90 s each
        (3_600, 3200, 200, 4, 40),  # 18 s each: 90 s
        (3_600, 3200, 200, 16, 48),  # the same on many workers: three shards for each
        (3_600, 3200, 64, 16, None),  # hardly worth it
        (40_000, 1600, 100, 8, 445),  # 400 s each: 90 s
        (4_000, 10, 10, 2, None),  # 400 s each, but a shard has one task at least
        (4_000, 30, 10, 2, 30),
        (6, 3000, 190, 2, 6),  # a tiny model: all of it takes some seconds
        (4, 40, 3, 2, None),  # short ones are never made shorter
        (0, 3000, 190, 2, None),
        (60, 0, 0, 2, None),
    ],
)
def test_shards_are_cut_to_one_to_three_minutes(
    whole: int, tasks: int, shards: int, slots: int, cut: int | None
) -> None:
    assert better_cut(seconds=1.0, evaluations=whole, tasks=tasks, shards=shards, slots=slots) == cut


@given(st.floats(1e-6, 1e3), st.integers(1, 10**7), st.integers(1, 10**5), st.integers(1, 64), st.data())
def test_a_better_cut_is_better_and_is_not_bettered_at_once(
    seconds: float, evaluations: int, tasks: int, slots: int, data: st.DataObject
) -> None:
    shards = data.draw(st.integers(1, tasks))
    cut = better_cut(seconds=seconds, evaluations=evaluations, tasks=tasks, shards=shards, slots=slots)
    if cut is not None:
        assert 1 <= cut <= tasks
        whole = seconds * evaluations
        assert whole / cut <= LONGEST_SECONDS or cut == tasks
        assert whole / shards < SHORTEST_SECONDS or whole / shards > LONGEST_SECONDS
        assert (
            better_cut(seconds=seconds, evaluations=evaluations, tasks=tasks, shards=cut, slots=slots) is None
        )


def test_parts_stay_small_enough_for_memory() -> None:
    assert most_tasks(100) * 100 <= MOST_ROWS
    assert most_tasks(10**7) == 1


def test_a_worker_is_hung_after_several_times_what_its_shard_should_take() -> None:
    assert limit_seconds(0.01, 10) == 600
    assert limit_seconds(1.0, 1000) == 5000
    assert limit_seconds(None, 10) == 1800
