"""Scores equal the formulas, computed here in float64 by numpy from the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroscan_farm.domain.probes import Probe, Sample
from neuroscan_farm.engine.prompts import Batch
from neuroscan_farm.engine.scoring import non_finite_detail, score_logits

ANSWERS = tuple(range(5, 15))  # token ids of the digits


def _batch(answers: list[str | None]) -> Batch:
    samples = tuple(Sample(f"s{k}", f"p{k}", answer) for k, answer in enumerate(answers))
    return Batch(Probe("p", samples), samples, torch.zeros(len(answers), 3, dtype=torch.int64), ANSWERS)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_scores_equal_their_definitions(seed: int, answer: int) -> None:
    z = np.random.default_rng(seed).normal(0, 4, 40).astype(np.float32)
    (score,) = score_logits(torch.from_numpy(z)[None], _batch([str(answer)]), lambda token: f"<{token}>")
    assert score is not None
    full = np.exp(z.astype(np.float64)) / np.exp(z.astype(np.float64)).sum()
    digits = full[list(ANSWERS)]
    p = digits / digits.sum()
    values = np.arange(10)
    mean = (values * p).sum()
    assert score.expected_score == pytest.approx(mean, abs=1e-4)
    assert score.uncertainty == pytest.approx(((values - mean) ** 2 * p).sum(), abs=1e-4)
    assert score.coverage == pytest.approx(digits.sum(), abs=1e-5)
    assert score.entropy == pytest.approx(-(full * np.log(full)).sum(), abs=1e-4)
    assert score.top_token == f"<{z.argmax()}>"
    assert score.answer_probabilities == pytest.approx(p, abs=1e-5)
    assert score.log_odds == pytest.approx(np.log(p[answer] / (1 - p[answer])), abs=1e-3)
    assert score.log_p_correct == pytest.approx(np.log(p[answer]), abs=1e-4)
    assert score.correct == (p.argmax() == answer)


def test_log_odds_stay_finite_where_probabilities_round_to_one() -> None:
    z = torch.full((1, 40), -50.0)
    z[0, ANSWERS[3]] = 50.0
    (score,) = score_logits(z, _batch(["3"]), str)
    assert score is not None
    assert score.log_odds == pytest.approx(100 - np.log(9), abs=1e-4)


def test_without_a_right_answer_the_scores_that_need_one_are_null() -> None:
    (score,) = score_logits(torch.randn(1, 40), _batch([None]), str)
    assert score is not None
    assert (score.log_odds, score.log_p_correct, score.correct) == (None, None, None)
    assert score.expected_score is not None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_logits_are_an_outcome_and_no_number(bad: float) -> None:
    z = torch.randn(2, 40)
    z[1, 30] = bad
    first, second = score_logits(z, _batch(["1", "1"]), str)
    assert first is not None
    assert second is None
    assert "of 40 logits" in non_finite_detail(z, 1)
