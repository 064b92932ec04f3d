"""Interactions: does leaving out two layers together hurt more, or less, than each of them alone?

Per sample, joint loss - (loss of a + loss of b), a loss being baseline - ablated: the sign of neuro-scan. Above zero more is
lost together (synergistic), below zero less (redundant). Decided by the 95 % interval and by nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.statistics.estimates import estimates
from neuroscan_farm.statistics.sample_matrix import Floats, SampleMatrix

Kind: TypeAlias = Literal["synergistic", "redundant", "independent", "undecided"]
Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Interaction:
    """Of two layers on one probe, or its unweighted mean over the probes (`probe` is None)."""

    layer_a: int
    layer_b: int
    probe: str | None
    n: int  # samples that are ok in the baseline, both singles and the pair
    joint_loss: float  # mean over those samples, as are the other losses
    loss_a: float
    loss_b: float
    mean: float  # joint_loss - (loss_a + loss_b)
    low: float | None  # ends of the 95 % interval
    high: float | None
    p: float | None  # of this pair alone, two-sided
    p_adjusted: float | None  # over all pairs
    q: float | None  # over all pairs
    kind: Kind
    reason: str | None  # why it is undecided


def interactions(
    matrices: Mapping[str, SampleMatrix],
    *,
    metric: Metric,
    baseline_id: str,
    singles: Mapping[int, str],
    pairs: Mapping[Pair, str],
) -> list[Interaction]:
    """Return the interactions of the pairs that are measured, by probe, then over the probes, then by pair.

    A pair is absent where it, the baseline or one of its singles has no ok sample in common with the others; from the
    mean over probes, which is there for several probes, also where that holds for one probe.

    Args:
        matrices: by probe, with the metric's column.
        metric: the score whose loss is looked at; `correct` counts as 0 and 1.
        baseline_id: the task of the untouched model.
        singles: layer -> the task that leaves it out.
        pairs: (a, b) -> the task that leaves out both.
    """
    wanted = sorted(pairs)
    losses = {
        probe: _losses(matrix, metric.value, baseline_id, singles, pairs, wanted)
        for probe, matrix in matrices.items()
    }
    found = [
        one for probe, losses_here in losses.items() for one in _of_view(probe, [losses_here], wanted, metric)
    ]
    if len(losses) > 1:
        found += _of_view(None, list(losses.values()), wanted, metric)
    return found


def _losses(
    matrix: SampleMatrix,
    column: str,
    baseline_id: str,
    singles: Mapping[int, str],
    pairs: Mapping[Pair, str],
    wanted: list[Pair],
) -> Floats:
    """Joint loss, loss of a and loss of b of each pair: [3, pairs, samples]; NaN where one of them is not there."""
    values = matrix.scores[column]
    absent = np.full(values.shape[1], np.nan)

    def row(task: str | None) -> Floats:
        place = matrix.rows.get(task) if task is not None else None
        return absent if place is None else values[place]

    base = row(baseline_id)
    shape = (3, len(wanted), values.shape[1])
    rows = [[base - row(pairs[pair]), *(base - row(singles.get(layer)) for layer in pair)] for pair in wanted]
    losses = np.array(rows, dtype=np.float64).reshape(len(wanted), 3, values.shape[1]).transpose(1, 0, 2)
    losses = losses.reshape(shape)
    losses[:, ~np.isfinite(losses).all(axis=0)] = np.nan  # all three from the same samples
    return losses


def _of_view(
    probe: str | None, losses: list[Floats], wanted: list[Pair], metric: Metric
) -> list[Interaction]:
    if not wanted:
        return []
    bound = 2.0 if metric is Metric.CORRECT else None
    found, _ = estimates([joint - one - other for joint, one, other in losses], bound=bound)
    listed = []
    for place, ((a, b), estimate) in enumerate(zip(wanted, found, strict=True)):
        if estimate is None:
            continue
        joint, one, other = (_mean([part[which, place] for part in losses]) for which in range(3))
        low, high = estimate.low, estimate.high
        kind: Kind = "undecided"
        if low is not None and high is not None:
            kind = "synergistic" if low > 0 else "redundant" if high < 0 else "independent"
        listed.append(
            Interaction(
                layer_a=a,
                layer_b=b,
                probe=probe,
                n=estimate.n,
                joint_loss=joint,
                loss_a=one,
                loss_b=other,
                mean=estimate.mean,
                low=low,
                high=high,
                p=estimate.p,
                p_adjusted=estimate.p_adjusted,
                q=estimate.q,
                kind=kind,
                reason=estimate.no_interval,
            )
        )
    return listed


def _mean(rows: list[Floats]) -> float:
    """Over the samples of each probe, then over the probes."""
    present = [row[np.isfinite(row)] for row in rows]
    return math.fsum(math.fsum(row.tolist()) / len(row) for row in present) / len(present)
