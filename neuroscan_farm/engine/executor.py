"""The executor: paths in, measurements out. The baseline is a path like any other.

All paths of a call travel through the layers together (`sweep.py`), each from the baseline's boundary after the longest
prefix that it shares with the untouched model. Batches have fixed members and fixed shapes, so a measurement does not
depend on what else is in the shard.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from neuroscan_farm.domain.measurements import ENGINE_VERSION, Measurement, Outcome, Score
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.engine.anatomy import Anatomy
from neuroscan_farm.engine.baseline import Baseline
from neuroscan_farm.engine.boundaries import BoundaryCache
from neuroscan_farm.engine.heads import Heads
from neuroscan_farm.engine.lanes import GeneralLane, Lane, layer_kinds, layer_token_bytes
from neuroscan_farm.engine.loading import LoadedModel
from neuroscan_farm.engine.micro_batches import Calibration, MicroBatches
from neuroscan_farm.engine.prompts import Batch
from neuroscan_farm.engine.scoring import non_finite_detail, score_logits
from neuroscan_farm.engine.sweep import Failure, Job, Wave
from neuroscan_farm.planning.trie import PathTrie

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_SIGNS = 0.05
_UNITS_BYTES = 2 << 30  # what the units of a wave may take where nothing else bounds them


@dataclass(frozen=True, slots=True)
class _Reading:
    outcome: Outcome
    detail: str | None
    score: Score | None


class Executor:
    """Runs layer paths of one loaded model."""

    def __init__(
        self,
        loaded: LoadedModel,
        anatomy: Anatomy,
        *,
        fingerprint: str,
        cache: BoundaryCache,
        lane: Lane | None = None,
        calibrations: Path | None = None,
    ) -> None:
        """Bind a lane to a model.

        Args:
            loaded: the model.
            anatomy: its layers.
            fingerprint: of the model's content.
            cache: the machine's cache of boundaries.
            lane: how one layer is run; None is the general lane.
            calibrations: where the machine keeps its calibrations; None measures them anew.
        """
        self.loaded = loaded
        self.anatomy = anatomy
        self.lane = lane = lane if lane is not None else GeneralLane(anatomy)
        loaded.layers.follow(anatomy.layers)
        pair = lane.inputs(torch.tensor([[0, 1]], device=loaded.device)).embedded
        self.residual_dtype = str(pair.dtype).removeprefix("torch.")
        self._token_bytes = pair.nbytes // 2
        self._devices = max(1, len(set((getattr(loaded.model, "hf_device_map", None) or {}).values())))
        circumstances = {
            "model": fingerprint,
            "dtype": loaded.dtype,
            "device": loaded.device_name,
            "attention": loaded.attention,
            "lane": lane.name,
            "residual": self.residual_dtype,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),  # where the library of matrix products lets them matter
            "engine": ENGINE_VERSION,
        }
        self._calibration = Calibration(calibrations, circumstances)
        work_bytes = loaded.work_bytes
        self._micro = MicroBatches(
            self._calibration,
            most_tokens=None
            if work_bytes is None
            else max(1, work_bytes // 2 // layer_token_bytes(anatomy.layers)),
        )
        self._units_bytes = _UNITS_BYTES if work_bytes is None else work_bytes // 2
        self._kinds = layer_kinds(anatomy.layers)
        self._heads = Heads(anatomy)
        self._baseline = Baseline(
            lane,
            depth=len(anatomy.layers),
            weights=loaded.layers,
            cache=cache,
            key=circumstances,
            most_tokens=self._micro.most_tokens,
        )

    def calibrate(self, batches: Sequence[Batch]) -> None:
        """Measure the best micro-batch on the batch with the most tokens, where this machine has not done so yet."""
        if self._calibration.tokens is not None or not batches:
            return
        largest = max(batches, key=lambda batch: batch.token_ids.numel())
        inputs = self.lane.inputs(largest.token_ids.to(self.loaded.device))
        if not self.lane.stackable(inputs):
            return
        middle = len(self.anatomy.layers) // 2
        self.loaded.layers.ensure(middle)
        self._calibration.measure(
            lambda copies: self.lane.run(inputs, middle, torch.cat([inputs.embedded] * copies), copies),
            inputs.embedded.shape[:-1].numel(),
            self.loaded.device,
            most_tokens=self._micro.most_tokens,
        )

    def measure(
        self,
        tasks: Sequence[Task],
        batches: Sequence[Batch],
        *,
        on_task: Callable[[str], None] = lambda task_id: None,
        apart: bool = False,
    ) -> Iterator[Measurement]:
        """Measure every task on every sample of the batches.

        Args:
            tasks: what to measure; a task that fails has its outcome in its rows and does not stop the others.
            batches: the samples, in batches of equal length.
            on_task: called now and then with the id of a task that is being run; may raise to stop.
            apart: run one task after the other, and say each one's id before it: whoever dies then is known.

        Yields:
            One measurement per task and sample, task by task. The wall-clock time is shared by the tasks according to
            their layer evaluations.
        """
        started = time.perf_counter()
        ids = {task.path: task.task_id for task in tasks}
        sign = _Sign(on_task)

        def on_step(path: LayerPath) -> None:
            if not apart:
                sign(ids[path])

        readings: dict[tuple[LayerPath, int], list[_Reading]] = {}
        behind: list[tuple[int, Job]] = []  # read one wave late, so that the devices of a split model overlap

        def read() -> None:
            while behind:
                number, job = behind.pop()
                for path, row in self._read(job, batches[number]):
                    readings[path, number] = row

        for paths in [[path] for path in ids] if apart else [list(ids)]:
            if apart:
                on_task(ids[paths[0]])
            for numbers in self._groups(batches, len(paths)):
                for wave_paths, jobs in self._waves([batches[number] for number in numbers], paths):
                    self._wave(wave_paths, jobs).carry_out(on_step)
                    read()
                    behind.extend(zip(numbers, jobs, strict=True))
        read()
        seconds = time.perf_counter() - started
        samples = max(1, sum(len(batch.samples) for batch in batches))
        shares = PathTrie.of(ids).shares()
        for task in tasks:
            for number, batch in enumerate(batches):
                for sample, reading in zip(batch.samples, readings[task.path, number], strict=True):
                    yield Measurement(
                        task.task_id,
                        batch.probe.name,
                        sample.sample_id,
                        reading.outcome,
                        reading.detail,
                        reading.score,
                        seconds * shares[task.path] / samples,
                    )

    def logits(
        self, paths: Sequence[LayerPath], token_ids: torch.Tensor
    ) -> dict[LayerPath, torch.Tensor | Failure]:
        """Return the last token's logits [samples, vocabulary] of each path on prompts of equal length."""
        inputs = self.lane.inputs(token_ids.to(self.loaded.device))
        (boundaries,) = self._baseline.boundaries([inputs])
        job = Job(inputs, boundaries)
        self._wave(paths, [job]).carry_out(lambda path: None)
        return dict(self._heads.logits(job.inputs, job.ends))

    def _wave(self, paths: Sequence[LayerPath], jobs: Sequence[Job]) -> Wave:
        return Wave(
            PathTrie.of(paths),
            jobs,
            lane=self.lane,
            kinds=self._kinds,
            weights=self.loaded.layers,
            micro=self._micro,
        )

    def _groups(self, batches: Sequence[Batch], paths: int) -> list[list[int]]:
        """Say which batches travel together: each its own way, or, where every wave loads all layers, all that fit."""
        if not self.loaded.layers.streamed:
            return [[number] for number in range(len(batches))]
        groups: list[list[int]] = []
        room = 0
        for number, batch in enumerate(batches):
            needed = batch.token_ids.numel() * self._token_bytes * (paths + 1)
            if not groups or needed > room:
                groups.append([])
                room = self._units_bytes
            groups[-1].append(number)
            room -= needed
        return groups

    def _waves(
        self, batches: Sequence[Batch], paths: Sequence[LayerPath]
    ) -> Iterator[tuple[Sequence[LayerPath], list[Job]]]:
        """Prepare batches that travel together; cut the paths where the units of all would not fit in memory."""
        inputs = [self.lane.inputs(batch.token_ids.to(self.loaded.device)) for batch in batches]
        boundaries = self._baseline.boundaries(inputs)
        units_bytes = sum(one.embedded.nbytes for one in inputs)
        together = max(1, self._units_bytes // units_bytes - 1)
        pieces = max(math.ceil(len(paths) / together), min(self._devices, len(paths)))
        for piece in range(pieces):
            share = paths[piece * len(paths) // pieces : (piece + 1) * len(paths) // pieces]
            yield share, [Job(*pair) for pair in zip(inputs, boundaries, strict=True)]

    def _read(self, job: Job, batch: Batch) -> Iterator[tuple[LayerPath, list[_Reading]]]:
        """Score the ends of a wave."""
        size = len(batch.samples)
        for path, logits in self._heads.logits(job.inputs, job.ends):
            if isinstance(logits, Failure):
                yield path, [_Reading(Outcome.ERROR, logits.detail, None)] * size
                continue
            try:
                scores = score_logits(logits, batch, self.loaded.tokenizer.decode)
            except Exception as error:  # the task's outcome, not the shard's end: the other tasks go on
                log.warning("scoring path %s failed", path, exc_info=True)
                yield path, [_Reading(Outcome.ERROR, f"{type(error).__name__}: {error}", None)] * size
                continue
            yield (
                path,
                [
                    _Reading(Outcome.OK, None, score)
                    if score is not None
                    else _Reading(Outcome.NON_FINITE, non_finite_detail(logits, row), None)
                    for row, score in enumerate(scores)
                ],
            )


class _Sign:
    """Passes on the task that is being run, now and then: a micro-batch may take a millisecond."""

    def __init__(self, on_task: Callable[[str], None]) -> None:
        self._on_task = on_task
        self._next = 0.0

    def __call__(self, task_id: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _SECONDS_BETWEEN_SIGNS
            self._on_task(task_id)
