"""p-values that hold for all configurations of a run together, by flipping signs.

The null hypothesis of a configuration is that it changes nothing: on every sample, the difference to the baseline is as
likely to be d as -d (it is symmetric around zero, and so its mean is zero). Under the null of all configurations the
signs of one sample's differences can be flipped for all of them at once, which keeps how they hang together. All
p-values are two-sided.

Adjusted p-values are Westfall and Young's (Resampling-Based Multiple Testing, 1993) step-down max-T: a flip gives each
configuration a new t; a configuration's is compared with the largest among those that were no more extreme than it. The
family-wise error holds its level whichever of the nulls are true, because what is compared rests on the differences of the
true ones alone. The flips are not drawn one by one: they are a group (flipping twice is again one of them, and not
flipping at all too), for which a test with the same flips in every run is exact and no approximation (Hemerik and Goeman,
TEST 27, 2018). Where there are no more flips than that, they are all there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr
from scipy.stats import false_discovery_control

from neuroscan_farm.statistics.sample_matrix import Floats

FLIPS = 2048
LEVEL = 0.05  # of the family-wise error, two-sided
_SEED = 20261121
_MEANS_AT_ONCE = 1_000_000  # configurations times flips in memory together
_NOT_LESS = 1 - 1e-9  # what is equal but for rounding is as extreme
_NO_SPREAD = 1e-12  # the least share of the mean square that counts as variance: keeps t finite
_SEEN = 2e-6  # standard errors below this share of the size come of that


@dataclass(frozen=True, slots=True)
class Noise:
    """What the best of so many configurations would show if none of them changed anything.

    Each configuration's differences, freed of their mean, get random signs, the same for all; the largest mean is
    looked at in standard errors, because blocks that break a model are noisier than any that would be chosen.
    """

    tried: int  # configurations
    flips: int
    standard_errors: float  # the largest of so many, on average
    # What the configuration with the largest mean must exceed for an adjusted p below LEVEL; None where the samples are so
    # few that nothing can.
    standard_errors_high: float | None
    standard_error: float  # of the configuration with the largest mean: what is written in the metric's units
    mean: float  # the average, for configurations as noisy as that one, in the metric's units
    high: float | None  # what that one must exceed, in the metric's units


class PValues(NamedTuple):
    """Of each configuration, two-sided."""

    p: Floats  # of it alone
    p_adjusted: Floats  # family-wise, over all configurations
    q: Floats  # Benjamini and Hochberg's (1995), from p


def p_values(parts: Sequence[Floats], *, flips: int = FLIPS) -> PValues:
    """Return the p-values of the rows' mean differences, unweighted over the parts.

    p of a configuration alone is the share of flips that are as extreme. Where none is but what was seen, they only say
    that p is small; then it is Student's, but not above 1 / flips, nor below what flips of so many differences other
    than zero can give at all.

    Args:
        parts: for each probe the differences [configurations, its samples]; NaN where there is none, but two numbers
            at least in each row of each part.
        flips: how many; rounded down to a power of two.
    """
    held = [_Held(part) for part in parts]
    rows = len(parts[0])
    if not rows:
        return PValues(np.zeros(0), np.zeros(0), np.zeros(0))
    sizes = [part.shape[1] for part in parts]
    seen = np.abs(_t([part.mean for part in held], held))[:, 0]
    order = np.argsort(-seen, kind="stable")
    back = np.argsort(order)
    held = [part.ordered(order) for part in held]
    threshold = (seen[order] * _NOT_LESS)[:, None]
    alone, together = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
    signs, complete = _signs(sum(sizes), flips)
    for some in _in_turn(signs, sizes, rows=len(held[0].count)):
        t = np.abs(_t([part.means(sign) for part, sign in zip(held, some, strict=True)], held))
        alone += (t >= threshold).sum(axis=1)
        together += (np.maximum.accumulate(t[::-1], axis=0)[::-1] >= threshold).sum(axis=1)
    count = len(signs)
    adjusted = np.maximum.accumulate(together / count)[back]
    p = (alone / count)[back]
    if not complete:
        p = np.where(alone[back] == 1, _tail(seen, parts, most=1 / count), p)
    return PValues(p, np.maximum(adjusted, p), false_discovery_control(p))


def best_under_noise(
    parts: Sequence[Floats], *, tested: PValues | None = None, flips: int = FLIPS
) -> Noise | None:
    """Return what the best of the rows would show by chance; None where no row has a spread.

    The average is of the largest mean. What the best must exceed agrees with its adjusted p, to the flip: it is above
    `high` just where that p is below LEVEL.

    Args:
        parts: as `p_values` takes them.
        tested: what that returned for them; None to have it worked out here.
        flips: how many; rounded down to a power of two.
    """
    held = [_Held(part, centred=True) for part in parts]
    errors = np.sqrt(sum(part.variance_of_mean for part in held)) / len(parts)
    size = np.sqrt(sum((part.square / part.count)[:, 0] for part in held))
    rows = np.flatnonzero(errors > _SEEN * size)
    if not rows.size:
        return None
    held = [part.ordered(rows) for part in held]
    best = rows[np.argmax(np.mean([np.nanmean(part[rows], axis=1) for part in parts], axis=0))]
    sizes = [part.shape[1] for part in parts]
    signs, _ = _signs(sum(sizes), flips)
    largest = []
    for some in _in_turn(signs, sizes, rows=len(held[0].count)):
        # A mean of residuals with random signs varies by n - 1 parts of n of the mean's own variance.
        means = sum(
            part.means(sign) * np.sqrt(part.count / (part.count - 1))
            for part, sign in zip(held, some, strict=True)
        )
        largest.append((means / len(parts) / errors[rows, None]).max(axis=0))
    drawn = np.concatenate(largest)
    average, error = float(drawn.mean()), float(errors[best])
    high = _threshold(
        parts, int(best), p_values(parts, flips=flips) if tested is None else tested, signs=signs
    )
    return Noise(
        len(rows), len(signs), average, high, error, average * error, None if high is None else high * error
    )


def _threshold(parts: Sequence[Floats], row: int, tested: PValues, *, signs: Floats) -> float | None:
    """Return the t that `row` must exceed for an adjusted p below LEVEL; None where none would do.

    Rows that are more extreme and have such a p themselves are out of the comparison, as step-down has it.
    """
    held = [_Held(part) for part in parts]
    order = np.argsort(-np.abs(_t([part.mean for part in held], held))[:, 0], kind="stable")
    place = int(np.flatnonzero(order == row)[0])
    undecided = np.flatnonzero(tested.p_adjusted[order[:place]] >= LEVEL)
    compared = order[int(undecided[0]) if undecided.size else place :]
    held = [part.ordered(compared) for part in held]
    largest = np.concatenate(
        [
            np.abs(_t([part.means(sign) for part, sign in zip(held, some, strict=True)], held)).max(axis=0)
            for some in _in_turn(signs, [part.shape[1] for part in parts], rows=len(compared))
        ]
    )
    within = math.ceil(LEVEL * len(largest)) - 1  # so many flips may be as extreme
    # Not flipping is one of the flips, and flipping all, where it is another, is as extreme.
    return float(np.sort(largest)[::-1][within]) if within >= 2 else None


class _Held:
    """One probe's differences as the flips need them: zeros where there is none."""

    def __init__(self, part: Floats, *, centred: bool = False) -> None:
        present = np.isfinite(part)
        self.count = present.sum(axis=1, keepdims=True).astype(np.float64)
        filled = np.where(present, part, 0.0)
        self.square = (filled**2).sum(axis=1, keepdims=True) / self.count
        self.mean = filled.sum(axis=1, keepdims=True) / self.count
        if centred:
            filled = np.where(present, part - self.mean, 0.0)
        self.scaled = filled / self.count

    @property
    def variance_of_mean(self) -> Floats:
        return self.variance(self.mean)[:, 0]

    def variance(self, means: Floats) -> Floats:
        """The variance of the rows' means, where flips gave them `means` [rows, flips]."""
        least = _NO_SPREAD * self.square
        found: Floats = np.maximum(self.square - means**2, least) / (self.count - 1)
        return found

    def means(self, signs: Floats) -> Floats:
        """The rows' means with other signs, [rows, flips]."""
        found: Floats = self.scaled @ signs.T
        return found

    def ordered(self, rows: np.ndarray) -> _Held:
        """These rows in this order."""
        other = object.__new__(_Held)
        for name in ("count", "square", "mean", "scaled"):
            setattr(other, name, getattr(self, name)[rows])
        return other


def _t(means: Sequence[Floats], held: Sequence[_Held]) -> Floats:
    """Each row's t, from the means that it has on each part; 0 where all its differences are 0."""
    mean = sum(means)
    variance = sum(part.variance(one) for part, one in zip(held, means, strict=True))
    t: Floats = np.divide(mean, np.sqrt(variance), out=np.zeros_like(mean), where=variance > 0)
    return t


def _in_turn(signs: Floats, sizes: Sequence[int], *, rows: int) -> Iterator[list[Floats]]:
    """Some of the flips after the other, for each part its own: as many as memory bears for so many rows."""
    step = max(1, _MEANS_AT_ONCE // rows)
    for start in range(0, len(signs), step):
        yield np.split(signs[start : start + step], np.cumsum(sizes)[:-1], axis=1)


def _tail(seen: Floats, parts: Sequence[Floats], *, most: float) -> Floats:
    """Student's two-sided p of the observed t, between what flips can give and `most`."""
    variances = [np.nanvar(part, axis=1, ddof=1) / np.isfinite(part).sum(axis=1) for part in parts]
    freedoms = [np.isfinite(part).sum(axis=1) - 1 for part in parts]
    spread = sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    freedom = np.divide(sum(variances) ** 2, spread, out=np.ones_like(seen), where=spread > 0)
    changed = sum((np.nan_to_num(part) != 0).sum(axis=1) for part in parts)
    p: Floats = np.minimum(most, np.maximum(2 * stdtr(freedom, -seen), 2.0 ** (1 - changed)))
    return p


def _signs(n: int, flips: int) -> tuple[Floats, bool]:
    """Signs [flips, n] that are a group under multiplication, none of them flipped first; and whether it is all 2^n.

    Each sample has a code of so many bits as the group has generators, and its sign in flip k is the parity of the bits
    that its code and k have in common. Codes are random and differ, so that the signs of two samples are independent.
    """
    bits = flips.bit_length() - 1
    if n <= bits:
        bits, codes = n, 1 << np.arange(n)
    else:
        random = np.random.default_rng([_SEED, n, bits])
        codes = 1 + random.choice(2**bits - 1, size=n, replace=n > 2**bits - 1)
    odd = np.bitwise_count(np.arange(2**bits)[:, None] & codes) & 1
    return np.where(odd == 1, -1.0, 1.0), bits == n
