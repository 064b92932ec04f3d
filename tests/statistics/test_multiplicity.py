"""p-values over many configurations: the level they hold under a null, what they find, and that they are what they say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from neuroscan_farm.statistics.multiplicity import _signs, best_under_noise, p_values

RUNS = 400
LEVEL = 0.05
# A binomial error of 2.6 standard deviations: one simulation of two hundred goes beyond it by chance.
ALLOWED = LEVEL + 2.6 * math.sqrt(LEVEL * (1 - LEVEL) / RUNS)


def null_run(
    random: np.random.Generator, *, configurations: int = 30, n: int = 16, kind: str = "normal"
) -> np.ndarray:
    """Differences [configurations, n] of configurations that change nothing: all against one noisy baseline.

    They also share what neighbouring blocks share, so that they rise and fall together.
    """
    draw = {
        "normal": lambda *shape: random.normal(size=shape),
        "skewed": lambda *shape: random.exponential(size=shape),
        "answers": lambda *shape: (random.random(shape) < 0.7).astype(float),
    }[kind]
    baseline = draw(n)
    scores = draw(configurations, n)
    if kind != "answers":
        neighbours = 0.5 * np.cumsum(
            random.normal(size=(configurations, n)) / math.sqrt(configurations), axis=0
        )
        return scores - baseline + neighbours
    return scores - baseline


@pytest.mark.parametrize("kind", ["normal", "skewed", "answers"])
@pytest.mark.parametrize("seed", [1, 2])
def test_under_the_null_the_family_wise_error_holds_its_level(kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    wrong = [p_values([null_run(random, kind=kind)], flips=512).p_adjusted.min() < LEVEL for _ in range(RUNS)]
    assert np.mean(wrong) <= ALLOWED


def test_the_error_is_not_held_by_finding_nothing() -> None:
    random = np.random.default_rng(3)
    wrong = [p_values([null_run(random)], flips=512).p_adjusted.min() < LEVEL for _ in range(RUNS)]
    assert np.mean(wrong) > 0.02


def test_over_several_probes_the_family_wise_error_holds_its_level() -> None:
    random = np.random.default_rng(4)
    wrong = [
        p_values(
            [null_run(random, n=9), 10 * null_run(random, n=20, kind="skewed")], flips=512
        ).p_adjusted.min()
        < LEVEL
        for _ in range(RUNS)
    ]
    assert np.mean(wrong) <= ALLOWED


def test_strong_effects_of_others_do_not_raise_the_error_of_the_rest() -> None:
    random = np.random.default_rng(5)
    wrong = []
    for _ in range(RUNS):
        table = null_run(random)
        table[:10] -= 4.0  # blocks that break the model
        wrong.append(p_values([table], flips=512).p_adjusted[10:].min() < LEVEL)
    assert np.mean(wrong) <= ALLOWED


def test_planted_effects_are_found_among_a_thousand() -> None:
    random = np.random.default_rng(6)
    table = null_run(random, configurations=1000, n=32)
    planted = [10, 500, 900]
    table[planted] += 2.5
    found = p_values([table])
    assert (found.p_adjusted[planted] < LEVEL).all()
    assert (found.q[planted] < LEVEL).all()
    assert np.flatnonzero(found.p_adjusted < LEVEL).tolist() == planted


def test_the_false_discovery_rate_holds_where_many_effects_are_real() -> None:
    random = np.random.default_rng(7)
    rates = []
    for _ in range(60):
        table = null_run(random, configurations=100)
        table[:40] -= 2.0
        found = p_values([table], flips=512).q < LEVEL
        rates.append(found[40:].sum() / max(found.sum(), 1))
    assert np.mean(rates) <= LEVEL


def test_of_few_samples_every_flip_is_taken_and_p_is_exact() -> None:
    rows = np.random.default_rng(8).normal(0.8, 1.0, size=(3, 8))
    found = p_values([rows])
    for row, p in zip(rows, found.p, strict=True):
        exact = stats.permutation_test((row,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert p == pytest.approx(exact.pvalue)


def test_adjusted_p_values_are_those_of_the_step_down_max_t_by_its_definition() -> None:
    table = np.random.default_rng(9).normal(0.5, 1.0, size=(5, 7)) * np.arange(1, 6)[:, None]

    def t(rows: np.ndarray) -> np.ndarray:
        return np.abs(rows.mean(axis=1) / stats.sem(rows, axis=1))

    seen = t(table)
    flipped = np.array([t(table * signs) for signs in itertools.product((1, -1), repeat=7)])
    expected, largest = np.zeros(5), 0.0
    order = np.argsort(-seen)
    for place, row in enumerate(order):
        share = np.mean(flipped[:, order[place:]].max(axis=1) >= seen[row] * (1 - 1e-9))
        largest = max(largest, share)
        expected[row] = largest
    assert p_values([table]).p_adjusted == pytest.approx(expected)


def test_some_of_the_flips_agree_with_all_of_them() -> None:
    table = np.random.default_rng(10).normal(0.6, 1.0, size=(6, 13))
    some, all_of_them = p_values([table], flips=4096), p_values([table], flips=8192)
    assert some.p_adjusted == pytest.approx(all_of_them.p_adjusted, abs=0.03)


@pytest.mark.parametrize(("n", "flips"), [(5, 2048), (11, 2048), (12, 2048), (64, 512), (600, 256)])
def test_the_flips_are_a_group_in_which_samples_flip_independently(n: int, flips: int) -> None:
    signs, complete = _signs(n, flips)
    assert complete == (2**n <= flips)
    assert len(signs) == min(2**n, flips)
    assert (signs[0] == 1).all()
    known = {row.tobytes() for row in signs}
    random = np.random.default_rng(0)
    for a, b in random.integers(0, len(signs), size=(50, 2)):
        assert (signs[a] * signs[b]).tobytes() in known
    assert (signs.sum(axis=0) == 0).all()
    if n < flips:
        assert (signs.T @ signs == len(signs) * np.eye(n)).all()


def test_a_p_value_is_never_zero_and_never_below_what_flips_can_give() -> None:
    tied = np.zeros((1, 40))
    tied[0, :14] = 1.0  # fourteen samples changed, all one way
    found = p_values([tied])
    assert 2 / 2**14 <= found.p[0] <= 4 / 2048
    assert found.p_adjusted[0] >= 1 / 2048


def test_far_out_p_values_tell_configurations_apart_beyond_the_number_of_flips() -> None:
    random = np.random.default_rng(11)
    table = random.normal(size=(500, 48))
    table[0] += 1.2
    found = p_values([table])
    assert 0 < found.p[0] < 1e-5
    assert found.q[0] < 0.01


def test_what_changes_nothing_at_all_has_p_one() -> None:
    found = p_values([np.zeros((2, 16))])
    assert found.p.tolist() == found.p_adjusted.tolist() == found.q.tolist() == [1.0, 1.0]


def test_the_order_of_configurations_does_not_matter() -> None:
    table = np.random.default_rng(12).normal(0.3, 1.0, size=(20, 16))
    order = np.random.default_rng(0).permutation(20)
    assert p_values([table[order]]).p_adjusted == pytest.approx(p_values([table]).p_adjusted[order])


def test_no_configuration_is_no_error() -> None:
    assert p_values([np.zeros((0, 5))]).q.shape == (0,)
    assert best_under_noise([np.zeros((0, 5))]) is None
    assert best_under_noise([np.zeros((3, 5))]) is None


def test_the_best_under_noise_is_what_the_best_of_null_runs_shows() -> None:
    random = np.random.default_rng(13)
    best = [null_run(random, configurations=200, n=32).mean(axis=1).max() for _ in range(200)]
    said = [best_under_noise([null_run(random, configurations=200, n=32)]) for _ in range(12)]
    assert np.mean([noise.mean for noise in said if noise]) == pytest.approx(np.mean(best), rel=0.12)
    # Two-sided, as the adjusted p-values are: as much either way in one run of twenty.
    assert np.mean([noise.high for noise in said if noise]) == pytest.approx(
        np.quantile(best, 0.975), rel=0.15
    )


def test_blocks_that_break_the_model_do_not_lift_the_best_under_noise() -> None:
    random = np.random.default_rng(14)
    table = random.normal(size=(100, 32))
    quiet = best_under_noise([table])
    broken = np.concatenate([table, random.normal(-30, 20, size=(20, 32))])
    loud = best_under_noise([broken])
    assert quiet is not None
    assert loud is not None
    assert loud.mean == pytest.approx(quiet.mean, rel=0.15)
    assert (quiet.tried, loud.tried) == (100, 120)
    assert loud.standard_error < 1


@pytest.mark.parametrize("broken", [0, 30])
def test_the_best_is_above_what_it_must_exceed_just_where_its_adjusted_p_is_below_the_level(
    broken: int,
) -> None:
    random = np.random.default_rng(15)
    seen = {True: 0, False: 0}
    for _ in range(60):
        table = null_run(random, configurations=40, n=16)
        table[0] += random.uniform(0.4, 1.4)
        table[40 - broken :] -= (
            4.0  # surely worse: step-down leaves them out of what the best is compared with
        )
        tested, noise = p_values([table]), best_under_noise([table])
        assert noise is not None
        assert noise.high is not None
        best = int(table.mean(axis=1).argmax())
        stands_out = bool(tested.p_adjusted[best] < 0.05)
        assert bool(table[best].mean() > noise.high * (1 + 1e-9)) == stands_out
        seen[stands_out] += 1
    assert min(seen.values()) > 5


def test_what_the_best_must_exceed_agrees_over_several_probes_too() -> None:
    random = np.random.default_rng(16)
    for _ in range(20):
        parts = [null_run(random, configurations=12, n=n) for n in (9, 14)]
        for part in parts:
            part[3] += 0.9
        tested, noise = p_values(parts), best_under_noise(parts)
        means = np.mean([part.mean(axis=1) for part in parts], axis=0)
        best = int(means.argmax())
        assert noise is not None
        assert noise.high is not None
        assert bool(means[best] > noise.high * (1 + 1e-9)) == bool(tested.p_adjusted[best] < 0.05)


@pytest.mark.parametrize(("n", "can"), [(4, False), (5, False), (6, True)])
def test_with_so_few_samples_that_nothing_can_stand_out_there_is_no_such_size(n: int, can: bool) -> None:
    noise = best_under_noise([np.random.default_rng(17).normal(size=(3, n))])
    assert noise is not None
    assert (noise.high is not None, noise.standard_errors_high is not None) == (can, can)
