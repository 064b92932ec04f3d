"""What a probe can tell before any model has seen it: what blind answers score, and what is wrong with its questions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from neuroscan_farm.domain.probes import Probe

FEWEST_SAMPLES = 6  # flips of five signs give no two-sided p below 2 / 2^5 = 0.0625
_LARGEST_SHARE = 2  # a right answer that is this much commoner than an even share is worth a warning
_LARGEST_MAJORITY = 0.5


@dataclass(frozen=True, slots=True)
class BlindScores:
    """What answers that do not look at the question score, on average over the labelled samples."""

    accuracy: float
    log_p_correct: float | None  # None where a right answer gets no probability: minus infinity
    log_odds: float | None  # likewise
    expected_score: float | None  # None where the answers name no numbers


@dataclass(frozen=True, slots=True)
class ProbeAudit:
    """A probe, judged by itself."""

    probe: str
    digest: str
    n_samples: int
    n_labelled: int
    n_choices: int
    answers: Mapping[str, int]  # how often each choice is the right one, commonest first; none that never is
    constant: Mapping[str, float]  # accuracy of always giving one answer, by answer, best first
    majority_answer: str | None  # the best answer to give always; None without right answers
    majority: BlindScores | None  # of giving it always
    frequencies: BlindScores | None  # of drawing answers as often as they are right
    uniform: BlindScores | None  # of drawing each answer equally often
    balance: float | None  # entropy of the right answers over that of an even spread, 0 to 1
    duplicates: tuple[tuple[str, ...], ...]  # ids of samples with the same text and the same answer
    contradictions: tuple[tuple[str, ...], ...]  # ids of samples with the same text and different answers
    warnings: tuple[str, ...]

    @property
    def smallest_accuracy_change(self) -> float | None:
        """The smallest change in accuracy that can have p < 0.05: six samples that change, all one way; a share of one."""
        return FEWEST_SAMPLES / self.n_samples if self.n_samples >= FEWEST_SAMPLES else None

    @property
    def best_blind(self) -> float | None:
        """The best accuracy that is to be had without looking at the questions."""
        return None if self.majority is None else self.majority.accuracy


def audit_probe(probe: Probe) -> ProbeAudit:
    """Judge a probe; pure, and the same for equal probes."""
    right = Counter(sample.answer for sample in probe.samples if sample.answer is not None)
    order = {choice: place for place, choice in enumerate(probe.choices)}
    answers = dict(sorted(right.items(), key=lambda item: (-item[1], order[item[0]])))
    labelled, k = sum(answers.values()), len(probe.choices)
    shares = {answer: count / labelled for answer, count in answers.items()}
    constant = shares | {choice: 0.0 for choice in probe.choices if choice not in shares}
    duplicates, contradictions = _repeats(probe)
    majority = majority_answer = frequencies = uniform = balance = None
    if labelled:
        majority_answer = next(iter(shares))
        entropy = -math.fsum(share * math.log(share) for share in shares.values())
        balance = entropy / math.log(k)
        value = dict(zip(probe.choices, probe.values, strict=True)) if probe.values is not None else None
        sure = len(shares) == 1
        majority = BlindScores(
            accuracy=shares[majority_answer],
            log_p_correct=0.0 if sure else None,
            log_odds=None,
            expected_score=value[majority_answer] if value else None,
        )
        frequencies = BlindScores(
            accuracy=math.fsum(share**2 for share in shares.values()),
            log_p_correct=-entropy,
            log_odds=None
            if sure
            else math.fsum(share * math.log(share / (1 - share)) for share in shares.values()),
            expected_score=math.fsum(share * value[answer] for answer, share in shares.items())
            if value
            else None,
        )
        uniform = BlindScores(
            accuracy=1 / k,
            log_p_correct=-math.log(k),
            log_odds=-math.log(k - 1),
            expected_score=math.fsum(value.values()) / k if value else None,
        )
    audit = ProbeAudit(
        probe=probe.name,
        digest=probe.digest,
        n_samples=len(probe.samples),
        n_labelled=labelled,
        n_choices=k,
        answers=answers,
        constant=constant if labelled else {},
        majority_answer=majority_answer,
        majority=majority,
        frequencies=frequencies,
        uniform=uniform,
        balance=balance,
        duplicates=duplicates,
        contradictions=contradictions,
        warnings=(),
    )
    return _with_warnings(audit)


def _repeats(probe: Probe) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
    """Groups of samples with one text: those that agree on the answer, and those that do not."""
    by_text: dict[str, list[tuple[str, str | None]]] = {}
    for sample in probe.samples:
        by_text.setdefault(probe.text_of(sample), []).append((sample.sample_id, sample.answer))
    groups = [group for group in by_text.values() if len(group) > 1]
    agreeing = [group for group in groups if len({answer for _, answer in group}) == 1]
    others = [group for group in groups if len({answer for _, answer in group}) > 1]
    return _ids(agreeing), _ids(others)


def _ids(groups: list[list[tuple[str, str | None]]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(sample_id for sample_id, _ in group) for group in groups)


def _with_warnings(audit: ProbeAudit) -> ProbeAudit:
    found = []
    n, share = audit.n_samples, audit.best_blind
    if n == 1:
        found.append(
            "one sample: there is no spread, so no interval and no p-value; give it 16 samples or more"
        )
    elif n < FEWEST_SAMPLES:
        found.append(
            f"{n} samples: with fewer than {FEWEST_SAMPLES}, no p-value by flipped signs can be below 0.05; "
            "give it 16 or more"
        )
    if audit.n_labelled < n:
        found.append(
            f"{n - audit.n_labelled} of {n} samples have no right answer; only expected_score can rank by this probe"
        )
    if share is not None and share >= max(_LARGEST_MAJORITY, _LARGEST_SHARE / audit.n_choices) and n > 1:
        found.append(
            f"always answering {audit.majority_answer!r} is right on {100 * share:.0f} % of the samples; a change may be "
            "no more than a change in how often the model gives that answer"
        )
    if audit.contradictions:
        found.append(
            f"the same question has different right answers in {_named(audit.contradictions)}; mend one of them"
        )
    if audit.duplicates:
        found.append(
            f"the same question stands more than once: {_named(audit.duplicates)}; repeats make intervals too narrow"
        )
    return replace(audit, warnings=tuple(found))


def _named(groups: tuple[tuple[str, ...], ...]) -> str:
    first = " and ".join(groups[0][:3]) + (" ..." if len(groups[0]) > 3 else "")
    return first if len(groups) == 1 else f"{first}, and {len(groups) - 1} more such groups"
