"""Packing tasks into shards of near-equal cost."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from neuroscan_farm.domain.tasks import Shard, Task


def pack(tasks: Sequence[Task], *, most: int) -> list[Shard]:
    """Pack tasks into shards of at most `most` tasks and near-equal cost; the baseline's shard comes first.

    Longest processing time first: the costliest task goes to the cheapest shard that has room. The same tasks give
    the same shards, whatever their order.
    """
    if not tasks:
        return []
    n_shards = math.ceil(len(tasks) / most)
    members: list[list[Task]] = [[] for _ in range(n_shards)]
    open_shards = [(0, index) for index in range(n_shards)]
    for task in sorted(tasks, key=lambda task: (-task.path.evaluations(), task.path.layers)):
        load, index = heapq.heappop(open_shards)
        members[index].append(task)
        if len(members[index]) < most:
            heapq.heappush(open_shards, (load + task.path.evaluations(), index))
    shards = [Shard.of(sorted(group, key=lambda task: task.path.layers)) for group in members if group]
    # The longest path that costs nothing; without the baseline, always the same one of the cheapest.
    baseline = min(tasks, key=lambda task: (task.path.evaluations(), -len(task.path), task.path.layers))
    return sorted(shards, key=lambda shard: baseline not in shard.tasks)
