"""95 % intervals of a mean of paired differences, for many configurations at once.

Numbers without a bound get the studentised bootstrap ("bootstrap-t"; Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 12; Hall, The Bootstrap and Edgeworth Expansion, 1992), because it corrects for skewness to the
second order at sample sizes at which BCa (Efron 1987) still covers too seldom; at neither end is it narrower than
Student's interval, which covers better where tails are heavy. Differences of right and wrong answers take few values, so
that resamples tell little: they get the adjusted Wald interval of Agresti and Min (Statistics in Medicine 24, 2005),
which stays honest where no sample changed. The simulation that chose is in docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import ndtri, stdtrit

from neuroscan_farm.statistics.sample_matrix import Floats

CONFIDENCE = 0.95
RESAMPLES = 2000
EQUAL = 1e-9  # a spread below this share of the size is rounding: the differences are equal
_SEED = 20261120
_ROWS_AT_ONCE = 256  # configurations whose resamples are in memory together
# A resample that happens to repeat almost the same few samples has no spread to divide by; this share of the
# variance is the least that is believed.
_LEAST_VARIANCE = 0.1


def studentised_intervals(parts: Sequence[Floats], *, resamples: int = RESAMPLES) -> tuple[Floats, Floats]:
    """Return the ends of the intervals of each row's mean, unweighted over the parts.

    The same values give the same ends, whatever rows they stand among. Rows without any spread in one of the parts
    get a meaningless interval.

    Args:
        parts: for each probe the differences [configurations, its samples >= 2], all finite; resampled each by itself.
        resamples: how many.
    """
    rows = len(parts[0])
    low, high = np.empty(rows), np.empty(rows)
    weights = [_weights(part.shape[1], resamples, place) for place, part in enumerate(parts)]
    for start in range(0, rows, _ROWS_AT_ONCE):
        chosen = slice(start, start + _ROWS_AT_ONCE)
        low[chosen], high[chosen] = _studentised([part[chosen] for part in parts], weights)
    return low, high


def student_error(parts: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Return the standard errors of the rows' means over the parts, and their degrees of freedom.

    Variances of parts add; the freedom is that of Welch (1947) and Satterthwaite (1946).
    """
    shares = [part.var(axis=1, ddof=1) / part.shape[1] / len(parts) ** 2 for part in parts]
    variance = np.sum(shares, axis=0)
    spread = np.sum(
        [share**2 / (part.shape[1] - 1) for share, part in zip(shares, parts, strict=True)], axis=0
    )
    freedom = np.divide(variance**2, spread, out=np.ones_like(variance), where=spread > 0)
    return np.sqrt(variance), freedom


def bounded_intervals(parts: Sequence[Floats], *, bound: float) -> tuple[Floats, Floats]:
    """Return the ends of the intervals of each row's mean of differences between -bound and bound.

    Agresti and Min's: to each part two samples are added, one at each bound; then normal quantiles.

    Args:
        parts: for each probe the differences [configurations, its samples], all finite.
        bound: the largest size that a difference can have.
    """
    centres, variances = [], []
    for part in parts:
        count = part.shape[1] + 2
        centre = part.sum(axis=1) / count
        centres.append(centre)
        variances.append(((part**2).sum(axis=1) + 2 * bound**2) / count**2 - centre**2 / count)
    centre = np.mean(centres, axis=0)
    half = ndtri(0.5 + CONFIDENCE / 2) * np.sqrt(np.sum(variances, axis=0)) / len(parts)
    return np.maximum(centre - half, -bound), np.minimum(centre + half, bound)


def without_spread(part: Floats) -> Floats:
    """Return of each row of finite differences whether all are equal, but for rounding."""
    equal: Floats = np.ptp(part, axis=1) <= EQUAL * np.abs(part).max(axis=1)
    return equal


def _studentised(parts: Sequence[Floats], weights: Sequence[Floats]) -> tuple[Floats, Floats]:
    count = len(parts)
    mean = np.mean([part.mean(axis=1) for part in parts], axis=0)
    error, freedom = student_error(parts)
    scale = np.where(error > 0, error, 1.0)
    shift, variance = 0.0, 0.0
    for part, weight in zip(parts, weights, strict=True):
        n = part.shape[1]
        centred = (part - part.mean(axis=1, keepdims=True)) / scale[:, None]
        means = centred @ weight  # [rows, resamples]
        here = (centred**2) @ weight - means**2
        seen = (centred**2).mean(axis=1, keepdims=True)
        shift = shift + means / count
        variance = variance + np.maximum(here, _LEAST_VARIANCE * seen) / (n - 1) / count**2
    # Rows without a spread divide nothing by nothing.
    pivots = shift / np.sqrt(np.where(variance > 0, variance, 1.0))
    tail = (1 - CONFIDENCE) / 2
    below, above = np.quantile(pivots, [tail, 1 - tail], axis=1, overwrite_input=True)
    usual = stdtrit(freedom, 1 - tail)
    return mean - np.maximum(above, usual) * error, mean - np.minimum(below, -usual) * error


@lru_cache(maxsize=16)
def _weights(n: int, resamples: int, place: int) -> Floats:
    """The share of each of `n` samples in each resample, [n, resamples]; other places, other resamples."""
    drawn = np.random.default_rng([_SEED, n, place]).multinomial(n, np.full(n, 1 / n), size=resamples)
    weights: Floats = np.ascontiguousarray(drawn.T / n)
    weights.setflags(write=False)
    return weights
