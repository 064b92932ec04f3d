"""Estimates: a mean difference with all that is said of it, for each of many configurations at once.

One machinery serves effects of configurations and interactions of layers: what is measured is a table of
differences, a row for each of the things that were tried, a column for each sample.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuroscan_farm.statistics.bootstrap import (
    bounded_intervals,
    student_error,
    studentised_intervals,
    without_spread,
)
from neuroscan_farm.statistics.multiplicity import Noise, best_under_noise, p_values
from neuroscan_farm.statistics.sample_matrix import Floats


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean difference; what is not there is None, and `no_interval` says why."""

    n: int  # samples
    mean: float
    standard_error: float | None = None  # None where one probe has a single sample
    low: float | None = None  # ends of the 95 % interval
    high: float | None = None
    p: float | None = None  # of this one alone
    p_adjusted: float | None = None  # over all of the table
    q: float | None = None  # over all of the table
    no_interval: str | None = None  # why low and high are None


def estimates(
    parts: Sequence[Floats], *, bound: float | None = None
) -> tuple[list[Estimate | None], Noise | None]:
    """Return an estimate for each row, and what the best row would show if none were different from zero.

    Args:
        parts: for each probe the differences [rows, its samples]; NaN where there is none. The estimate is the mean over
            probes of the means over samples. A row without a number in one of them has no estimate.
        bound: the largest size of a difference, where it takes few values between -bound and bound.
    """
    rows = len(parts[0])
    present = [np.isfinite(part) for part in parts]
    counts = np.array([one.sum(axis=1) for one in present]).T  # [rows, parts]
    found: list[Estimate | None] = [None] * rows
    # fsum is exact: a mean depends neither on a row's neighbours nor on the machine's vector width.
    means = [_exact_mean([part[row] for part in parts], counts[row]) for row in range(rows)]
    alike: dict[bytes, list[int]] = defaultdict(list)  # rows with numbers in the same places
    packed = np.packbits(np.concatenate(present, axis=1), axis=1)
    for row in np.flatnonzero(counts.min(axis=1) >= 2).tolist():
        alike[packed[row].tobytes()].append(row)
    for row in np.flatnonzero(counts.min(axis=1) == 1).tolist():
        found[row] = Estimate(int(counts[row].sum()), _number(means[row]), no_interval=_lone(counts[row]))
    several = np.array(sorted(row for group in alike.values() for row in group), dtype=np.int64)
    if not several.size:
        return found, None
    tested = p_values([part[several] for part in parts])
    place_of = {row: place for place, row in enumerate(several.tolist())}
    for group in alike.values():
        full = [part[np.ix_(group, one[group[0]])] for part, one in zip(parts, present, strict=True)]
        errors, _ = student_error(full)
        if bound is not None:
            flat = np.zeros(len(group), dtype=bool)
            lows, highs = bounded_intervals(full, bound=bound)
        else:
            flat = np.any([without_spread(part) for part in full], axis=0)
            lows, highs = studentised_intervals(full)
        for row, error, low, high, alone in zip(group, errors, lows, highs, flat, strict=True):
            found[row] = Estimate(
                n=int(counts[row].sum()),
                mean=_number(means[row]),
                standard_error=float(error),
                low=None if alone else float(low),
                high=None if alone else float(high),
                p=float(tested.p[place_of[row]]),
                p_adjusted=float(tested.p_adjusted[place_of[row]]),
                q=float(tested.q[place_of[row]]),
                no_interval=_flat(full) if alone else None,
            )
    return found, best_under_noise([part[several] for part in parts], tested=tested)


def _exact_mean(rows: Sequence[Floats], counts: Sequence[int]) -> float | None:
    if min(counts) == 0:
        return None
    sums = [math.fsum(row[np.isfinite(row)].tolist()) for row in rows]
    return math.fsum(total / int(n) for total, n in zip(sums, counts, strict=True)) / len(rows)


def _number(mean: float | None) -> float:
    assert mean is not None
    return mean


def _lone(counts: Sequence[int]) -> str:
    if len(counts) == 1:
        return "one sample alone says nothing of the spread"
    return "one of the probes has a single sample, which says nothing of the spread"


def _flat(parts: Sequence[Floats]) -> str:
    if len(parts) == 1:
        return f"the differences of all {parts[0].shape[1]} samples are equal, so no spread is seen"
    return "the differences of all samples of a probe are equal, so no spread is seen"
