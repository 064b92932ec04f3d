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
from neuroscan_farm.engine.lanes.general import GeneralLane
from neuroscan_farm.engine.lanes.lane import Inputs, Lane, layer_kinds, layer_token_bytes
from neuroscan_farm.engine.loading import LoadedModel
from neuroscan_farm.engine.micro_batches import Calibration, MicroBatches
from neuroscan_farm.engine.prompts import Batch
from neuroscan_farm.engine.scoring import non_finite_detail, score_logits
from neuroscan_farm.engine.sweep import Failure, Job, Wave
from neuroscan_farm.planning.trie import PathTrie

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_SIGNS = 0.5
_BUNDLE_TOKENS = 1_536  # about what a CPU's cache is enough for; fixed, because rows are defined by it
_UNITS_BYTES = 2 << 30  # what the units of a wave may take where nothing else bounds them


@dataclass(frozen=True, slots=True)
class _Reading:
    outcome: Outcome
    detail: str | None
    score: Score | None


_Bundle = tuple[Batch, ...]  # batches of one probe whose samples share a unit


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
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Bind a lane to a model.

        Args:
            loaded: the model.
            anatomy: its layers.
            fingerprint: of the model's content.
            cache: the machine's cache of boundaries.
            lane: how one layer is run; None is the general lane.
            calibrations: where the machine keeps its calibrations; None measures them anew.
            on_progress: called after each layer of the baseline, which belongs to no task.
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
            on_layer=on_progress,
        )

    def calibrate(self, batches: Sequence[Batch]) -> None:
        """Measure the best micro-batch on the batch with the most tokens, where this machine has not done so yet."""
        if self._calibration.tokens is not None or not batches:
            return
        largest = max(self._bundles(batches), key=_tokens)
        inputs = self._inputs(largest)
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

        readings: dict[LayerPath, dict[tuple[str, str], _Reading]] = {path: {} for path in ids}
        # Read one wave late, so that the devices of a split model overlap.
        behind: list[tuple[_Bundle, Job]] = []

        def read() -> None:
            while behind:
                bundle, job = behind.pop()
                for path, rows in self._read(job, bundle):
                    readings[path].update(rows)

        for paths in [[path] for path in ids] if apart else [list(ids)]:
            if apart:
                on_task(ids[paths[0]])
            for bundles in self._groups(self._bundles(batches), len(paths)):
                for wave_paths, jobs in self._waves(bundles, paths):
                    self._wave(wave_paths, jobs).carry_out(on_step)
                    read()
                    behind.extend(zip(bundles, jobs, strict=True))
        read()
        seconds = time.perf_counter() - started
        samples = max(1, sum(len(batch.samples) for batch in batches))
        shares = PathTrie.of(ids).shares()
        for task in tasks:
            for batch in batches:
                for sample in batch.samples:
                    reading = readings[task.path][batch.probe.name, sample.sample_id]
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

    def baseline_ends(self, batches: Sequence[Batch]) -> Iterator[torch.Tensor]:
        """Yield what the untouched model's last tokens are after each layer, [layers, samples, 1, hidden], by bundle."""
        depth = len(self.anatomy.layers)
        for bundles in self._groups(self._bundles(batches), 0):
            inputs = [self._inputs(bundle) for bundle in bundles]
            for one, boundaries in zip(inputs, self._baseline.boundaries(inputs), strict=True):
                yield torch.stack([self.lane.end(one, boundaries[k + 1]).clone() for k in range(depth)])

    def _wave(self, paths: Sequence[LayerPath], jobs: Sequence[Job]) -> Wave:
        return Wave(
            PathTrie.of(paths),
            jobs,
            lane=self.lane,
            kinds=self._kinds,
            weights=self.loaded.layers,
            micro=self._micro,
        )

    def _bundles(self, batches: Sequence[Batch]) -> list[_Bundle]:
        """Put batches of one probe together where the lane mixes lengths, up to a fixed size; else each is alone.

        A unit is a bundle: what rows are defined by. So bundles depend on the probe alone, and not on the machine.
        """
        bundles: list[list[Batch]] = []
        for batch in batches:
            last = bundles[-1] if bundles else None
            if (
                last is not None
                and self.lane.mixes_lengths
                and last[0].probe == batch.probe
                and _tokens(last) + batch.token_ids.numel() <= _BUNDLE_TOKENS
            ):
                last.append(batch)
            else:
                bundles.append([batch])
        return [tuple(bundle) for bundle in bundles]

    def _inputs(self, bundle: _Bundle) -> Inputs:
        return self.lane.inputs(*(batch.token_ids.to(self.loaded.device) for batch in bundle))

    def _groups(self, bundles: Sequence[_Bundle], paths: int) -> list[list[_Bundle]]:
        """Say which bundles travel together: each its own way, or, where every wave loads all layers, all that fit."""
        if not self.loaded.layers.streamed:
            return [[bundle] for bundle in bundles]
        groups: list[list[_Bundle]] = []
        room = 0
        for bundle in bundles:
            needed = _tokens(bundle) * self._token_bytes * (paths + 1)
            if not groups or needed > room:
                groups.append([])
                room = self._units_bytes
            groups[-1].append(bundle)
            room -= needed
        return groups

    def _waves(
        self, bundles: Sequence[_Bundle], paths: Sequence[LayerPath]
    ) -> Iterator[tuple[Sequence[LayerPath], list[Job]]]:
        """Prepare bundles that travel together; cut the paths where the units of all would not fit in memory."""
        inputs = [self._inputs(bundle) for bundle in bundles]
        boundaries = self._baseline.boundaries(inputs)
        units_bytes = sum(one.embedded.nbytes for one in inputs)
        together = max(1, self._units_bytes // units_bytes - 1)
        pieces = max(math.ceil(len(paths) / together), min(self._devices, len(paths)))
        for piece in range(pieces):
            share = paths[piece * len(paths) // pieces : (piece + 1) * len(paths) // pieces]
            yield share, [Job(*pair) for pair in zip(inputs, boundaries, strict=True)]

    def _read(self, job: Job, bundle: _Bundle) -> Iterator[tuple[LayerPath, dict[tuple[str, str], _Reading]]]:
        """Score the ends of a wave, by probe and sample."""
        sizes = [len(batch.samples) for batch in bundle]
        for path, logits in self._heads.logits(job.inputs, job.ends):
            parts: Sequence[torch.Tensor | Failure] = (
                [logits] * len(bundle) if isinstance(logits, Failure) else torch.split(logits, sizes)
            )
            yield (
                path,
                {
                    (batch.probe.name, sample.sample_id): reading
                    for batch, part in zip(bundle, parts, strict=True)
                    for sample, reading in zip(batch.samples, self._score(path, part, batch), strict=True)
                },
            )

    def _score(self, path: LayerPath, logits: torch.Tensor | Failure, batch: Batch) -> list[_Reading]:
        if isinstance(logits, Failure):
            return [_Reading(Outcome.ERROR, logits.detail, None)] * len(batch.samples)
        try:
            scores = score_logits(logits, batch, self.loaded.tokenizer.decode)
        except Exception as error:  # the task's outcome, not the shard's end: the other tasks go on
            log.warning("scoring path %s failed", path, exc_info=True)
            return [_Reading(Outcome.ERROR, f"{type(error).__name__}: {error}", None)] * len(batch.samples)
        return [
            _Reading(Outcome.OK, None, score)
            if score is not None
            else _Reading(Outcome.NON_FINITE, non_finite_detail(logits, row), None)
            for row, score in enumerate(scores)
        ]


def _tokens(bundle: Sequence[Batch]) -> int:
    return sum(batch.token_ids.numel() for batch in bundle)


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
