"""Rounds in turn: A B C, B C A, C A B, … on the same cores, so that a noisy machine is noisy for everybody.

Seconds of a shared machine mean little; ratios of contenders that took turns mean something. `totals` compares sums
over all rounds, `minima` the best round of each; a disturbance that hit one contender alone shows as a difference
between the two. Tables print totals.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from protocol import Answer, Contender

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

Turn = Callable[[], Answer]


class Arena:
    """Starts contenders on equal terms and ends them all when it is left."""

    def __init__(self, work: Path, *, threads: int) -> None:
        self.work = work
        self.threads = threads
        self._stack = ExitStack()
        self._contenders: list[Contender] = []

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(
        self, name: str, script: str, *arguments: str, python: Path | None = None, threads: int | None = None
    ) -> Contender:
        """Start a contender: the same number of threads for everybody, none of which spins while others work."""
        folder = self.work / "contenders" / name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(python or sys.executable), str(HERE / script), *arguments]
        environment = environment_of(threads or self.threads)
        if python is None:
            environment["PYTHONPATH"] = str(ROOT)
        contender = Contender(name, command, log=folder / "stderr.log", environment=environment)
        self._stack.callback(contender.close)
        self._contenders.append(contender)
        return contender

    def wait(self) -> None:
        """Wait until everybody has imported what it needs; all do that at the same time."""
        for contender in self._contenders:
            contender.ask("ready")

    def folder(self, name: str) -> Path:
        """A contender's own folder."""
        return self.work / "contenders" / name.replace(" ", "-")


def environment_of(threads: int) -> dict[str, str]:
    """The environment of every contender."""
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }


def interleave(
    turns: Mapping[str, Turn], *, rounds: int, say: Callable[[str], None]
) -> dict[str, list[Answer]]:
    """Give everybody `rounds` turns, with another one first in each round; return the answers by name."""
    names = list(turns)
    answers: dict[str, list[Answer]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            answers[name].append(turns[name]())
        seconds = ", ".join(f"{name} {answers[name][-1]['seconds']:.2f}" for name in names)
        say(f"  round {number + 1} of {rounds}: {seconds}")
    return answers


def seconds_of(answers: Mapping[str, list[Answer]], of: str = "seconds") -> dict[str, list[float]]:
    """Return the wall-clock seconds of each contender's rounds, or with "processor_seconds" what its threads worked."""
    return {name: [round(answer[of], 4) for answer in turns] for name, turns in answers.items()}


def ratios(seconds: Mapping[str, list[float]], *, of: str, to: str) -> dict[str, float]:
    """Return how many times as long `of` takes as `to`: by sums over the rounds, and by best rounds."""
    return {
        "totals": round(sum(seconds[of]) / sum(seconds[to]), 3),
        "minima": round(min(seconds[of]) / min(seconds[to]), 3),
    }


def shares_of_peak(
    seconds: Mapping[str, list[float]], peaks: list[float], work: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Return what share of the machine's peak each contender reaches on the minimal work.

    `totals`: mean time against the mean of the rounds' peaks; `minima`: the best round against the best peak;
    `strict`: as totals, with the last layer counted only as far as the head needs it, and a prefix that all prompts
    share counted once.
    """
    mean_peak, best_peak = sum(peaks) / len(peaks), max(peaks)
    found = {}
    for name, times in seconds.items():
        mean = sum(times) / len(times)
        found[name] = {
            "totals": round(work["flops"] / mean / mean_peak, 4),
            "minima": round(work["flops"] / min(times) / best_peak, 4),
            "strict": round(work["flops_strict"] / mean / mean_peak, 4),
        }
    return found
