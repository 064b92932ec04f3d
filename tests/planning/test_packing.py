"""Packing: every task once, no shard too large, the work spread evenly, and the same shards for the same tasks."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.analyses import get_analysis
from neuroscan_farm.analyses.duplication import DuplicationParameters
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.domain.tasks import Shard, Task
from neuroscan_farm.planning.packing import pack

paths = st.lists(st.integers(0, 12), min_size=1, max_size=20).map(lambda layers: LayerPath(tuple(layers)))
tasks_of_any_kind = st.lists(paths, unique=True, max_size=40).map(
    lambda chosen: [Task.of(path, probe_digests=["d"]) for path in chosen]
)
sizes = st.integers(1, 12)


def cost(shard: Shard) -> int:
    return sum(task.path.evaluations() for task in shard.tasks)


@given(tasks_of_any_kind, sizes)
def test_packing_loses_nothing_and_doubles_nothing(tasks: list[Task], most: int) -> None:
    packed = [task for shard in pack(tasks, most=most) for task in shard.tasks]
    assert len(packed) == len(tasks)
    assert set(packed) == set(tasks)


@given(tasks_of_any_kind, sizes)
def test_no_shard_is_empty_or_larger_than_asked_and_there_are_no_more_than_needed(
    tasks: list[Task], most: int
) -> None:
    shards = pack(tasks, most=most)
    assert all(1 <= len(shard.tasks) <= most for shard in shards)
    assert len(shards) == math.ceil(len(tasks) / most)


@given(tasks_of_any_kind, sizes, st.randoms())
def test_the_same_tasks_give_the_same_shards_whatever_their_order(
    tasks: list[Task], most: int, random
) -> None:  # type: ignore[no-untyped-def]
    assert pack(random.sample(tasks, len(tasks)), most=most) == pack(tasks, most=most)


@given(tasks_of_any_kind, sizes)
def test_no_shard_costs_more_than_the_mean_and_the_costliest_task(tasks: list[Task], most: int) -> None:
    shards = pack(tasks, most=most)
    if shards:
        mean = sum(map(cost, shards)) / len(shards)
        assert max(map(cost, shards)) <= mean + max(task.path.evaluations() for task in tasks)


@given(st.integers(2, 24), st.integers(4, 32))
def test_the_shards_of_a_grid_differ_by_no_more_than_one_pass_over_the_model(depth: int, most: int) -> None:
    tasks = get_analysis("duplication").expand(DuplicationParameters(), depth=depth, probe_digests=["d"])
    costs = [cost(shard) for shard in pack(tasks, most=most)]
    assert max(costs) - min(costs) <= depth


@given(st.integers(1, 12), sizes, st.booleans())
def test_the_shard_of_the_baseline_is_sent_first(depth: int, most: int, sparse: bool) -> None:
    tasks = get_analysis("duplication").expand(
        DuplicationParameters(sparse_first=sparse, paths=() if sparse else ("0", "0,0")),
        depth=depth,
        probe_digests=["d"],
    )
    first = pack(tasks, most=most)[0]
    assert any(task.is_baseline(depth) for task in first.tasks)


def test_no_tasks_give_no_shards() -> None:
    assert pack([], most=4) == []
