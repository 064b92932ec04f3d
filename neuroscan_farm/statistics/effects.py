"""Effects: a configuration's change against the baseline, paired by sample, with its 95 % interval.

Only samples that are ok on both sides are paired. The intervals are per configuration: nothing here corrects
for how many configurations were tried.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.special import stdtrit

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.statistics.sample_matrix import SampleMatrix, sample_matrices

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Effect:
    """A configuration's mean change against the baseline on one probe, or its mean over probes."""

    task_id: str
    probe: str | None  # None for the unweighted mean over probes
    n: int  # paired samples
    mean: float
    standard_error: float | None  # None with fewer than two samples, as are low and high
    low: float | None  # ends of the 95 % t interval
    high: float | None


def paired_effects(rows: pa.Table, *, metric: Metric, baseline_id: str) -> list[Effect]:
    """Return the effects of the tasks with an ok sample in common with the baseline, by probe and task.

    Args:
        rows: measurements, each (task, probe, sample) at most once, in any order.
        metric: the score that is compared; `correct` counts as 0 and 1.
        baseline_id: the task of the identity path; without its rows there are no effects.
    """
    return effects_of(sample_matrices(rows, [metric.value]), metric=metric, baseline_id=baseline_id)


def effects_of(matrices: Mapping[str, SampleMatrix], *, metric: Metric, baseline_id: str) -> list[Effect]:
    """Return `paired_effects` of matrices that hold the metric's column."""
    return [effect for matrix in matrices.values() for effect in _against(matrix, metric.value, baseline_id)]


def mean_effects(rows: pa.Table, *, metric: Metric, baseline_id: str) -> dict[str, float]:
    """Return each task's mean effect, unweighted over the probes in `rows`.

    A task without an effect on every probe is absent. Bit for bit the same for the same rows in any order,
    because a plan's next stage is made from it.
    """
    matrices = sample_matrices(rows, [metric.value])
    by_task: dict[str, list[float]] = defaultdict(list)
    for effect in effects_of(matrices, metric=metric, baseline_id=baseline_id):
        by_task[effect.task_id].append(effect.mean)
    return {
        task: math.fsum(means) / len(means)
        for task, means in sorted(by_task.items())
        if len(means) == len(matrices)
    }


def mean_over_probes(effects: Sequence[Effect]) -> Effect:
    """Return the unweighted mean of one task's effects on several probes.

    Probes are independent sets of samples, so variances add; the interval's degrees of freedom are those of
    Welch (1947) and Satterthwaite (1946). It is absent where one of the effects has none.
    """
    count = len(effects)
    mean = math.fsum(effect.mean for effect in effects) / count
    n = sum(effect.n for effect in effects)
    shares = [(effect.standard_error, effect.n) for effect in effects]
    variances = [(error / count) ** 2 for error, _ in shares if error is not None]
    if len(variances) < count:
        return Effect(effects[0].task_id, None, n, mean, None, None, None)
    variance = math.fsum(variances)
    if variance > 0:
        spread = math.fsum(part**2 / (size - 1) for part, (_, size) in zip(variances, shares, strict=True))
        freedom = variance**2 / spread if spread > 0 else math.inf
    else:
        freedom = 1.0
    error = math.sqrt(variance)
    half = _half_width(error, freedom)
    return Effect(effects[0].task_id, None, n, mean, error, mean - half, mean + half)


def _against(matrix: SampleMatrix, column: str, baseline_id: str) -> Iterable[Effect]:
    """The effects of one probe's tasks, in the order of the matrix."""
    if baseline_id not in matrix.rows:
        return
    values = matrix.scores[column]
    differences = values - values[matrix.rows[baseline_id]]
    paired = np.isfinite(differences)
    differences = np.where(paired, differences, 0.0)
    counts = paired.sum(axis=1)
    # fsum is exact: the mean depends neither on a task's neighbours nor on the machine's vector width.
    sums = np.array([math.fsum(row) for row in differences.tolist()])
    means = sums / np.maximum(counts, 1)
    squares = np.where(paired, differences - means[:, None], 0.0) ** 2
    freedom = np.maximum(counts - 1, 1)
    errors = np.sqrt(squares.sum(axis=1) / freedom / np.maximum(counts, 1))
    halves = stdtrit(freedom, 0.5 + CONFIDENCE / 2) * errors
    columns = (counts.tolist(), means.tolist(), errors.tolist(), halves.tolist())
    for task, n, mean, error, half in zip(matrix.tasks, *columns, strict=True):
        if n == 0 or task == baseline_id:
            continue
        if n == 1:
            yield Effect(task, matrix.probe, 1, mean, None, None, None)
        else:
            yield Effect(task, matrix.probe, n, mean, error, mean - half, mean + half)


def _half_width(error: float, freedom: float) -> float:
    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error if error > 0 else 0.0
