"""Configurations over several probes: the Pareto front, the best of each probe, a balanced score. `multi_probe.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT
from neuroscan_farm.statistics.balanced import balanced_scores
from neuroscan_farm.statistics.pareto import pareto_front

MULTI_PROBE_VERSION = 1
BALANCED_TEXT = (
    "mean over the probes of the effect's z-score (its distance from the mean effect of all configurations on that "
    "probe, in standard deviations)"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """One configuration that has a rank on every probe."""

    configuration: Configuration
    effects: tuple[float, ...]  # on the ranking metric, in the order of the probes
    balanced: float  # see `BALANCED_TEXT`
    on_front: bool  # no other is at least as good on every probe and better on one


@dataclass(frozen=True, slots=True)
class MultiProbe:
    """What a run of several probes says over them all."""

    probes: tuple[str, ...]
    standings: tuple[Standing, ...]  # the best balanced first
    best: Mapping[str, Configuration]  # by probe; a probe on which nothing has a rank is absent

    @property
    def front(self) -> tuple[Standing, ...]:
        """The Pareto-optimal ones, the best balanced first."""
        return tuple(standing for standing in self.standings if standing.on_front)


def multi_probe(findings: Findings) -> MultiProbe | None:
    """Compare the configurations over the probes; None for a run of one probe."""
    if len(findings.probes) < 2:
        return None
    everywhere = [
        c
        for c in findings.configurations
        if all(c.results[probe].rank is not None for probe in findings.probes)
    ]
    best = {probe: ranked[0] for probe in findings.probes if (ranked := findings.ranked(probe))}
    if not everywhere:
        return MultiProbe(findings.probes, (), best)
    effects = np.array(
        [[c.results[probe].effects[findings.metric].mean for probe in findings.probes] for c in everywhere]
    )
    scores = balanced_scores(effects).tolist()
    front = pareto_front(effects)
    standings = [
        Standing(c, tuple(row), score, bool(on_front))
        for c, row, score, on_front in zip(everywhere, effects.tolist(), scores, front, strict=True)
    ]
    standings.sort(key=lambda one: (-one.balanced, one.configuration.path.steps))
    return MultiProbe(findings.probes, tuple(standings), best)


def multi_probe_text(seen: MultiProbe, findings: Findings) -> str:
    """Say in words what is best on which probe, and how large the front is."""
    text = METRIC_TEXT[findings.metric]
    if not seen.best:
        return "Nothing has a rank on any probe yet."
    best = [
        f"{c.label} on {probe} ({text.change(c.results[probe].effects[findings.metric].mean)})"
        for probe, c in seen.best.items()
    ]
    said = f"Best for each probe, in {text.unit}: {', '.join(best)}."
    if seen.standings:
        said += (
            f" {len(seen.front)} of {len(seen.standings)} configurations are Pareto-optimal; the best balanced is "
            f"{seen.standings[0].configuration.label} ({seen.standings[0].balanced:+.2f}, mean of z-scored effects)."
        )
    return said


def multi_probe_json(findings: Findings) -> dict[str, Any] | None:
    """Return `multi_probe.json` with layer-scan's field names; None for a run of one probe.

    `pareto_configs` holds plain (i, j) blocks, as there; other paths stand in `other_pareto_configs`. The front is one
    of effects on the ranking metric, and `normalized_score` is our balanced score: `score_meaning` says so.
    """
    seen = multi_probe(findings)
    if seen is None:
        return None
    entries = [(_entry(standing, findings), standing.configuration.plain_block) for standing in seen.front]
    return {
        "schema_version": MULTI_PROBE_VERSION,
        "run_id": findings.manifest.run_id,
        "model": findings.manifest.model,
        "probes": list(seen.probes),
        "ranked_by": findings.metric.value,
        "score_meaning": f"normalized_score is the balanced score: {BALANCED_TEXT}",
        "tasks_planned": findings.n_planned,
        "tasks_measured": findings.n_measured,
        "configurations_compared": len(seen.standings),
        "pareto_configs": [entry for entry, block in entries if block is not None],
        "other_pareto_configs": [entry for entry, block in entries if block is None],
        "per_probe_best": {
            probe: {
                **_where(c),
                "score": c.results[probe].means["expected_score"],
                "effect": c.results[probe].effects[findings.metric].mean,
            }
            for probe, c in seen.best.items()
        },
    }


def _where(c: Configuration) -> dict[str, Any]:
    block = c.plain_block
    return {"i": block.i if block else None, "j": block.j if block else None, "path": str(c.path)}


def _entry(standing: Standing, findings: Findings) -> dict[str, Any]:
    c, probes = standing.configuration, findings.probes
    return {
        **_where(c),
        "normalized_score": standing.balanced,
        "probe_scores": {probe: c.results[probe].means["expected_score"] for probe in probes},
        "probe_log_odds": {probe: c.results[probe].means["log_odds"] for probe in probes},
        "probe_accuracies": {probe: c.results[probe].means["correct"] for probe in probes},
        "probe_effects": dict(zip(probes, standing.effects, strict=True)),
    }
