"""Packing tasks into shards of near-equal cost, so that paths which share work travel together."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import replace

from neuroscan_farm.domain.tasks import Shard, Task
from neuroscan_farm.planning.trie import evaluations


def pack(tasks: Sequence[Task], *, most: int) -> list[Shard]:
    """Pack the tasks of a stage into shards of at most `most` tasks and near-equal cost, the baseline's shard first.

    Paths that leave the baseline at the same place over the same layer share at least one evaluation: such a family is
    kept together as far as it fits. Longest processing time first: the costliest family goes to the cheapest shard
    that has room. The same tasks give the same shards, whatever their order.
    """
    if not tasks:
        return []
    n_shards = math.ceil(len(tasks) / most)
    members: list[list[Task]] = [[] for _ in range(n_shards)]
    open_shards = [(0, index) for index in range(n_shards)]
    waiting = [(-_cost(family), family[0].path.steps, family) for family in _families(tasks, most)]
    heapq.heapify(waiting)
    while waiting:
        _, _, family = heapq.heappop(waiting)
        load, index = heapq.heappop(open_shards)
        room = most - len(members[index])
        taken, rest = family[:room], family[room:]
        members[index].extend(taken)
        if len(members[index]) < most:
            heapq.heappush(open_shards, (load + _cost(taken), index))
        if rest:
            heapq.heappush(waiting, (-_cost(rest), rest[0].path.steps, rest))
    shards = [
        _planned(Shard.of(sorted(group, key=lambda task: task.path.steps))) for group in members if group
    ]
    # The longest path that costs nothing; without the baseline, always the same one of the cheapest.
    baseline = min(tasks, key=lambda task: (task.path.evaluations(), -len(task.path), task.path.steps))
    return sorted(shards, key=lambda shard: baseline not in shard.tasks)


def recut(tasks: Sequence[Task], *, shards: int, most: int) -> list[Shard]:
    """Cut tasks into about so many shards of near-equal cost and at most `most` tasks; quick, for plans of any size.

    Neighbours in the order of their paths stay together, because they share the most work.
    """
    ordered = sorted(tasks, key=lambda task: task.path.steps)
    costs = [task.path.evaluations() + 1 for task in ordered]  # the baseline costs something too
    each = sum(costs) / max(shards, 1)
    pieces: dict[int, list[Task]] = {}
    before = 0
    for task, cost in zip(ordered, costs, strict=True):
        pieces.setdefault(int((before + cost / 2) / each), []).append(task)
        before += cost
    return [
        Shard.of(piece[first : first + most])
        for piece in pieces.values()
        for first in range(0, len(piece), most)
    ]


def _planned(shard: Shard) -> Shard:
    return Shard(shard.shard_id, tuple(replace(task, planned_shard=shard.shard_id) for task in shard.tasks))


def _families(tasks: Sequence[Task], most: int) -> list[list[Task]]:
    """Group tasks whose first node is the same, in the order of their paths, in groups of at most `most`."""
    by_first_node: dict[tuple[int, int | None], list[Task]] = {}
    for task in sorted(tasks, key=lambda task: task.path.steps):
        start = task.path.shared_prefix()
        following = task.path.steps[start] if start < len(task.path) else None
        by_first_node.setdefault((start, following), []).append(task)
    return [
        family[first : first + most]
        for family in by_first_node.values()
        for first in range(0, len(family), most)
    ]


def _cost(family: Sequence[Task]) -> int:
    return family[0].path.evaluations() if len(family) == 1 else evaluations([task.path for task in family])
