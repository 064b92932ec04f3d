"""The executor: paths in, measurements out. The baseline is a path like any other.

Every path starts from the baseline's boundary after the longest prefix that it shares with the untouched model; the
shared prefix is never run again. Batches have fixed members, so a measurement does not depend on what else is in
the shard.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.domain.measurements import ENGINE_VERSION, Measurement, Outcome, Score
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.engine.anatomy import Anatomy
from neuroscan_farm.engine.boundaries import Boundaries, BoundaryCache
from neuroscan_farm.engine.loading import LoadedModel
from neuroscan_farm.engine.prompts import Batch
from neuroscan_farm.engine.replay import Prepared, last_logits, prepare_batch, run_layers
from neuroscan_farm.engine.scoring import non_finite_detail, score_logits

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Reading:
    outcome: Outcome
    detail: str | None
    score: Score | None


class Executor:
    """Runs layer paths of one loaded model."""

    def __init__(
        self, loaded: LoadedModel, anatomy: Anatomy, *, fingerprint: str, cache: BoundaryCache
    ) -> None:
        self.loaded = loaded
        self.anatomy = anatomy
        self._fingerprint = fingerprint
        self._cache = cache

    def measure(
        self,
        tasks: Sequence[Task],
        batches: Sequence[Batch],
        *,
        on_task: Callable[[str], None] = lambda task_id: None,
    ) -> Iterator[Measurement]:
        """Measure every task on every sample of the batches.

        Args:
            tasks: what to measure; a task that fails has its outcome in its rows and does not stop the others.
            batches: the samples, in batches of equal length.
            on_task: called with the task's id before each of its forward passes; may raise to stop.

        Yields:
            One measurement per task and sample, task by task.
        """
        readings: dict[tuple[str, str, str], _Reading] = {}
        seconds = dict.fromkeys((task.task_id for task in tasks), 0.0)
        # Batch by batch, so that only one batch's boundaries are in memory at a time.
        for batch in batches:
            prepared = prepare_batch(self.anatomy, batch.token_ids.to(self.loaded.device))
            boundaries = self.boundaries(prepared)
            for task in tasks:
                on_task(task.task_id)
                started = time.perf_counter()
                for sample, reading in zip(
                    batch.samples, self._read(task, batch, prepared, boundaries), strict=True
                ):
                    readings[task.task_id, batch.probe.name, sample.sample_id] = reading
                seconds[task.task_id] += time.perf_counter() - started
        for task in tasks:
            share = seconds[task.task_id] / max(1, sum(len(batch.samples) for batch in batches))
            for batch in batches:
                for sample in batch.samples:
                    reading = readings[task.task_id, batch.probe.name, sample.sample_id]
                    yield Measurement(
                        task.task_id,
                        batch.probe.name,
                        sample.sample_id,
                        reading.outcome,
                        reading.detail,
                        reading.score,
                        share,
                    )

    def boundaries(self, prepared: Prepared) -> Boundaries:
        """Return the baseline's boundaries of a prepared batch, from the machine's cache or by running it."""
        key = content_digest(
            {
                "model": self._fingerprint,
                "tokens": prepared.token_ids.tolist(),
                "dtype": self.loaded.dtype,
                "device": self.loaded.device_name,
                "attention": self.loaded.attention,
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),  # where the library of matrix products lets them matter
                "engine": ENGINE_VERSION,
            },
            length=32,
        )
        depth = len(self.anatomy.layers)

        def compute() -> list[torch.Tensor]:
            residual = prepared.embedded
            kept = [residual.cpu()]  # not on the GPU: 80 boundaries of a large model would fill it
            for k in range(depth):
                residual = run_layers(self.anatomy, prepared, residual, (k,))
                kept.append(residual.cpu())
            return kept

        return self._cache.get(key, count=depth + 1, device=self.loaded.device, compute=compute)

    def path_logits(self, path: LayerPath, prepared: Prepared, boundaries: Boundaries) -> torch.Tensor:
        """Return the last token's logits [samples, vocabulary] of a path, started from the baseline's boundary."""
        start = path.shared_prefix()
        residual = run_layers(self.anatomy, prepared, boundaries[start], path.layers[start:])
        return last_logits(self.anatomy, prepared, residual)

    def _read(self, task: Task, batch: Batch, prepared: Prepared, boundaries: Boundaries) -> list[_Reading]:
        try:
            logits = self.path_logits(task.path, prepared, boundaries)
            scores = score_logits(logits, batch, self.loaded.tokenizer.decode)
        except Exception as error:  # the task's outcome, not the shard's end: the other tasks go on
            log.warning("task %s (%s) failed", task.task_id, task.path, exc_info=True)
            return [_Reading(Outcome.ERROR, f"{type(error).__name__}: {error}", None)] * len(batch.samples)
        return [
            _Reading(Outcome.OK, None, score)
            if score is not None
            else _Reading(Outcome.NON_FINITE, non_finite_detail(logits, row), None)
            for row, score in enumerate(scores)
        ]
