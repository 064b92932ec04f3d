"""The similarity of layers is what the model's own residual streams say, and is there before the baseline's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from neuroscan_farm.engine.shard import execute_shard
from neuroscan_farm.engine.similarity import layer_similarity
from neuroscan_farm.errors import ModelError, StorageError
from neuroscan_farm.store.parts import Parts
from tests.conftest import MakeRun


def by_hooks(executor: Any, batches: Any) -> torch.Tensor:
    """The same by hand: hooks on the layers, each prompt alone, one pair of layers at a time."""
    layers, depth = executor.anatomy.layers, len(executor.anatomy.layers)
    total, samples = torch.zeros(depth, depth, dtype=torch.float64), 0
    for batch in batches:
        for prompt in batch.token_ids:
            kept: list[torch.Tensor] = []
            handles = [
                layer.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output[0, -1]))
                for layer in layers
            ]
            executor.loaded.model(input_ids=prompt[None], use_cache=False)
            for handle in handles:
                handle.remove()
            for a in range(depth):
                for b in range(depth):
                    total[a, b] += torch.cosine_similarity(kept[a].double(), kept[b].double(), dim=0)
            samples += 1
    return total / samples


@pytest.mark.parametrize("lane", ["general", "fused"])
def test_it_is_the_mean_cosine_of_the_last_tokens_residuals_over_all_samples(
    lane: str, make_run: MakeRun, warm: Any
) -> None:
    run = make_run(engine={"lane": lane})
    executor, batches = warm.ready_for(run)
    found = torch.tensor(layer_similarity(executor, batches), dtype=torch.float64)
    assert torch.allclose(found, by_hooks(executor, batches), atol=1e-5)
    assert torch.equal(found, found.T)
    assert torch.allclose(found.diagonal(), torch.ones(6, dtype=torch.float64))
    assert found.tolist() == layer_similarity(executor, batches)


def test_a_residual_that_is_not_finite_is_refused_and_not_averaged(
    make_run: MakeRun, warm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, batches = warm.ready_for(make_run())
    ends = next(executor.baseline_ends(batches))
    ends[2, 0] = float("inf")
    monkeypatch.setattr(type(executor), "baseline_ends", lambda *_: iter([ends]))
    with pytest.raises(ModelError, match="not finite in float32"):
        layer_similarity(executor, batches)


def test_a_family_whose_residual_is_not_one_vector_for_each_token_is_refused_with_the_strategies_that_do(
    make_run: MakeRun, warm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, batches = warm.ready_for(make_run())
    monkeypatch.setattr(type(executor), "baseline_ends", lambda *_: iter([torch.ones(6, 2, 5, 4)]))
    with pytest.raises(ModelError, match="use --strategy fast or exhaustive"):
        layer_similarity(executor, batches)


def thorough(make_run: MakeRun, **changes: Any) -> Any:
    return make_run(analysis="circuits", parameters={"strategy": "thorough"}, **changes)


def test_the_worker_of_the_baseline_writes_it_and_no_other(make_run: MakeRun, warm: Any) -> None:
    run = thorough(make_run, shard_size=4)
    baselines = {shard.shard_id for shard in run.shards() if any(task.is_baseline(6) for task in shard.tasks)}
    others = [shard for shard in run.shards() if shard.shard_id not in baselines]
    assert others
    for shard in others:
        execute_shard(run, shard.shard_id, 1, worker="test", warm=warm)
    assert not run.similarity.is_there()
    (baseline,) = baselines
    execute_shard(run, baseline, 1, worker="test", warm=warm)
    assert torch.tensor(run.similarity.read()).shape == (6, 6)


def test_it_is_there_before_the_rows_of_the_baseline(
    make_run: MakeRun, warm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = thorough(make_run)
    seen: list[bool] = []

    def refuse(parts: Parts, *_: Any) -> None:
        seen.append(run.similarity.is_there())
        raise StorageError("the disk is full")

    monkeypatch.setattr(Parts, "write", refuse)
    with pytest.raises(StorageError):
        execute_shard(run, run.shards()[0].shard_id, 1, worker="test", warm=warm)
    assert seen == [True]
    assert not run.parts.look().done


def test_a_run_that_needs_none_has_none(make_run: MakeRun, warm: Any) -> None:
    run = make_run(analysis="circuits", parameters={"strategy": "fast"})
    execute_shard(run, run.shards()[0].shard_id, 1, worker="test", warm=warm)
    assert not run.similarity.is_there()
    assert not (Path(run.location) / "similarity.json").exists()
