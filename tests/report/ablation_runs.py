"""Runs of ablations on paper, with losses and interactions that are planted, and their sums done by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.report.left_out import left_out_by
from neuroscan_farm.store.run_directory import RunDirectory
from tests.report.conftest import Behaviour

DEPTH = 6
LOSSES = (2.0, 0.1, 0.6, -0.2, 0.4, 1.0)  # of log-odds without each layer
PLANTED = {(0, 1): 0.0, (1, 2): 0.9, (2, 4): -0.5, (3, 5): 0.0}  # interactions beyond the sum of the losses


def without(*layers: int, depth: int = DEPTH) -> LayerPath:
    return LayerPath([layer for layer in range(depth) if layer not in layers])


def losing(
    losses: Sequence[float] = LOSSES,
    planted: Mapping[tuple[int, int], float] = PLANTED,
    *,
    noise: float = 0.05,
    other: Mapping[str, Sequence[float]] | None = None,
) -> Behaviour:
    """A model that loses log-odds by what is left out; `other` gives the losses of probes by name."""

    def behaviour(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
        mine = (other or {}).get(probe, losses)
        gone = left_out_by(task.path, len(mine)) or ()
        lost = sum(mine[one.layer] * (1.0 if one.component == "layer" else 0.5) for one in gone)
        pairs = itertools.combinations([one.layer for one in gone], 2)
        lost += sum(planted.get(pair, 0.0) for pair in pairs)
        return float(1.5 + 0.1 * sample - lost + random.normal(0, noise)), Outcome.OK

    return behaviour


def rows_of(run: RunDirectory) -> dict[tuple[tuple[int, ...], str], dict[str, dict[str, float]]]:
    """(path, probe) -> sample -> scores, straight from the parts."""
    found: dict[tuple[tuple[int, ...], str], dict[str, dict[str, float]]] = {}
    for row in run.parts.read().to_pylist():
        if row["outcome"] == "ok":
            found.setdefault((tuple(row["path"]), row["probe"]), {})[row["sample_id"]] = row
    return found


def mean_score(run: RunDirectory, path: LayerPath, probe: str, column: str = "expected_score") -> float:
    rows = rows_of(run)[tuple(path.steps), probe]
    return fmean(row[column] for row in rows.values())


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
