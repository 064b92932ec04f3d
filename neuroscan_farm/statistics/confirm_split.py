"""The locked split: samples that are held out of all choices, and tell afterwards what the choice is worth.

Whatever is best on the samples that chose it looks better than it is (the winner's curse). An effect on samples that
had no part in the choice has no such bias, and needs no correction for how many configurations were tried.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from neuroscan_farm.domain.probes import Probe, Sample
from neuroscan_farm.errors import RequestError

LEAST_SAMPLES = 8  # different questions of a probe, on either side
HeldOut: TypeAlias = Mapping[str, frozenset[str]]  # probe -> the ids of its samples that are held out


def held_out_samples(probes: Iterable[Probe], share: float) -> HeldOut:
    """Return the ids of each probe's samples that are held out: `share` of them, or a few less.

    Those whose question has the smallest SHA-256; a question that stands more than once is on one side, whatever its ids
    and answers, and one that would hold out more than the share is passed over. So the split is fixed by the questions
    alone: not by their order or ids, nor by the probe's name, nor by the other probes.
    """
    return {
        probe.name: frozenset(
            sample.sample_id for question in _held_out(_questions(probe), share) for sample in question
        )
        for probe in probes
    }


def check_split(probes: Iterable[Probe], share: float) -> None:
    """Refuse a split that leaves too few different questions of a probe on one side.

    Raises:
        RequestError: with the numbers of each such probe, and what would do.
    """
    small = []
    for probe in probes:
        questions = _questions(probe)
        choosing, confirming = _sides(questions, share)
        if min(choosing, confirming) >= LEAST_SAMPLES:
            continue
        repeated = len(questions) < len(probe.samples)
        line = (
            f"confirm {share:g} leaves {choosing} of the {len(questions)} "
            f"{'different questions' if repeated else 'samples'} of probe {probe.name} to choose by and {confirming} to "
            f"confirm with; {LEAST_SAMPLES} are needed on either side: "
        )
        more = "different questions" if repeated else "samples"
        shares = _shares_that_do(questions)
        if shares:
            line += f"use --confirm {shares}, or more {more}"
        else:
            line += f"give the probe {2 * LEAST_SAMPLES} {more} or more, or leave out --confirm"
        small.append(line)
    if small:
        raise RequestError("\n".join(small))


def _questions(probe: Probe) -> list[list[Sample]]:
    """The samples by what the model reads, in the order that decides who is held out."""
    by_text: dict[str, list[Sample]] = {}
    for sample in probe.samples:
        by_text.setdefault(probe.text_of(sample), []).append(sample)
    return [by_text[text] for text in sorted(by_text, key=_place)]


def _held_out(questions: Sequence[Sequence[Sample]], share: float) -> list[Sequence[Sample]]:
    room = round(share * sum(map(len, questions)))
    held = []
    for question in questions:
        if len(question) <= room:
            held.append(question)
            room -= len(question)
    return held


def _sides(questions: Sequence[Sequence[Sample]], share: float) -> tuple[int, int]:
    """How many different questions choose, and how many confirm."""
    confirming = len(_held_out(questions, share))
    return len(questions) - confirming, confirming


def _shares_that_do(questions: Sequence[Sequence[Sample]]) -> str:
    """The shares in hundredths that leave enough on either side, as words; empty where there are none."""
    fit = [share for share in range(1, 100) if min(_sides(questions, share / 100)) >= LEAST_SAMPLES]
    if not fit:
        return ""
    middle = min(fit, key=lambda share: abs(share - 50))
    least = most = middle
    while least - 1 in fit:
        least -= 1
    while most + 1 in fit:
        most += 1
    return f"{least / 100:g}" if least == most else f"{least / 100:g} to {most / 100:g}"


def _place(text: str) -> tuple[bytes, str]:
    return hashlib.sha256(f"confirm:{text}".encode()).digest(), text
