"""Measuring one shard: the one piece of code behind the three ways to run it. Commit, then acknowledge."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

from neuroscan_farm.domain.measurements import ENGINE_VERSION, SCORING_VERSION, Measurement, Outcome
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.engine.executor import Executor
from neuroscan_farm.engine.prompts import Batch
from neuroscan_farm.engine.similarity import layer_similarity
from neuroscan_farm.engine.warm import WarmModel
from neuroscan_farm.errors import CancelledRun, StorageError
from neuroscan_farm.store.attempts import Attempt
from neuroscan_farm.store.parts import ShardTiming
from neuroscan_farm.store.run_directory import RunDirectory
from neuroscan_farm.store.schema import Provenance, measurement_table

log = logging.getLogger(__name__)

MAX_DEATHS = 3
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_REMOTE_LOOKS = 5.0  # the model waits meanwhile, some hundredths of a second
_SECONDS_AFTER_A_FAILED_LOOK = 30.0  # to find that a store is away takes as long
_SECONDS_BETWEEN_TRIES = 2.0
_FIRST_ROUND_TASKS = 16
_ROUND_SECONDS = 20.0  # what a worker that is asked to leave may lose


def execute_shard(
    run: RunDirectory,
    shard_id: str,
    attempt: int,
    *,
    worker: str,
    warm: WarmModel,
    on_task: Callable[[str], None] = lambda task_id: None,
    patience_seconds: float = 0.0,
) -> None:
    """Measure what is missing of a shard and commit it as a part; return at once where nothing is.

    Tasks are measured in rounds. Whatever ends the shard before its end, the rounds that are finished are committed.

    Args:
        run: the run that the shard belongs to.
        shard_id: which shard of its plan; one that the plan has no more was cut anew, and there is nothing to do.
        attempt: how many times the shard was handed out, this one included.
        worker: this worker's name, for the rows.
        warm: the worker's model.
        on_task: called with a task's id before each of its forward passes; what it raises ends the shard.
        patience_seconds: how long to wait with the rows in hand for a disk that is full or a store that is away.

    Raises:
        CancelledRun: the user cancelled the run, or paused it before this shard was begun.
        NeuroscanError: this worker cannot work on this run.
    """
    run.check_versions()
    shard = run.shard(shard_id)
    if shard is None:
        log.info("run %s shard %s: the plan has it no more", run.manifest.run_id, shard_id)
        return
    done = run.parts.look().done
    missing = [task for task in shard.tasks if task.task_id not in done]
    if not missing:
        log.info("run %s shard %s: its rows are there already", run.manifest.run_id, shard_id)
        return
    if (wanted := run.wanted()) != "running":
        raise CancelledRun(f"run {run.manifest.run_id} is {wanted}")
    look = _Look(run, on_task)
    executor, batches = warm.ready_for(run, components=not all(task.path.whole for task in missing))
    attempts = run.attempts.all()
    deaths = {task.task_id: _deaths_of(task, attempts) for task in missing}
    # Tasks travel together, so a death does not say whose it was: the next attempt runs them one by one.
    apart = any(attempt.shard_id == shard_id and attempt.kind == "died" for attempt in attempts)
    work = _Work(run, executor, attempt=attempt, worker=worker)
    for task in missing:
        if len(deaths[task.task_id]) >= MAX_DEATHS:
            work.add([task], _quarantine(task, batches, deaths[task.task_id]))
    sound = [task for task in missing if len(deaths[task.task_id]) < MAX_DEATHS]
    if any(task.is_baseline(run.manifest.depth) for task in sound) and run.needs_similarity():
        work.similarity = layer_similarity(executor, batches)
    try:
        for tasks in _rounds(sound, whole=executor.loaded.layers.streamed):
            work.add(tasks, executor.measure(tasks, batches, on_task=look, apart=apart))
    except BaseException:
        work.keep_what_is_done(shard_id)
        raise
    work.commit_patiently(shard_id, patience_seconds, wait=lambda: look(missing[-1].task_id))


def _rounds(tasks: Sequence[Task], *, whole: bool) -> Iterator[Sequence[Task]]:
    """Cut tasks into rounds of some seconds; whole, where every round would load all layers again."""
    size = len(tasks) if whole else _FIRST_ROUND_TASKS
    first = 0
    while first < len(tasks):
        started = time.monotonic()
        yield tasks[first : first + size]
        first += size
        seconds = max(time.monotonic() - started, 1e-3)
        size = max(1, min(8 * size, round(size * _ROUND_SECONDS / seconds)))
        if len(tasks) - first < 1.5 * size:  # no small rest: tasks that travel together share work
            size = max(1, len(tasks) - first)


class _Work:
    """What was measured of a shard so far."""

    def __init__(self, run: RunDirectory, executor: Executor, *, attempt: int, worker: str) -> None:
        self._run = run
        self._executor = executor
        self._attempt = attempt
        self._worker = worker
        self._tasks: list[Task] = []
        self._rows: list[Measurement] = []
        self._started = time.time()
        self._began = time.perf_counter()
        # Of layers, where the run asks for it and the baseline is here.
        self.similarity: list[list[float]] | None = None

    def add(self, tasks: Sequence[Task], rows: Iterator[Measurement] | Sequence[Measurement]) -> None:
        """Add all rows of some tasks."""
        whole = list(rows)  # before anything is kept: it may end halfway
        self._rows += whole
        self._tasks += tasks

    def commit(self, shard_id: str) -> None:
        """Write the part.

        Raises:
            StorageError: the disk refused.
        """
        loaded = self._executor.loaded
        manifest = self._run.manifest
        provenance = Provenance(
            run_id=manifest.run_id,
            shard_id=shard_id,
            analysis=manifest.analysis,
            depth=manifest.depth,
            attempt=self._attempt,
            worker=self._worker,
            device=loaded.device_name,
            backend="transformers",
            dtype=loaded.dtype,
            residual_dtype=self._executor.residual_dtype,
            attention=loaded.attention,
            lane=self._executor.lane.name,
            placement=loaded.placement,
            engine_version=ENGINE_VERSION,
            scoring_version=SCORING_VERSION,
        )
        timing = ShardTiming(
            shard_id=shard_id,
            worker=self._worker,
            device=loaded.device_name,
            attempt=self._attempt,
            started=self._started,
            seconds=time.perf_counter() - self._began,
            tasks=len(self._tasks),
            evaluations=sum(task.path.evaluations() for task in self._tasks),
        )
        if self.similarity is not None:  # first: whoever finds the baseline's rows may go on with it
            samples = sum(manifest.n_samples.values())
            self._run.similarity.write(self.similarity, samples=samples)
        self._run.parts.write(shard_id, measurement_table(self._rows, self._tasks, provenance), timing)

    def commit_patiently(self, shard_id: str, patience_seconds: float, *, wait: Callable[[], None]) -> None:
        """Write the part; where the disk refuses, try again for a while, and call `wait` before each try.

        Raises:
            StorageError: the disk refused to the end.
        """
        until = time.monotonic() + patience_seconds
        while True:
            try:
                return self.commit(shard_id)
            except StorageError as error:
                if time.monotonic() >= until:
                    raise
                log.warning("the part cannot be written, and is tried again: %s", error)
            time.sleep(_SECONDS_BETWEEN_TRIES)
            wait()

    def keep_what_is_done(self, shard_id: str) -> None:
        """Commit the finished rounds; the reason why the shard ends before its end is not ours to hide."""
        if not self._tasks:
            return
        try:
            self.commit(shard_id)
        except StorageError as error:
            log.warning("%d finished tasks are lost with their shard: %s", len(self._tasks), error)
        else:
            log.info("%d finished tasks are kept", len(self._tasks))


class _Look:
    """Passes on which task starts, and looks now and then whether the run is still wanted."""

    def __init__(self, run: RunDirectory, on_task: Callable[[str], None]) -> None:
        self._run = run
        self._on_task = on_task
        self._pause = _SECONDS_BETWEEN_LOOKS if run.place.root else _SECONDS_BETWEEN_REMOTE_LOOKS
        self._next = 0.0

    def __call__(self, task_id: str) -> None:
        self._on_task(task_id)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + (self._pause if self._look() else _SECONDS_AFTER_A_FAILED_LOOK)

    def _look(self) -> bool:
        """Look; False where the store does not say: what is in hand goes on, and is committed patiently."""
        try:
            wanted = self._run.wanted()
        except StorageError as error:
            log.warning("whether the run is still wanted cannot be seen: %s", error)
            return False
        if wanted == "cancelled":
            raise CancelledRun(f"run {self._run.manifest.run_id} was cancelled")
        return True


def _deaths_of(task: Task, attempts: Sequence[Attempt]) -> list[Attempt]:
    return [attempt for attempt in attempts if attempt.kind == "died" and attempt.task_id == task.task_id]


def _quarantine(task: Task, batches: Sequence[Batch], deaths: Sequence[Attempt]) -> list[Measurement]:
    errors = list(
        dict.fromkeys(death.error.strip().splitlines()[-1] for death in deaths if death.error.strip())
    )
    workers = ", ".join(dict.fromkeys(death.worker for death in deaths))
    detail = (
        f"workers died {len(deaths)} times while they ran this task ({workers}); it is not tried again; the last said: "
        f"{errors[-1] if errors else 'nothing'}; all of it is in attempts/"
    )
    return [
        Measurement(task.task_id, batch.probe.name, sample.sample_id, Outcome.QUARANTINED, detail, None, 0.0)
        for batch in batches
        for sample in batch.samples
    ]
