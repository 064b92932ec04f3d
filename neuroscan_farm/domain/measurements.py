"""Measurements: what one path did on one sample. Absent is null with an outcome, never NaN and never 0."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# Raised whenever the engine or the scores could come out different; rows of two versions are never mixed in a run.
ENGINE_VERSION = "2"
SCORING_VERSION = "1"


class Outcome(StrEnum):
    """How a measurement ended; everything but `ok` has null scores and says why in `detail`."""

    OK = "ok"
    NON_FINITE = "non_finite"  # the logits held NaN or infinity
    ERROR = "error"  # the forward pass raised
    QUARANTINED = "quarantined"  # the task killed its workers too often to be tried again


class Metric(StrEnum):
    """What configurations can be ranked by. Larger is better for each of them."""

    LOG_ODDS = "log_odds"
    LOG_P_CORRECT = "log_p_correct"
    CORRECT = "correct"
    EXPECTED_SCORE = "expected_score"

    @property
    def needs_answers(self) -> bool:
        """Whether every sample must say its right answer."""
        return self is not Metric.EXPECTED_SCORE


@dataclass(frozen=True, slots=True)
class Score:
    """What the last token's logits say about one sample; all logarithms are natural."""

    expected_score: (
        float | None
    )  # mean answer value under the restricted softmax; null where answers are no numerals
    uncertainty: (
        float | None
    )  # variance of the answer value under the restricted softmax (not a standard error)
    coverage: float  # probability mass of the answer tokens in the full vocabulary
    entropy: float  # of the full vocabulary's distribution, in nats
    top_token: str  # the full vocabulary's most probable token, decoded
    answer_probabilities: tuple[float, ...]  # the restricted softmax, in the order of the probe's choices
    log_odds: float | None  # z_right - logsumexp(z of the other answers); null without a right answer
    log_p_correct: (
        float | None
    )  # log of the right answer's restricted probability; null without a right answer
    correct: bool | None  # whether the right answer has the largest logit among the answers


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row: one task on one sample."""

    task_id: str
    probe: str
    sample_id: str
    outcome: Outcome
    detail: str | None  # why, where the outcome is not ok
    score: Score | None  # None where the outcome is not ok
    seconds: float  # wall-clock time of the task's forward passes, shared equally by its rows
