"""Intervals: that they cover, in samples as small, as skewed and as tied as ours, and what has none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from neuroscan_farm.statistics.bootstrap import bounded_intervals, studentised_intervals
from neuroscan_farm.statistics.estimates import estimates

TABLES = 1500
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def three_valued(gain: float, loss: float) -> Draw:
    def draw(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        u = random.random(shape)
        return np.where(u < gain, 1.0, np.where(u < gain + loss, -1.0, 0.0))

    return draw


def coverage(lows: np.ndarray, highs: np.ndarray, truth: float) -> float:
    return float(((lows <= truth) & (truth <= highs)).mean())


# The least coverage that is asked for is what the page of statistics promises, less the simulation's own error.
@pytest.mark.parametrize(
    ("draw", "truth", "n", "least"),
    [
        (lambda r, s: r.normal(size=s), 0.0, 8, 0.94),
        (lambda r, s: r.normal(size=s), 0.0, 32, 0.94),
        (lambda r, s: r.exponential(size=s), 1.0, 16, 0.92),
        (lambda r, s: r.exponential(size=s), 1.0, 64, 0.935),
        (lambda r, s: r.standard_t(3, size=s), 0.0, 16, 0.935),
        (lambda r, s: np.round(r.normal(0.3, 1.0, size=s)), 0.3, 32, 0.93),
    ],
    ids=["normal-8", "normal-32", "skewed-16", "skewed-64", "heavy-16", "tied-32"],
)
def test_studentised_intervals_cover(draw: Draw, truth: float, n: int, least: float) -> None:
    table = draw(np.random.default_rng(11), (TABLES, n))
    covered = coverage(*studentised_intervals([table], resamples=1000), truth)
    assert least <= covered <= 0.985


@pytest.mark.parametrize("n", [8, 16, 64])
@pytest.mark.parametrize(("gain", "loss"), [(0.05, 0.05), (0.02, 0.1), (0.4, 0.1)])
def test_intervals_of_right_and_wrong_answers_cover(gain: float, loss: float, n: int) -> None:
    table = three_valued(gain, loss)(np.random.default_rng(12), (TABLES, n))
    lows, highs = bounded_intervals([table], bound=1.0)
    assert coverage(lows, highs, gain - loss) >= 0.93
    assert (lows >= -1).all()
    assert (highs <= 1).all()


def test_the_students_interval_covers_skewed_samples_less_often() -> None:
    table = np.random.default_rng(13).exponential(size=(TABLES, 16))
    half = stats.t.ppf(0.975, 15) * stats.sem(table, axis=1)
    usual = coverage(table.mean(axis=1) - half, table.mean(axis=1) + half, 1.0)
    ours = coverage(*studentised_intervals([table], resamples=1000), 1.0)
    assert ours > usual + 0.015


def test_the_interval_of_a_mean_over_probes_covers_though_probes_differ_in_size_and_scale() -> None:
    random = np.random.default_rng(14)
    parts = [random.exponential(size=(TABLES, 12)), 5 * random.normal(size=(TABLES, 30)) + 1]
    assert 0.93 <= coverage(*studentised_intervals(parts, resamples=1000), 1.0) <= 0.98
    right = [three_valued(0.3, 0.1)(random, (TABLES, n)) for n in (10, 40)]
    assert coverage(*bounded_intervals(right, bound=1.0), 0.2) >= 0.93


def test_skewed_differences_have_skewed_intervals() -> None:
    row = np.random.default_rng(15).exponential(size=(1, 24))
    low, high = studentised_intervals([row])
    assert high[0] - row.mean() > 1.2 * (row.mean() - low[0])


def test_an_interval_does_not_depend_on_its_neighbours() -> None:
    table = np.random.default_rng(16).normal(size=(600, 20))
    lows, highs = studentised_intervals([table])
    some = [3, 299, 598]
    again = studentised_intervals([table[some]])
    assert again[0] == pytest.approx(lows[some], rel=1e-12)
    assert again[1] == pytest.approx(highs[some], rel=1e-12)


def test_the_same_rows_give_the_same_interval_again() -> None:
    table = np.random.default_rng(17).normal(size=(5, 16))
    first, second = studentised_intervals([table]), studentised_intervals([table.copy()])
    assert np.array_equal(first, second)


def test_where_no_answer_changed_the_interval_still_has_a_width() -> None:
    lows, highs = bounded_intervals([np.zeros((1, 16))], bound=1.0)
    assert lows[0] == pytest.approx(-highs[0])
    assert 0.1 < highs[0] < 0.2


def test_numbers_that_are_all_equal_have_no_interval_and_say_why() -> None:
    tenth = np.full((1, 9), 0.1) + np.arange(9) * 1e-17  # equal but for rounding
    (found,), noise = estimates([tenth])
    assert found is not None
    assert (found.low, found.high, noise) == (None, None, None)
    assert found.no_interval == "the differences of all 9 samples are equal, so no spread is seen"
    assert found.p == pytest.approx(2 / 2**9)


def test_rows_with_gaps_are_judged_by_what_they_have() -> None:
    table = np.random.default_rng(18).normal(size=(4, 12))
    table[1, :4] = np.nan
    table[2, 1:] = np.nan
    table[3] = np.nan
    found, _ = estimates([table])
    (alone,), _ = estimates([table[1:2, 4:]])
    assert found[1] is not None
    assert alone is not None
    assert (found[1].n, found[1].low, found[1].high) == (8, alone.low, alone.high)
    assert found[2] is not None
    assert found[2].n == 1
    assert found[2].low is None
    assert found[2].p is None
    assert found[3] is None
