"""How fast a run goes, by the shards that were measured last. Pauses between them, and before a resume, do not count."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from neuroscan_farm.store.part_file import ShardTiming

_RECENT = 20  # shards (of each worker) that tell the rate of now


def seconds_per_evaluation(timings: Sequence[ShardTiming]) -> float | None:
    """Return what one layer evaluation takes one worker, by the shards measured last, or None before there are any.

    The middle one of them tells it: a worker that was frozen, or is another machine, does not change what is expected.
    """
    recent = sorted(timings, key=lambda timing: timing.started)[-_RECENT:]
    rates = [timing.seconds / timing.evaluations for timing in recent if timing.evaluations > 0]
    return statistics.median(rates) if rates else None


@dataclass(frozen=True, slots=True)
class Rate:
    """What all workers together get done while they measure."""

    evaluations_per_second: float
    tasks_per_second: float
    side_by_side: float  # shards that were measured at a time

    def seconds_for(self, *, evaluations: int, tasks: int) -> float:
        """How long work would take; tasks count where layer evaluations tell nothing."""
        if self.evaluations_per_second > 0:
            return evaluations / self.evaluations_per_second
        return tasks / self.tasks_per_second


def measured_rate(timings: Sequence[ShardTiming]) -> Rate | None:
    """Return the rate of late, or None before anything was timed.

    The last shards of all that were at work when the last one ended are looked at: what one of them gets done in a
    second, and how many there were at a time.
    """
    timed = [timing for timing in timings if timing.seconds > 0 and timing.tasks > 0]
    if not timed:
        return None
    by_end = sorted(timed, key=_end)
    workers = {timing.worker for timing in by_end[-_RECENT:]}
    recent = by_end[-_RECENT * len(workers) :]
    end = _end(recent[-1])
    # Back to where the longest of them would have started three times over; before that, it may have been others.
    start = max(end - 3 * max(timing.seconds for timing in recent), min(timing.started for timing in recent))
    inside = [timing for timing in recent if _end(timing) > start]
    seconds = sum(_end(timing) - max(timing.started, start) for timing in inside)
    side_by_side = min(max(seconds / (end - start), 1.0), float(len({timing.worker for timing in inside})))
    measuring = sum(timing.seconds for timing in inside)
    return Rate(
        evaluations_per_second=side_by_side * sum(timing.evaluations for timing in inside) / measuring,
        tasks_per_second=side_by_side * sum(timing.tasks for timing in inside) / measuring,
        side_by_side=side_by_side,
    )


def _end(timing: ShardTiming) -> float:
    return timing.started + timing.seconds
