"""The warm model of a worker: loaded once, gated once, and kept while shards of the same model follow each other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.engine.anatomy import Anatomy, find_anatomy
from neuroscan_farm.engine.boundaries import BoundaryCache
from neuroscan_farm.engine.component_gate import pass_component_gate
from neuroscan_farm.engine.executor import Executor
from neuroscan_farm.engine.freed_memory import keep_freed_memory
from neuroscan_farm.engine.gate import pass_gate, tolerance_of
from neuroscan_farm.engine.lanes.fused import fused_lane
from neuroscan_farm.engine.lanes.general import GeneralLane
from neuroscan_farm.engine.lanes.lane import Lane
from neuroscan_farm.engine.loading import LoadedModel, load
from neuroscan_farm.engine.prompts import Batch, make_batches
from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.facts import ModelFacts
from neuroscan_farm.planning.model_of_run import facts_of_run
from neuroscan_farm.store.run_directory import RunDirectory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Key:
    fingerprint: str
    options: EngineOptions


@dataclass(frozen=True, slots=True)
class _Held:
    loaded: LoadedModel
    anatomy: Anatomy
    facts: ModelFacts


class WarmModel:
    """Holds at most one model; another run's model takes its place."""

    def __init__(
        self,
        *,
        memory_mb: tuple[int, ...] = (),
        memory_limit_mb: int | None = None,
        stream: bool = False,
        threads: int | None = None,
        cache_dir: Path,
        cache_bytes: int,
        folder_here: Callable[[str], str] = lambda folder: folder,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Make a holder that is still empty.

        Args:
            memory_mb: most megabytes of weights on each visible device; more than one splits the model.
            memory_limit_mb: most megabytes of this process; None is what the machine has.
            stream: stream the layers even if the model fits.
            threads: CPU threads for torch; None leaves its own choice.
            cache_dir: the machine's cache.
            cache_bytes: most bytes of boundaries kept there.
            folder_here: where a model's folder is on this machine, by where the submitter found it.
            on_progress: called after each step of loading and proving a model, and after each layer of a baseline, so
                that slow is not taken for hung.
        """
        self._folder_here = folder_here
        self._on_progress = on_progress
        self._memory_mb = memory_mb
        self._memory_limit_mb = memory_limit_mb
        self._stream = stream
        self._cache = BoundaryCache(cache_dir / "boundaries", most_bytes=cache_bytes)
        self._calibrations = cache_dir / "calibrations"
        self._key: _Key | None = None
        self._held: _Held | None = None
        self._ready: dict[tuple[tuple[str, str], ...], tuple[Executor, list[Batch]]] = {}
        if threads is not None:
            torch.set_num_threads(threads)
        if memory_limit_mb is None:  # what is kept would count as this process's
            keep_freed_memory()

    def ready_for(
        self, run: RunDirectory, *, probes: tuple[Probe, ...] | None = None, components: bool = False
    ) -> tuple[Executor, list[Batch]]:
        """Return the executor and the batches of a run, loading and gating the model where it is not held yet.

        Args:
            run: the run.
            probes: what the batches are of; None is the run's own, without those that were added to it.
            components: whether paths will run components of layers alone, which has a gate of its own.

        Raises:
            ModelError: the model is missing, damaged, not the one of the run, or fails the gate.
            ProbeError: the tokenizer cannot answer the probes.
            WorkerError: the device asked for is not there.
        """
        request, manifest = run.request(), run.manifest
        key = _Key(manifest.model_fingerprint, request.engine)
        if self._held is None or self._key != key:
            self._drop()
            self._held = self._load(run, request.engine)
            self._key = key
        probes = run.probes() if probes is None else probes
        asked = tuple((probe.name, probe.digest) for probe in probes)
        if asked not in self._ready:
            self._ready[asked] = self._prove(self._held, probes, request.engine)
        executor, batches = self._ready[asked]
        if components:
            pass_component_gate(executor, batches)
            self._on_progress()
        return executor, batches

    def _load(self, run: RunDirectory, options: EngineOptions) -> _Held:
        facts = facts_of_run(run, here=self._folder_here, on_found=lambda _: self._on_progress())
        loaded = load(
            facts.folder,
            options,
            memory_mb=self._memory_mb,
            memory_limit_mb=self._memory_limit_mb,
            stream=self._stream,
        )
        self._on_progress()
        sample = torch.tensor([[0, 1, 2, 3]], device=loaded.device)
        return _Held(loaded, find_anatomy(loaded.model, sample, depth=facts.depth), facts)

    def _prove(
        self, held: _Held, probes: tuple[Probe, ...], options: EngineOptions
    ) -> tuple[Executor, list[Batch]]:
        batches = make_batches(
            held.loaded.tokenizer,
            probes,
            prompt_format=options.prompt_format,
            batch_size=options.batch_size,
            max_tokens=held.facts.max_tokens,
        )
        self._on_progress()
        executor = Executor(
            held.loaded,
            held.anatomy,
            fingerprint=held.facts.fingerprint,
            cache=self._cache,
            lane=choose_lane(held.loaded, held.anatomy, options, batches),
            calibrations=self._calibrations,
            on_progress=self._on_progress,
        )
        self._on_progress()
        pass_gate(executor, batches)
        self._on_progress()
        executor.calibrate(batches)
        self._on_progress()
        return executor, batches

    def _drop(self) -> None:
        if self._held is not None:
            self._held.loaded.layers.close()
        self._held, self._key = None, None
        self._ready.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def choose_lane(
    loaded: LoadedModel, anatomy: Anatomy, options: EngineOptions, batches: Sequence[Batch]
) -> Lane:
    """Return the fused lane where it is wanted and proven on these prompts, else the general one.

    Raises:
        ModelError: the options ask for what only the fused lane does, and it does not serve this model.
    """
    wanted = getattr(torch, options.residual) if options.residual != "auto" else None
    insisting = options.lane == "fused" or options.residual != "auto"
    if options.lane == "general":
        return GeneralLane(anatomy)
    loaded.layers.follow(anatomy.layers)
    lane, reason = fused_lane(anatomy, residual_dtype=wanted, ensure=loaded.layers.ensure)
    if lane is not None:
        prompts = [batch.token_ids.to(loaded.device) for batch in batches]
        refused = lane.understands(prompts) or lane.prove(
            prompts, tolerance=tolerance_of(loaded.dtype), ensure=loaded.layers.ensure
        )
        if refused is None:
            return lane
        reason = refused
    if insisting:
        raise ModelError(
            f"{type(loaded.model).__name__}: the fused lane does not serve this model ({reason}); "
            "use lane auto and residual auto"
        )
    log.info("%s: the general lane runs (%s)", type(loaded.model).__name__, reason)
    return GeneralLane(anatomy)
