"""Effects: pairing, intervals, and that the order of rows says nothing."""

from __future__ import annotations

import math
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.statistics.effects import Effect, mean_effects, mean_over_probes, paired_effects

BASELINE = "t-base"


def table(
    rows: list[tuple[str, str, str, str, float | bool | None]], *, column: str = "log_odds"
) -> pa.Table:
    """Rows as (task, probe, sample, outcome, value)."""
    kind = pa.bool_() if column == "correct" else pa.float64()
    names = ["task_id", "probe", "sample_id", "outcome", column]
    types = [pa.string(), pa.string(), pa.string(), pa.string(), kind]
    columns = [list(values) for values in zip(*rows, strict=True)] if rows else [[] for _ in names]
    return pa.table({name: pa.array(v, t) for name, v, t in zip(names, columns, types, strict=True)})


def effects(
    rows: list[tuple[str, str, str, str, float | bool | None]],
) -> dict[tuple[str, str | None], Effect]:
    found = paired_effects(table(rows), metric=Metric.LOG_ODDS, baseline_id=BASELINE)
    return {(effect.task_id, effect.probe): effect for effect in found}


def test_the_mean_and_the_interval_are_those_of_the_paired_t_test() -> None:
    draw = np.random.default_rng(1)
    base, other = draw.normal(size=12), draw.normal(size=12)
    rows = [(BASELINE, "p", f"s{k}", "ok", float(x)) for k, x in enumerate(base)]
    rows += [("t1", "p", f"s{k}", "ok", float(x)) for k, x in enumerate(other)]
    effect = effects(rows)["t1", "p"]
    reference = stats.ttest_rel(other, base)
    low, high = reference.confidence_interval(0.95)
    assert effect.n == 12
    assert effect.mean == pytest.approx((other - base).mean())
    assert (effect.low, effect.high) == (pytest.approx(low), pytest.approx(high))
    assert effect.standard_error == pytest.approx(stats.sem(other - base))


def test_samples_are_paired_by_their_id_and_not_by_their_place() -> None:
    rows = [(BASELINE, "p", "a", "ok", 1.0), (BASELINE, "p", "b", "ok", 10.0)]
    rows += [("t1", "p", "b", "ok", 11.0), ("t1", "p", "a", "ok", 2.0)]
    effect = effects(rows)["t1", "p"]
    assert (effect.mean, effect.standard_error) == (1.0, 0.0)


@pytest.mark.parametrize("failing", ["baseline", "configuration"])
def test_a_sample_that_failed_on_one_side_is_no_pair(failing: str) -> None:
    bad, good = (None, 5.0) if failing == "baseline" else (5.0, None)
    rows = [(BASELINE, "p", "a", "ok", 1.0), ("t1", "p", "a", "ok", 2.0)]
    rows += [
        (BASELINE, "p", "b", "ok" if bad else "error", bad),
        ("t1", "p", "b", "ok" if good else "error", good),
    ]
    effect = effects(rows)["t1", "p"]
    assert (effect.n, effect.mean) == (1, 1.0)


def test_a_value_of_a_row_that_is_not_ok_does_not_count() -> None:
    rows = [(BASELINE, "p", "a", "ok", 1.0), ("t1", "p", "a", "non_finite", 99.0)]
    assert effects(rows) == {}


def test_one_pair_has_a_mean_and_no_interval() -> None:
    effect = effects([(BASELINE, "p", "a", "ok", 1.0), ("t1", "p", "a", "ok", 3.0)])["t1", "p"]
    assert effect == Effect("t1", "p", 1, 2.0, None, None, None)


def test_without_the_baseline_there_are_no_effects() -> None:
    rows = table([("t1", "p", "a", "ok", 3.0)])
    assert paired_effects(rows, metric=Metric.LOG_ODDS, baseline_id=BASELINE) == []
    assert mean_effects(rows, metric=Metric.LOG_ODDS, baseline_id=BASELINE) == {}


def test_an_empty_table_has_no_effects() -> None:
    assert paired_effects(table([]), metric=Metric.LOG_ODDS, baseline_id=BASELINE) == []


def test_the_baseline_has_no_effect_against_itself() -> None:
    rows = [(BASELINE, "p", "a", "ok", 1.0), ("t1", "p", "a", "ok", 2.0)]
    assert [task for task, _ in effects(rows)] == ["t1"]


def test_correct_counts_as_zero_and_one() -> None:
    rows = [(BASELINE, "p", "a", "ok", False), (BASELINE, "p", "b", "ok", True)]
    rows += [("t1", "p", "a", "ok", True), ("t1", "p", "b", "ok", True)]
    (effect,) = paired_effects(table(rows, column="correct"), metric=Metric.CORRECT, baseline_id=BASELINE)
    assert effect.mean == 0.5


def test_probes_weigh_the_same_however_many_samples_they_have() -> None:
    rows = [(BASELINE, "small", "a", "ok", 0.0), ("t1", "small", "a", "ok", 1.0)]
    for k in range(9):
        rows += [(BASELINE, "large", f"s{k}", "ok", 0.0), ("t1", "large", f"s{k}", "ok", 3.0)]
    assert mean_effects(table(rows), metric=Metric.LOG_ODDS, baseline_id=BASELINE) == {"t1": 2.0}


def test_a_task_without_a_pair_on_one_probe_has_no_mean_effect() -> None:
    rows = [(BASELINE, "p", "a", "ok", 0.0), (BASELINE, "q", "a", "ok", 0.0)]
    rows += [("t1", "p", "a", "ok", 1.0), ("t1", "q", "a", "error", None)]
    rows += [("t2", "p", "a", "ok", 1.0), ("t2", "q", "a", "ok", 2.0)]
    assert mean_effects(table(rows), metric=Metric.LOG_ODDS, baseline_id=BASELINE) == {"t2": 1.5}


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=40), st.randoms(use_true_random=False))
def test_rows_in_any_order_give_the_same_bits(values: list[float], shuffler: random.Random) -> None:
    half = len(values) // 2
    rows = [(BASELINE, "p", f"s{k}", "ok", value) for k, value in enumerate(values[:half])]
    rows += [("t1", "p", f"s{k}", "ok", value) for k, value in enumerate(values[half : 2 * half])]
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    first, second = (
        mean_effects(table(r), metric=Metric.LOG_ODDS, baseline_id=BASELINE) for r in (rows, shuffled)
    )
    assert first == second
    assert effects(rows) == effects(shuffled)


def test_neighbouring_tasks_do_not_change_a_tasks_mean() -> None:
    draw = np.random.default_rng(3)
    rows = [
        (task, "p", f"s{k}", "ok", float(draw.normal())) for task in (BASELINE, "t1", "t2") for k in range(7)
    ]
    extra = [("t2", "p", f"x{k}", "ok", 1.0) for k in range(5)]
    alone = mean_effects(
        table([r for r in rows if r[0] != "t2"]), metric=Metric.LOG_ODDS, baseline_id=BASELINE
    )
    among = mean_effects(table(rows + extra), metric=Metric.LOG_ODDS, baseline_id=BASELINE)
    assert alone["t1"] == among["t1"]


def test_the_mean_over_equal_probes_has_the_interval_of_a_welch_test() -> None:
    one = Effect("t1", "p", 16, 0.4, 0.2, 0.0, 0.8)
    other = Effect("t1", "q", 16, 0.2, 0.2, -0.2, 0.6)
    both = mean_over_probes([one, other])
    assert both.probe is None
    assert (both.n, both.mean) == (32, pytest.approx(0.3))
    assert both.standard_error == pytest.approx(0.2 / math.sqrt(2))
    assert both.high == pytest.approx(0.3 + stats.t.ppf(0.975, 30) * 0.2 / math.sqrt(2))


def test_the_mean_over_probes_has_no_interval_where_one_has_none() -> None:
    one = Effect("t1", "p", 16, 0.4, 0.2, 0.0, 0.8)
    assert mean_over_probes([one, Effect("t1", "q", 1, 0.2, None, None, None)]).low is None


def test_the_mean_over_probes_without_any_spread_has_an_interval_of_no_width() -> None:
    both = mean_over_probes([Effect("t1", p, 4, 0.5, 0.0, 0.5, 0.5) for p in ("p", "q")])
    assert (both.low, both.high) == (0.5, 0.5)
