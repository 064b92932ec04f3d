"""Fronts and balanced scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.statistics.balanced import balanced_scores
from neuroscan_farm.statistics.pareto import pareto_front


def by_definition(values: np.ndarray) -> list[bool]:
    return [not any((other >= value).all() and (other > value).any() for other in values) for value in values]


@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=30))
def test_the_front_is_what_no_other_point_dominates(points: list[tuple[int, int, int]]) -> None:
    values = np.array(points, dtype=float)
    assert pareto_front(values).tolist() == by_definition(values)


def test_equal_points_stay_together() -> None:
    values = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [1.0, 1.0]])
    assert pareto_front(values).tolist() == [True, True, True, False]


def test_of_one_respect_the_largest_is_the_front_and_nothing_has_none() -> None:
    assert pareto_front(np.array([[1.0], [3.0], [2.0]])).tolist() == [False, True, False]
    assert pareto_front(np.zeros((0, 2))).tolist() == []


@pytest.mark.parametrize("values", [np.zeros(3), np.array([[1.0, np.nan]])])
def test_a_front_of_no_table_or_of_gaps_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"give \[points|leave out"):
        pareto_front(values)


def test_the_balanced_score_is_the_mean_of_z_scores() -> None:
    effects = np.array([[1.0, 30.0], [2.0, 10.0], [3.0, 20.0]])
    z = 1 / np.std([1, 2, 3])
    assert balanced_scores(effects) == pytest.approx([(-z + z) / 2, (0 - z) / 2, (z + 0) / 2])


def test_a_probes_scale_does_not_matter_to_the_balanced_score() -> None:
    effects = np.random.default_rng(2).normal(size=(7, 2))
    assert balanced_scores(effects * [1.0, 100.0] + [0.0, 5.0]) == pytest.approx(balanced_scores(effects))


def test_a_probe_that_tells_nothing_apart_counts_zero() -> None:
    assert balanced_scores(np.array([[0.1, 1.0], [0.1, 2.0]])) == pytest.approx([-0.5, 0.5])
    assert balanced_scores(np.array([[0.3], [0.3], [0.3]])).tolist() == [0.0, 0.0, 0.0]
    assert balanced_scores(np.zeros((0, 2))).tolist() == []


def test_a_balanced_score_of_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="leave out configurations that lack a probe"):
        balanced_scores(np.array([[0.1, np.nan]]))
