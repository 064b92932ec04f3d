"""Every path's logits equal those of a model that was physically rebuilt by other code, on many families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.engine.anatomy import find_anatomy
from neuroscan_farm.engine.boundaries import BoundaryCache
from neuroscan_farm.engine.executor import Executor
from neuroscan_farm.engine.gate import pass_gate, relative_difference
from neuroscan_farm.engine.loading import load
from neuroscan_farm.engine.prompts import make_batches
from neuroscan_farm.planning.facts import read_facts
from neuroscan_farm.probes.loader import load_probe_file
from tests.tiny_models import FAMILIES, make_tiny, oracle_logits

PATHS = ["0..5", "0..3,1..5", "0..5,0..5", "0..2,4..5", "5,4,3,2,1,0", "0..1,1,1..5"]


@pytest.mark.parametrize("family", FAMILIES)
def test_paths_of_a_family_equal_physically_rebuilt_models(
    family: str, tmp_path: Path, probe_file: Path
) -> None:
    folder = make_tiny(family, tmp_path / family)
    facts = read_facts(folder)
    loaded = load(folder, EngineOptions())
    anatomy = find_anatomy(loaded.model, torch.tensor([[0, 1, 2, 3]]), depth=facts.depth)
    cache = BoundaryCache(tmp_path / "cache", most_bytes=10**9)
    executor = Executor(loaded, anatomy, fingerprint=facts.fingerprint, cache=cache)
    batches = make_batches(
        loaded.tokenizer,
        [load_probe_file(probe_file)],
        prompt_format="raw",
        batch_size=16,
        max_tokens=facts.max_tokens,
    )
    assert pass_gate(executor, batches) < 1e-5
    batch = max(batches, key=lambda batch: batch.token_ids.shape[1])  # longer than the sliding windows
    found = executor.logits([LayerPath.parse(text) for text in PATHS], batch.token_ids)
    for path, ours in found.items():
        assert isinstance(ours, torch.Tensor), (path, ours)
        theirs = oracle_logits(folder, path.layers, batch.token_ids)
        assert relative_difference(ours, theirs) < 2e-6, path
    assert len(found) == len(PATHS)
