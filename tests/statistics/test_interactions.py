"""Interactions of layers: the sign, the decision by the interval, and what is not decided."""

from __future__ import annotations

import numpy as np
import pytest

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.statistics.interactions import Interaction, interactions
from neuroscan_farm.statistics.sample_matrix import SampleMatrix

SINGLES = {layer: f"single{layer}" for layer in range(4)}
PAIRS = {(a, b): f"pair{a}{b}" for a in range(4) for b in range(a + 1, 4)}


def matrix(
    seed: int = 0, *, n: int = 24, probe: str = "p", joint: dict[tuple[int, int], float] | None = None
) -> SampleMatrix:
    """Scores where leaving out a layer costs its number, and `joint` more for some pairs."""
    random = np.random.default_rng(seed)
    rows = {"base": np.zeros(n)}
    rows |= {task: np.full(n, -1.0 * layer) for layer, task in SINGLES.items()}
    for pair, task in PAIRS.items():
        rows[task] = np.full(n, -1.0 * sum(pair) - (joint or {}).get(pair, 0.0))
    values = np.array(list(rows.values())) + 0.2 * random.normal(size=(len(rows), n))
    places = {task: place for place, task in enumerate(rows)}
    samples = tuple(f"s{k}" for k in range(n))
    return SampleMatrix(probe, tuple(rows), {"log_odds": values, "correct": values}, places, samples)


def found(*matrices: SampleMatrix) -> dict[tuple[str | None, int, int], Interaction]:
    listed = interactions(
        {one.probe: one for one in matrices},
        metric=Metric.LOG_ODDS,
        baseline_id="base",
        singles=SINGLES,
        pairs=PAIRS,
    )
    return {(one.probe, one.layer_a, one.layer_b): one for one in listed}


def test_the_interaction_is_the_joint_loss_beyond_the_sum_of_the_losses() -> None:
    here = matrix()
    values = here.scores["log_odds"]
    base, one, two, both = (values[here.rows[task]] for task in ("base", "single1", "single2", "pair12"))
    interaction = found(here)["p", 1, 2]
    assert interaction.joint_loss == pytest.approx((base - both).mean())
    assert (interaction.loss_a, interaction.loss_b) == pytest.approx(
        ((base - one).mean(), (base - two).mean())
    )
    assert interaction.mean == pytest.approx(((base - both) - (base - one) - (base - two)).mean())
    assert interaction.n == 24


def test_the_interval_decides_the_kind() -> None:
    kinds = found(matrix(joint={(0, 1): 1.0, (2, 3): -1.0}))
    assert kinds["p", 0, 1].kind == "synergistic"
    assert kinds["p", 2, 3].kind == "redundant"
    assert kinds["p", 0, 1].p_adjusted < 0.05  # type: ignore[operator]
    for one in kinds.values():
        assert one.low is not None
        assert one.high is not None
        expected = "synergistic" if one.low > 0 else "redundant" if one.high < 0 else "independent"
        assert (one.kind, one.reason) == (expected, None)


def test_one_sample_decides_nothing_and_says_why() -> None:
    (one, *_) = found(matrix(n=1)).values()
    assert (one.kind, one.low, one.p) == ("undecided", None, None)
    assert one.reason == "one sample alone says nothing of the spread"


def test_a_sample_counts_only_where_all_four_are_there() -> None:
    here = matrix()
    here.scores["log_odds"][here.rows["single1"], :5] = np.nan
    here.scores["log_odds"][here.rows["pair12"], 5] = np.nan
    listed = found(here)
    assert [listed["p", 1, b].n for b in (2, 3)] == [18, 19]
    assert listed["p", 2, 3].n == 24
    # The losses are of the same samples, so that they add up.
    one = listed["p", 1, 2]
    assert one.mean == pytest.approx(one.joint_loss - one.loss_a - one.loss_b)


def test_a_pair_without_a_single_or_a_baseline_is_absent() -> None:
    here = matrix()
    listed = interactions(
        {"p": here},
        metric=Metric.LOG_ODDS,
        baseline_id="base",
        singles={0: "single0", 1: "single1"},
        pairs=PAIRS,
    )
    assert [(one.layer_a, one.layer_b) for one in listed] == [(0, 1)]
    nothing = {"metric": Metric.LOG_ODDS, "singles": SINGLES, "pairs": PAIRS}
    assert interactions({"p": here}, baseline_id="elsewhere", **nothing) == []  # type: ignore[arg-type]
    assert interactions({"p": here}, baseline_id="base", **(nothing | {"pairs": {}})) == []  # type: ignore[arg-type]


def test_several_probes_have_a_mean_that_weighs_them_alike() -> None:
    listed = found(matrix(1, n=8, joint={(0, 1): 1.0}), matrix(2, n=40, probe="q", joint={(0, 1): 3.0}))
    over = listed[None, 0, 1]
    assert over.n == 48
    assert over.mean == pytest.approx((listed["p", 0, 1].mean + listed["q", 0, 1].mean) / 2)
    assert over.kind == "synergistic"


def test_pairs_without_any_interaction_are_seldom_called_one() -> None:
    called = [
        one.p_adjusted is not None and one.p_adjusted < 0.05
        for seed in range(40)
        for one in found(matrix(seed)).values()
    ]
    per_run = np.array(called).reshape(40, -1).any(axis=1)
    assert per_run.mean() <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / 40)
