"""The benchmark's own requests to neuroscan-farm, and fresh run directories of them."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

from counting import Steps

from neuroscan_farm.analyses import read_request
from neuroscan_farm.coordinator.prepare import Plan, make_plan, prepare
from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.store.run_directory import RunDirectory


def plan_of(
    model: str,
    probe: str,
    *,
    parameters: dict[str, Any],
    engine: dict[str, Any] | None = None,
    shard_size: int | None = None,
) -> Plan:
    """Return the plan of a duplication request in float32; what is None is the program's own default."""
    data: dict[str, Any] = {
        "analysis": "duplication",
        "model": model,
        "probes": [probe],
        "parameters": parameters,
        "engine": {"dtype": "float32", "device": "cpu"} | (engine or {}),
    }
    if shard_size is not None:
        data["shard_size"] = shard_size
    return make_plan(read_request(data, where="benchmark"))


def lanes() -> list[str]:
    """Return the executor's lanes, as contenders are named; one without a name before there was a choice."""
    return ["general", "fused"] if "lane" in EngineOptions.model_fields else [""]


def grid_parameters(step: int) -> dict[str, int]:
    """Return a grid thinned out to every `step`-th i and j, with as large a share of saved work as the full one.

    In the full grid of L layers (the baseline included) sharing saves half of the evaluations. A stride alone would
    keep the blocks at the lower edge and save less; half a stride as margin and as shortest block restores the half.
    """
    margin = max(step // 2, 1)
    return {"skip_early": margin, "min_block": margin, "step": step}


def grid_paths(depth: int, *, skip_early: int, min_block: int, step: int) -> dict[str, Steps]:
    """Return the paths of a grid by "i,j", in the order of layer-scan."""
    return {
        f"{i},{j}": (*range(j), *range(i, depth))
        for i in range(skip_early, depth, step)
        for j in range(i + min_block, depth + 1, step)
    }


def ablation_paths(depth: int) -> dict[str, Steps]:
    """Return the paths that leave out each layer, and each pair of layers, by "a" and "a,b"."""
    singles = {str(a): tuple(k for k in range(depth) if k != a) for a in range(depth)}
    pairs = {
        f"{a},{b}": tuple(k for k in range(depth) if k not in (a, b))
        for a, b in itertools.combinations(range(depth), 2)
    }
    return singles | pairs


def fresh_run(plan: Plan, root: Path, cache: Path) -> RunDirectory:
    """Return a run directory without parts, and forget what an earlier round left in the cache.

    Only the machine's calibration is kept, which is measured once per model and machine, before the first shard.
    """
    shutil.rmtree(root, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    for kept in cache.iterdir():
        if kept.name != "calibrations":
            shutil.rmtree(kept)
    return prepare(plan, root, executor="local")
