"""Tasks and shards: the units of completion and of delivery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.domain.paths import Block, LayerPath


@dataclass(frozen=True, slots=True)
class Task:
    """One configuration (one path) on the request's probes: the unit of completion, progress, failure and resume."""

    task_id: str
    path: LayerPath
    block: Block | None = None  # set where the path is one plain (i, j) duplication
    stage: int = 0  # 0 is planned at once; 1 and later from the rows of the stage before
    # The shard that the task was packed into when its stage was planned. A plan may be cut anew later; rows keep this.
    planned_shard: str | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls, path: LayerPath, *, probe_digests: Sequence[str], block: Block | None = None, stage: int = 0
    ) -> Task:
        """Make the task of `path` on the probes; its id is made of both."""
        task_id = "t" + content_digest({"path": str(path), "probes": sorted(probe_digests)})
        return cls(task_id, path, block, stage)

    def is_baseline(self, depth: int) -> bool:
        """Whether this is the identity path of a `depth`-layer model."""
        return self.path == LayerPath.identity(depth)


@dataclass(frozen=True, slots=True)
class Shard:
    """Tasks that travel together in one message because they share work: the unit of delivery."""

    shard_id: str
    tasks: tuple[Task, ...]

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> Shard:
        """Make the shard of `tasks`; its id is made of theirs."""
        return cls("s" + content_digest([task.task_id for task in tasks]), tuple(tasks))
