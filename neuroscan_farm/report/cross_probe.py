"""Which layers every probe needs, and which one probe alone: ablations over several probes. `cross_probe.json`.

The file follows neuro-scan: losses of the mean expected answer value, the five layers with the largest ones (of
either sign) for each probe, universal where all probes have a layer among them, specific where one alone has. The
same on the run's own metric stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from neuroscan_farm.report.ablation import delta_of, singles_of
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.findings import Findings

CROSS_PROBE_VERSION = 1
TOP_LAYERS = 5  # neuro-scan's default
_FEWEST_LAYERS = 3  # of two, every correlation is 1 or -1

Table = tuple[tuple[float | None, ...], ...]  # [probes, probes]
Profile = tuple[float | None, ...]  # by layer: how much is lost without it; None where that was not measured


@dataclass(frozen=True, slots=True)
class CrossProbe:
    """The layers' profiles on several probes, and what they have in common."""

    probes: tuple[str, ...]
    profiles: Mapping[str, Profile]
    top_layers: Mapping[str, tuple[int, ...]]  # the largest losses or gains first
    universal: tuple[int, ...]  # among the top layers of every probe of which any is known
    specific: Mapping[str, tuple[int, ...]]  # among those of this probe alone; probes without any are absent
    correlation: (
        Table  # Pearson's, of the profiles; None where one has no spread, or they share no three layers
    )
    rank_correlation: Table  # Spearman's: one layer with a huge loss does not decide it

    @property
    def layers(self) -> int:
        """How many layers were measured on some probe."""
        columns = zip(*self.profiles.values(), strict=True)
        return sum(any(value is not None for value in column) for column in columns)


def cross_probe(findings: Findings) -> CrossProbe | None:
    """Compare the layers' profiles on the run's metric; None without two probes and the ablations of two layers."""
    return _compared(findings, lambda c, probe: _loss(c, probe, findings))


def cross_probe_json(findings: Findings) -> dict[str, Any] | None:
    """Return `cross_probe.json`; None without two probes and the ablations of two layers."""
    theirs = _compared(findings, lambda c, probe: delta_of(c, findings, probe))
    ours = cross_probe(findings)
    if theirs is None or ours is None:
        return None
    return {
        "schema_version": CROSS_PROBE_VERSION,
        "run_id": findings.manifest.run_id,
        "model": findings.manifest.model,
        "total_layers": findings.manifest.depth,
        "metric": "expected_score",
        **_told(theirs, findings, "expected_score"),
        "ranked_by": findings.metric.value,
        "by_ranking_metric": _told(ours, findings, findings.metric.value),
    }


def cross_text(seen: CrossProbe, findings: Findings) -> str:
    """Say in words which layers all probes need, and which one alone."""
    known = [probe for probe in seen.probes if seen.top_layers[probe]]
    if len(known) < 2:
        return f"Layers' losses are known on {len(known)} of {len(seen.probes)} probes, so there is nothing to compare yet."
    largest = f"the {TOP_LAYERS} layers whose absence changes {findings.metric.value} most"
    everywhere = "every probe" if len(known) == len(seen.probes) else f"all of {', '.join(known)}"
    if seen.universal:
        said = f"Universal: {_named(seen.universal)} (among {largest} on {everywhere})."
    else:
        said = f"No layer is among {largest} on {everywhere}."
    said += "".join(f" Of {probe} alone: {_named(layers)}." for probe, layers in seen.specific.items())
    values = [
        value
        for row, line in enumerate(seen.rank_correlation)
        for column, value in enumerate(line)
        if column > row and value is not None
    ]
    if values:
        alike = f"{values[0]:.2f}" if len(values) == 1 else f"{min(values):.2f} to {max(values):.2f}"
        said += f" The probes' layers rank alike by {alike} (Spearman; 1 is the same order, 0 none)."
    return (
        said
        + " A layer outside the first five of a probe may matter to it all the same: look at its interval."
    )


def _named(layers: Sequence[int]) -> str:
    return f"{'layers' if len(layers) > 1 else 'layer'} {', '.join(map(str, layers))}"


def _told(seen: CrossProbe, findings: Findings, column: str) -> dict[str, Any]:
    baseline = findings.baseline
    return {
        "probes": list(seen.probes),
        "universal_layers": list(seen.universal),
        "probe_specific_layers": {probe: list(layers) for probe, layers in seen.specific.items()},
        "correlation_matrix": [list(row) for row in seen.correlation],
        "rank_correlation_matrix": [list(row) for row in seen.rank_correlation],
        "per_probe": [
            {
                "probe": probe,
                "baseline": baseline.results[probe].means[column] if baseline else None,
                "top_layers": list(seen.top_layers[probe]),
                "ablation_deltas": list(seen.profiles[probe]),
            }
            for probe in seen.probes
        ],
    }


def _loss(c: Configuration, probe: str, findings: Findings) -> float | None:
    effect = c.results[probe].effects.get(findings.metric)
    return None if effect is None else -effect.mean


def _compared(findings: Findings, loss: Callable[[Configuration, str], float | None]) -> CrossProbe | None:
    singles = {gone.layer: c for gone, c in singles_of(findings).items() if gone.component == "layer"}
    if len(findings.probes) < 2 or len(singles) < 2:
        return None
    profiles: dict[str, Profile] = {}
    for probe in findings.probes:
        values: list[float | None] = [None] * findings.manifest.depth
        for layer, c in singles.items():
            values[layer] = loss(c, probe)
        profiles[probe] = tuple(values)
    top = {probe: _top(profile) for probe, profile in profiles.items()}
    # A probe of which no layer is known has no part in what all need, nor in what one alone does.
    sets = {probe: set(layers) for probe, layers in top.items() if layers}
    if len(sets) < 2:
        sets = {}
    specific = {
        probe: tuple(sorted(mine.difference(*(other for name, other in sets.items() if name != probe))))
        for probe, mine in sets.items()
    }
    return CrossProbe(
        probes=findings.probes,
        profiles=profiles,
        top_layers=top,
        universal=tuple(sorted(set.intersection(*sets.values()))) if sets else (),
        specific={probe: layers for probe, layers in specific.items() if layers},
        correlation=_correlation([profiles[probe] for probe in findings.probes], ranks=False),
        rank_correlation=_correlation([profiles[probe] for probe in findings.probes], ranks=True),
    )


def _top(profile: Profile) -> tuple[int, ...]:
    known = [(-abs(value), layer) for layer, value in enumerate(profile) if value is not None]
    return tuple(layer for _, layer in sorted(known)[:TOP_LAYERS])


def _correlation(profiles: Sequence[Profile], *, ranks: bool) -> Table:
    """The correlation of each two profiles, over the layers that both have."""
    return tuple(
        tuple(1.0 if a == b else _alike(one, other, ranks=ranks) for b, other in enumerate(profiles))
        for a, one in enumerate(profiles)
    )


def _alike(one: Profile, other: Profile, *, ranks: bool) -> float | None:
    pairs = [(x, y) for x, y in zip(one, other, strict=True) if x is not None and y is not None]
    if len(pairs) < _FEWEST_LAYERS:
        return None
    x, y = np.array(pairs).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    if ranks:
        x, y = rankdata(x), rankdata(y)
    return float(np.corrcoef(x, y)[0, 1])
