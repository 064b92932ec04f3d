"""The warm model of a worker: loaded once, gated once, and kept while shards of the same model follow each other."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.engine.anatomy import find_anatomy
from neuroscan_farm.engine.boundaries import BoundaryCache
from neuroscan_farm.engine.executor import Executor
from neuroscan_farm.engine.gate import pass_gate
from neuroscan_farm.engine.loading import load
from neuroscan_farm.engine.prompts import Batch, make_batches
from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.facts import read_facts
from neuroscan_farm.planning.model_source import find_model
from neuroscan_farm.store.run_directory import RunDirectory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Key:
    fingerprint: str
    options: EngineOptions


class WarmModel:
    """Holds at most one model; another run's model takes its place."""

    def __init__(
        self,
        *,
        memory_mb: tuple[int, ...] = (),
        threads: int | None = None,
        cache_dir: Path,
        cache_bytes: int,
    ) -> None:
        """Make a holder that is still empty.

        Args:
            memory_mb: most megabytes of weights on each visible device; more than one splits the model.
            threads: CPU threads for torch; None leaves its own choice.
            cache_dir: the machine's cache.
            cache_bytes: most bytes of boundaries kept there.
        """
        self._memory_mb = memory_mb
        self._cache = BoundaryCache(cache_dir / "boundaries", most_bytes=cache_bytes)
        self._key: _Key | None = None
        self._executor: Executor | None = None
        self._max_tokens: int | None = None
        self._batches: dict[tuple[tuple[str, str], ...], list[Batch]] = {}
        if threads is not None:
            torch.set_num_threads(threads)

    def ready_for(self, run: RunDirectory) -> tuple[Executor, list[Batch]]:
        """Return the executor and the batches of a run, loading and gating the model where it is not held yet.

        Raises:
            ModelError: the model is missing, damaged, not the one of the run, or fails the gate.
            ProbeError: the tokenizer cannot answer the probes.
            WorkerError: the device asked for is not there.
        """
        request, manifest = run.request(), run.manifest
        key = _Key(manifest.model_fingerprint, request.engine)
        if self._executor is None or self._key != key:
            self._drop()
            self._executor = self._load(run, request.engine)
            self._key = key
        probes = run.probes()
        asked = tuple((probe.name, probe.digest) for probe in probes)
        batches = self._batches.get(asked)
        if batches is None:
            batches = self._prove(self._executor, probes, request.engine)
            self._batches[asked] = batches
        return self._executor, batches

    def _load(self, run: RunDirectory, options: EngineOptions) -> Executor:
        request, manifest = run.request(), run.manifest
        # The folder that the coordinator found is tried first: a relative path means nothing in another process.
        name = manifest.model_folder if Path(manifest.model_folder).is_dir() else request.model
        folder = find_model(name, revision=request.revision, weights=True)
        facts = read_facts(folder, name=manifest.model_name)
        if facts.fingerprint != manifest.model_fingerprint:
            raise ModelError(
                f"model {folder}: its content is not that of the run (fingerprint {facts.fingerprint[:12]}, the run's "
                f"is {manifest.model_fingerprint[:12]}); restore the model, or start a new run"
            )
        loaded = load(folder, options, memory_mb=self._memory_mb)
        sample = torch.tensor([[0, 1, 2, 3]], device=loaded.device)
        anatomy = find_anatomy(loaded.model, sample, depth=facts.depth)
        self._max_tokens = facts.max_tokens
        return Executor(loaded, anatomy, fingerprint=facts.fingerprint, cache=self._cache)

    def _prove(self, executor: Executor, probes: tuple[Probe, ...], options: EngineOptions) -> list[Batch]:
        batches = make_batches(
            executor.loaded.tokenizer,
            probes,
            prompt_format=options.prompt_format,
            batch_size=options.batch_size,
            max_tokens=self._max_tokens,
        )
        pass_gate(executor, batches)
        return batches

    def _drop(self) -> None:
        self._executor, self._key = None, None
        self._batches.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
