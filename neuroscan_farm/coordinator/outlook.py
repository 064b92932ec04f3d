"""What is done of a plan and what is missing, kept up to date with little work: most looks find nothing new."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from neuroscan_farm.domain.tasks import Shard, Task
from neuroscan_farm.planning.rate import seconds_per_evaluation
from neuroscan_farm.store.attempts import Attempt
from neuroscan_farm.store.parts import Progress
from neuroscan_farm.store.run_directory import RunDirectory


class Outlook:
    """A run's shards against the tasks that its parts hold. `refresh` looks; everything else is as then."""

    def __init__(self, run: RunDirectory, *, samples: int) -> None:
        self.samples = samples  # rows of one task
        self.shards: list[Shard] = []
        self.order: tuple[str, ...] = ()  # the shards' ids, as they are wanted
        self.finished: frozenset[str] = frozenset()
        self.begun: frozenset[str] = frozenset()  # some tasks are done, others not
        self.seconds_per_evaluation: float | None = None
        self.tasks = 0
        self.tasks_missing = 0
        self.plan_complete = False  # whether no further stage follows these shards
        self.progress: Progress
        # When tasks were last seen to be done: by this machine's clock, which deaths are recorded by too; the
        # store's clock is only trusted for what was done before this process looked.
        self.grew = 0.0
        self._run = run
        self._stamp: object = None
        self._done: frozenset[str] | None = None
        self._missing: dict[str, tuple[Task, ...]] = {}  # of unfinished shards
        self._sizes: dict[str, int] = {}  # tasks of each shard
        self._costs: dict[str, int] = {}  # layer evaluations of each task
        self._evaluations: dict[str, int] = {}  # of what is missing in each shard

    def refresh(self) -> None:
        """Look at the plan and the parts."""
        stamp, progress = self._run.plan_stamp(), self._run.parts.look()
        self.progress = progress
        if stamp == self._stamp and progress.done is self._done:
            return
        if stamp != self._stamp:
            self.plan_complete = self._run.plan_complete()  # first: only the last plan is complete
            self.shards = self._run.shards()
            self.order = tuple(shard.shard_id for shard in self.shards)
            self._sizes = {shard.shard_id: len(shard.tasks) for shard in self.shards}
            self.tasks = sum(self._sizes.values())
        if self._done is None:
            self.grew = min(progress.last_commit, time.time())
        elif progress.done - self._done:
            self.grew = time.time()
        if stamp != self._stamp or not progress.done >= (self._done or frozenset()):
            # Another cut; or a part was lost, or tasks are to be tried again.
            self._missing = {shard.shard_id: shard.tasks for shard in self.shards}
            self._evaluations = {}
        self._stamp, self._done = stamp, progress.done
        self._strike_out(progress.done)
        self.finished = frozenset(self.order) - self._missing.keys()
        self.begun = frozenset(
            shard_id for shard_id, tasks in self._missing.items() if len(tasks) < self._sizes[shard_id]
        )
        self.tasks_missing = sum(map(len, self._missing.values()))
        self.seconds_per_evaluation = seconds_per_evaluation(progress.timings)

    def _strike_out(self, done: frozenset[str]) -> None:
        for shard_id, tasks in list(self._missing.items()):
            left = tuple(task for task in tasks if task.task_id not in done)
            if left:
                if len(left) < len(tasks) or shard_id not in self._evaluations:
                    self._missing[shard_id] = left
                    self._evaluations[shard_id] = sum(map(self._cost, left))
            else:
                del self._missing[shard_id]
                self._evaluations.pop(shard_id, None)

    def _cost(self, task: Task) -> int:
        if task.task_id not in self._costs:
            self._costs[task.task_id] = task.path.evaluations()
        return self._costs[task.task_id]

    def missing(self, shard_id: str) -> tuple[Task, ...]:
        """The tasks of a shard that are not done."""
        return self._missing.get(shard_id, ())

    def waiting(self, in_flight: frozenset[str]) -> list[str]:
        """The shards that are neither finished nor on their way."""
        return [
            shard_id for shard_id in self.order if shard_id in self._missing and shard_id not in in_flight
        ]

    def evaluations(self, shards: Iterable[str]) -> int:
        """Layer evaluations of what is missing in these shards, each path from the baseline on its own."""
        return sum(self._evaluations.get(shard_id, 0) for shard_id in shards)

    def deaths_among_several(self, attempts: Iterable[Attempt]) -> Counter[str]:
        """How many workers died on missing tasks of each shard that has others besides."""
        return Counter(
            attempt.shard_id
            for attempt in attempts
            if attempt.kind == "died"
            and len(tasks := self.missing(attempt.shard_id)) > 1
            and any(task.task_id == attempt.task_id for task in tasks)
        )
