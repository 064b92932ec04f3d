"""Effects: a configuration's change against the baseline, paired by sample, with its 95 % interval and p-values.

Only samples that are ok on both sides are paired. Intervals are per configuration; `p_adjusted` and `q` are over all
configurations that are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.statistics.confirm_split import HeldOut
from neuroscan_farm.statistics.estimates import estimates
from neuroscan_farm.statistics.multiplicity import Noise
from neuroscan_farm.statistics.sample_matrix import Floats, SampleMatrix, sample_matrices


@dataclass(frozen=True, slots=True)
class Effect:
    """A configuration's mean change against the baseline on one probe, or its mean over probes."""

    task_id: str
    probe: str | None  # None for the unweighted mean over probes
    n: int  # paired samples
    mean: float
    standard_error: float | None  # None with fewer than two samples, as are low and high
    low: float | None  # ends of the 95 % interval; see `statistics/bootstrap.py`
    high: float | None
    p: float | None = None  # of this configuration alone; see `statistics/multiplicity.py`
    p_adjusted: float | None = None  # over all configurations of the run
    q: float | None = None  # Benjamini and Hochberg's, over all configurations of the run
    no_interval: str | None = None  # why there is no interval


@dataclass(frozen=True, slots=True)
class Assessment:
    """All effects on one metric, and what chance alone would show, on each probe and over the probes."""

    effects: Mapping[tuple[str, str | None], Effect]  # by task and probe; None for the mean over the probes
    noise: Mapping[str | None, Noise | None]  # by probe; None where no configuration there has a spread


def assess(
    matrices: Mapping[str, SampleMatrix],
    *,
    metric: Metric,
    baseline_id: str,
    probes: Sequence[str] | None = None,
    tasks: Iterable[str] | None = None,
) -> Assessment:
    """Return the effects of the tasks with an ok sample in common with the baseline.

    The mean over the probes is unweighted, and there where a task has an effect on each of several probes. Of one
    probe alone it is that probe's.

    Args:
        matrices: by probe, with the metric's column.
        metric: the score that is compared; `correct` counts as 0 and 1.
        baseline_id: the task of the identity path; without its rows there are no effects.
        probes: all probes that there should be; those of the matrices where None.
        tasks: these and no others; all but the baseline where None.
    """
    wanted = None if tasks is None else set(tasks)
    views = list(matrices if probes is None else probes)
    differences = {
        probe: _differences(matrices[probe], metric.value, baseline_id, wanted)
        for probe in views
        if probe in matrices
    }
    effects: dict[tuple[str, str | None], Effect] = {}
    noise: dict[str | None, Noise | None] = {None: None, **dict.fromkeys(views)}
    for probe, rows in differences.items():
        noise[probe] = _add(effects, probe, [rows], metric)
    if len(views) == 1:
        effects |= {(task, None): effect for (task, _), effect in effects.items()}
        noise[None] = noise[views[0]]
    elif len(differences) == len(views) and views:
        noise[None] = _add(effects, None, [differences[probe] for probe in views], metric)
    return Assessment(effects, noise)


def paired_effects(rows: pa.Table, *, metric: Metric, baseline_id: str) -> list[Effect]:
    """Return the effects of the tasks with an ok sample in common with the baseline, by probe and task.

    Args:
        rows: measurements, each (task, probe, sample) at most once, in any order.
        metric: the score that is compared; `correct` counts as 0 and 1.
        baseline_id: the task of the identity path; without its rows there are no effects.
    """
    matrices = sample_matrices(rows, [metric.value])
    found = assess(matrices, metric=metric, baseline_id=baseline_id).effects
    return [effect for (_, probe), effect in found.items() if probe is not None]


def mean_effects(
    rows: pa.Table, *, metric: Metric, baseline_id: str, held_out: HeldOut | None = None
) -> dict[str, float]:
    """Return each task's mean effect, unweighted over the probes in `rows`.

    A task without an effect on every probe is absent. Bit for bit the same for the same rows in any order,
    because a plan's next stage is made from it.

    Args:
        rows: measurements, each (task, probe, sample) at most once.
        metric: the score that is compared.
        baseline_id: the task of the identity path.
        held_out: samples that must not help to choose, by probe.
    """
    return _means_over_probes(rows, metric, baseline_id, held_out, lambda difference: difference)


def effect_sizes(
    rows: pa.Table, *, metric: Metric, baseline_id: str, held_out: HeldOut | None = None
) -> dict[str, float]:
    """Return how far each task moves a sample's score, either way: the root mean square of its differences.

    It says nothing of their signs. So whatever is chosen by it may be tested by flipping signs, on the same samples:
    under the null hypothesis the choice is the same for every flip. Chosen by the size of the mean, layers would stand
    out by chance, and their interactions with them.

    For the arguments and what else holds, see `mean_effects`.
    """
    squares = _means_over_probes(rows, metric, baseline_id, held_out, lambda difference: difference**2)
    return {task: math.sqrt(square) for task, square in squares.items()}


def _means_over_probes(
    rows: pa.Table,
    metric: Metric,
    baseline_id: str,
    held_out: HeldOut | None,
    of_difference: Callable[[Floats], Floats],
) -> dict[str, float]:
    matrices = sample_matrices(rows, [metric.value])
    if held_out is not None:
        matrices = {probe: matrix.without(held_out[probe]) for probe, matrix in matrices.items()}
    means: dict[str, list[float]] = {}
    for matrix in matrices.values():
        for task, row in _differences(matrix, metric.value, baseline_id, None).items():
            numbers = of_difference(row[np.isfinite(row)]).tolist()
            if numbers:
                means.setdefault(task, []).append(math.fsum(numbers) / len(numbers))
    return {
        task: math.fsum(found) / len(found)
        for task, found in sorted(means.items())
        if len(found) == len(matrices)
    }


def _differences(
    matrix: SampleMatrix, column: str, baseline_id: str, wanted: set[str] | None
) -> dict[str, Floats]:
    """Task -> its differences to the baseline, [samples]; NaN where there is no pair."""
    if baseline_id not in matrix.rows:
        return {}
    values = matrix.scores[column]
    differences = values - values[matrix.rows[baseline_id]]
    return {
        task: row
        for task, row in zip(matrix.tasks, differences, strict=True)
        if task != baseline_id and (wanted is None or task in wanted)
    }


def _add(
    effects: dict[tuple[str, str | None], Effect],
    probe: str | None,
    rows: Sequence[Mapping[str, Floats]],
    metric: Metric,
) -> Noise | None:
    """Add the effects of the tasks that have rows on all these probes; return what chance would show."""
    tasks = [task for task in rows[0] if all(task in others for others in rows[1:])]
    if not tasks:
        return None
    parts = [np.array([one[task] for task in tasks]) for one in rows]
    found, noise = estimates(parts, bound=1.0 if metric is Metric.CORRECT else None)
    for task, one in zip(tasks, found, strict=True):
        if one is not None:
            effects[task, probe] = Effect(
                task_id=task,
                probe=probe,
                n=one.n,
                mean=one.mean,
                standard_error=one.standard_error,
                low=one.low,
                high=one.high,
                p=one.p,
                p_adjusted=one.p_adjusted,
                q=one.q,
                no_interval=one.no_interval,
            )
    return noise
