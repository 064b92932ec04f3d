"""Packing: every task once, no shard too large, the work spread evenly, and the same shards for the same tasks."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.analyses import get_analysis
from neuroscan_farm.analyses.duplication import DuplicationParameters
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.domain.tasks import Shard, Task
from neuroscan_farm.planning.packing import pack, recut
from neuroscan_farm.planning.trie import evaluations

paths = st.lists(st.integers(0, 12), min_size=1, max_size=20).map(lambda layers: LayerPath(tuple(layers)))
tasks_of_any_kind = st.lists(paths, unique=True, max_size=40).map(
    lambda chosen: [Task.of(path, probe_digests=["d"]) for path in chosen]
)
sizes = st.integers(1, 12)


def cost(shard: Shard) -> int:
    return evaluations([task.path for task in shard.tasks])


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
def test_no_shard_costs_more_than_the_mean_and_the_costliest_tasks_that_share(
    tasks: list[Task], most: int
) -> None:
    shards = pack(tasks, most=most)
    if shards:
        mean = sum(sum(task.path.evaluations() for task in shard.tasks) for shard in shards) / len(shards)
        families: dict[tuple[int, ...], list[LayerPath]] = {}
        for task in tasks:
            start = task.path.shared_prefix()
            families.setdefault((start, *task.path.layers[start : start + 1]), []).append(task.path)
        costliest = max(evaluations(family) for family in families.values())
        assert max(map(cost, shards)) <= mean + costliest


def test_pairs_of_skipped_layers_travel_with_those_that_share_the_first() -> None:
    depth = 12
    paths = [
        LayerPath(tuple(k for k in range(depth) if k not in (a, b)))
        for a in range(depth)
        for b in range(a, depth)
    ]
    tasks = [Task.of(path, probe_digests=["d"]) for path in paths]
    together = sum(cost(shard) for shard in pack(tasks, most=12))
    least = evaluations(paths)
    apart = sum(path.evaluations() for path in paths)
    assert together <= least * 1.15
    assert apart > least * 1.5


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


@given(tasks_of_any_kind, st.integers(1, 12), sizes)
def test_a_new_cut_has_the_same_tasks_each_once_and_no_shard_too_large(
    tasks: list[Task], shards: int, most: int
) -> None:
    planned = [task for shard in pack(tasks, most=5) for task in shard.tasks]
    pieces = recut(planned, shards=shards, most=most)
    assert sorted(task.task_id for piece in pieces for task in piece.tasks) == sorted(
        t.task_id for t in tasks
    )
    assert all(0 < len(piece.tasks) <= most for piece in pieces)
    where = {task.task_id: task.planned_shard for task in planned}
    assert all(task.planned_shard == where[task.task_id] for piece in pieces for task in piece.tasks)


def test_a_new_cut_spreads_the_work_evenly() -> None:
    grid = get_analysis("duplication").expand(DuplicationParameters(), depth=24, probe_digests=["d"])
    pieces = recut(grid, shards=6, most=1000)
    assert len(pieces) == 6
    costs = [sum(task.path.evaluations() for task in piece.tasks) for piece in pieces]
    assert max(costs) < 1.2 * min(costs)


def test_tasks_keep_the_shard_that_they_were_planned_in() -> None:
    grid = get_analysis("duplication").expand(DuplicationParameters(), depth=6, probe_digests=["d"])
    for shard in pack(grid, most=4):
        assert {task.planned_shard for task in shard.tasks} == {shard.shard_id}
