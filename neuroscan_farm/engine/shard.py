"""Measuring one shard: the one piece of code behind the three ways to run it. Commit, then acknowledge."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from neuroscan_farm.domain.measurements import ENGINE_VERSION, SCORING_VERSION, Measurement, Outcome
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.engine.prompts import Batch
from neuroscan_farm.engine.warm import WarmModel
from neuroscan_farm.errors import CancelledRun, RunError
from neuroscan_farm.store.run_directory import RunDirectory
from neuroscan_farm.store.schema import Provenance, measurement_table

log = logging.getLogger(__name__)

MAX_DEATHS = 3
_SECONDS_BETWEEN_LOOKS = 0.5


def execute_shard(
    run: RunDirectory,
    shard_id: str,
    attempt: int,
    *,
    worker: str,
    warm: WarmModel,
    on_task: Callable[[str], None] = lambda task_id: None,
) -> None:
    """Measure a shard and commit its part; return at once where the part is there already.

    Args:
        run: the run that the shard belongs to.
        shard_id: which shard of its plan.
        attempt: how many times the shard was handed out, this one included.
        worker: this worker's name, for the rows.
        warm: the worker's model.
        on_task: called with a task's id before each of its forward passes; what it raises ends the shard.

    Raises:
        CancelledRun: the user cancelled the run; nothing was written.
        NeuroscanError: this worker cannot work on this run.
    """
    shard = next((shard for shard in run.shards() if shard.shard_id == shard_id), None)
    if shard is None:
        raise RunError(
            f"run {run.manifest.run_id}: its plan has no shard {shard_id}; the order is from another plan"
        )
    if run.parts.finished(run.rows_expected([shard])):
        log.info("run %s shard %s: the part is there already", run.manifest.run_id, shard_id)
        return
    look = _Look(run, on_task)
    look.now()
    executor, batches = warm.ready_for(run)
    deaths = run.attempts.deaths()
    poisoned = [task for task in shard.tasks if deaths[task.task_id] >= MAX_DEATHS]
    sound = [task for task in shard.tasks if task not in poisoned]
    # Tasks travel together, so a death does not say whose it was: the next attempt runs them one by one.
    died = any(attempt.shard_id == shard_id and attempt.kind == "died" for attempt in run.attempts.all())
    measurements = list(executor.measure(sound, batches, on_task=look, apart=died))
    for task in poisoned:
        measurements += _quarantine(task, batches, deaths[task.task_id])
    provenance = Provenance(
        run_id=run.manifest.run_id,
        shard_id=shard_id,
        analysis=run.manifest.analysis,
        depth=run.manifest.depth,
        attempt=attempt,
        worker=worker,
        device=executor.loaded.device_name,
        backend="transformers",
        dtype=executor.loaded.dtype,
        residual_dtype=executor.residual_dtype,
        attention=executor.loaded.attention,
        lane=executor.lane.name,
        placement=executor.loaded.placement,
        engine_version=ENGINE_VERSION,
        scoring_version=SCORING_VERSION,
    )
    run.parts.write(shard_id, measurement_table(measurements, shard.tasks, provenance))


class _Look:
    """Passes on which task starts, and looks now and then whether the run is still wanted."""

    def __init__(self, run: RunDirectory, on_task: Callable[[str], None]) -> None:
        self._run = run
        self._on_task = on_task
        self._next = 0.0

    def __call__(self, task_id: str) -> None:
        self._on_task(task_id)
        if time.monotonic() >= self._next:
            self.now()

    def now(self) -> None:
        self._next = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        if self._run.wanted() == "cancelled":
            raise CancelledRun(f"run {self._run.manifest.run_id} was cancelled")


def _quarantine(task: Task, batches: list[Batch], deaths: int) -> list[Measurement]:
    detail = f"{deaths} workers died while they ran this task; it is not tried again"
    return [
        Measurement(task.task_id, batch.probe.name, sample.sample_id, Outcome.QUARANTINED, detail, None, 0.0)
        for batch in batches
        for sample in batch.samples
    ]
