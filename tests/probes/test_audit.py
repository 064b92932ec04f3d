"""What a probe can tell before any model has seen it."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from neuroscan_farm.domain.probes import Probe, Sample
from neuroscan_farm.probes.audit import audit_probe
from neuroscan_farm.probes.catalogue import builtin_names, load_probe


def probe(answers: str, *, choices: tuple[str, ...] | None = None, texts: list[str] | None = None) -> Probe:
    samples = tuple(
        Sample(f"s{k}", texts[k] if texts else f"{k}?", answer=None if answer == "-" else answer)
        for k, answer in enumerate(answers)
    )
    return Probe("p", samples) if choices is None else Probe("p", samples, scoring="choices", choices=choices)


def test_blind_answers_score_what_drawing_them_scores() -> None:
    audited = audit_probe(probe("aaaaaabbbc" * 2, choices=("a", "b", "c", "d")))
    draw = random.Random(3)
    right = "aaaaaabbbc" * 2
    drawn = np.mean([draw.choice(right) == draw.choice(right) for _ in range(40_000)])
    assert audited.frequencies is not None
    assert audited.frequencies.accuracy == pytest.approx(drawn, abs=0.01)
    assert audited.majority is not None
    assert (audited.majority_answer, audited.majority.accuracy) == ("a", 0.6)
    assert audited.uniform is not None
    assert audited.uniform.accuracy == 0.25
    assert audited.uniform.log_p_correct == pytest.approx(math.log(0.25))
    assert audited.uniform.log_odds == pytest.approx(math.log(0.25 / 0.75))
    assert audited.constant == {"a": 0.6, "b": 0.3, "c": 0.1, "d": 0.0}
    assert audited.majority.expected_score is None


def test_expected_values_are_those_of_the_numbers() -> None:
    audited = audit_probe(probe("1199"))
    assert audited.uniform is not None
    assert audited.uniform.expected_score == 4.5
    assert audited.frequencies is not None
    assert audited.frequencies.expected_score == 5.0
    assert audited.majority is not None
    assert audited.majority.expected_score == 1.0


def test_a_constant_answer_that_is_ever_wrong_has_no_log_probability() -> None:
    mixed, same = audit_probe(probe("11119")), audit_probe(probe("1111"))
    assert mixed.majority is not None
    assert mixed.majority.log_p_correct is None
    assert same.majority is not None
    assert same.majority.log_p_correct == 0.0
    assert same.frequencies is not None
    assert same.frequencies.log_odds is None


def test_balance_is_one_where_each_answer_is_right_equally_often() -> None:
    assert audit_probe(probe("0123456789")).balance == pytest.approx(1.0)
    assert audit_probe(probe("1111")).balance == 0.0


@pytest.mark.parametrize(
    ("asked", "warning"),
    [
        (probe("1"), "one sample: there is no spread"),
        (probe("12345"), "5 samples: with fewer than 6, no p-value"),
        (probe("1234567-"), "1 of 8 samples have no right answer; only expected_score"),
        (probe("1111112345"), "always answering '1' is right on 60 % of the samples"),
        (
            probe("123456", texts=["q"] * 2 + ["a", "b", "c", "d"]),
            "the same question has different right answers in s0 and s1; mend one",
        ),
        (
            probe("113456", texts=["q"] * 2 + ["a", "b", "c", "d"]),
            "the same question stands more than once: s0 and s1; repeats",
        ),
    ],
    ids=["one", "few", "unlabelled", "unbalanced", "contradicting", "repeated"],
)
def test_what_is_wrong_is_said(asked: Probe, warning: str) -> None:
    (said,) = audit_probe(asked).warnings
    assert said.startswith(warning)


def test_a_probe_with_two_answers_may_have_one_of_them_right_half_the_time() -> None:
    assert audit_probe(probe("yynnynyn", choices=("y", "n"))).warnings == ()


def test_without_right_answers_blind_ones_have_no_score() -> None:
    audited = audit_probe(probe("------"))
    assert (audited.majority, audited.uniform, audited.best_blind, audited.balance) == (None,) * 4
    assert audited.constant == {}


def test_six_samples_must_change_for_a_p_value_below_one_in_twenty() -> None:
    assert audit_probe(probe("123456" * 2)).smallest_accuracy_change == 0.5
    assert audit_probe(probe("12345")).smallest_accuracy_change is None


@pytest.mark.parametrize("name", builtin_names())
def test_the_built_in_probes_have_nothing_to_be_warned_of(name: str) -> None:
    assert audit_probe(load_probe(name)).warnings == ()
