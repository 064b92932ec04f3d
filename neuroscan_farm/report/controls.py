"""Matched-compute controls: would the same compute elsewhere in the model have done as much?"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, TypeAlias

from neuroscan_farm.domain.paths import LayerPath, parse_blocks
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.cost import priced
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT, p_text

_FEWEST_CONTROLS = 2

# (length, how often it runs in all) of each, the shortest first
Windows: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Controls:
    """A configuration among others that run windows of the same lengths again, which cost as much as it does."""

    subject: Configuration
    named: bool  # whether the request named it, with controls to compare; else it is the run's best
    windows: Windows
    effect: float
    mean: float  # of the controls' effects
    best: Configuration  # the best control
    n: int  # controls
    as_good: int  # controls that are at least as good as the subject

    @property
    def percentile(self) -> float:
        """Which share of the controls the subject is better than, of 100."""
        return 100 * (self.n - self.as_good) / self.n


def windows_of(path: LayerPath, depth: int) -> Windows | None:
    """Return the windows that `path` runs again, wherever they are; None where it does anything else."""
    runs = path.runs()
    if not path.whole or runs[0][0] != 0 or runs[-1][1] != depth:
        return None
    back = Counter((first, end) for (_, end), (first, _) in pairwise(runs))
    if any(first >= end for first, end in back):
        return None  # a jump ahead
    return tuple(sorted((end - first, count + 1) for (first, end), count in back.items())) or None


def controls_of(findings: Findings, *, probe: str | None = None) -> list[Controls]:
    """Compare the blocks that were named with their controls, or the best of the run with others like it.

    All configurations with the same windows take part as controls, be they of a grid or asked for, but named ones. Where
    fewer than two are measured there is no comparison.
    """
    depth, found = findings.manifest.depth, priced(findings, probe=probe)
    parameters = findings.request.parameters
    named: set[LayerPath] = set()
    if getattr(parameters, "controls", 0):
        named = {
            LayerPath.duplicating(parse_blocks(text), depth) for text in getattr(parameters, "blocks", ())
        }
    subjects = [one for one in found if one[0].path in named] if named else found[:1]
    compared = []
    for subject, effect in subjects:
        windows = windows_of(subject.path, depth)
        others = [
            (c, mean)
            for c, mean in found
            if c is not subject and c.path not in named and windows_of(c.path, depth) == windows
        ]
        if windows is None or len(others) < _FEWEST_CONTROLS:
            continue
        as_good = sum(mean >= effect for _, mean in others)
        mean = fmean(mean for _, mean in others)
        compared.append(
            Controls(subject, bool(named), windows, effect, mean, others[0][0], len(others), as_good)
        )
    return compared


def controls_text(findings: Findings, *, probe: str | None = None) -> str | None:
    """Say whether the same compute elsewhere would have done; None where nothing like it was measured."""
    compared = controls_of(findings, probe=probe)
    if not compared:
        return None
    return "Same compute elsewhere: " + " ".join(_controls_said(one, findings, probe) for one in compared)


def controls_dict(findings: Findings) -> list[dict[str, Any]]:
    """Return the controls as JSON's own types, over the probes."""
    return [
        {
            "path": str(one.subject.path),
            "named": one.named,
            "windows": [{"layers": length, "times": times} for length, times in one.windows],
            "effect": one.effect,
            "controls": one.n,
            "controls_mean_effect": one.mean,
            "best_control": str(one.best.path),
            "controls_as_good": one.as_good,
            "percentile": one.percentile,
        }
        for one in controls_of(findings)
    ]


def _controls_said(one: Controls, findings: Findings, probe: str | None) -> str:
    text = METRIC_TEXT[findings.metric]
    sizes = " and ".join(
        f"{length} layer{'s' if length > 1 else ''}{'' if times == 2 else f' (run {times} times)'}"
        for length, times in one.windows
    )
    best = one.best.results[probe].effects[findings.metric].mean
    said = (
        f"{one.n} other {'blocks' if len(one.windows) == 1 else 'sets of blocks'} of {sizes} were measured. Their mean "
        f"change is {text.change(one.mean)} {text.unit}, the best of them, {_short(one.best.label)}, has "
        f"{text.change(best)}; {_short(one.subject.label)} has {text.change(one.effect)}"
    )
    if one.named:
        # Under the null of no special place, the subject is as likely to stand at any place among them all.
        p = (one.as_good + 1) / (one.n + 1)
        be = "is" if one.as_good == 1 else "are"
        return (
            f"{said}, and {one.as_good} of them {be} at least as good. If its place were of no matter, it would stand "
            f"so high with a probability of {p_text(p)}."
        )
    return (
        f"{said} and is better than {math.floor(one.percentile)} % of them. It was chosen as the best, so that share "
        "alone is no evidence; a control's mean near its own would mean that any further layers help as much."
    )


def _short(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:39]}…"
