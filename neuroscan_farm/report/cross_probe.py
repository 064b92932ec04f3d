"""Which layers every probe needs, and which one probe alone: ablations over several probes. `cross_probe.json`.

What we say ourselves (`cross_text`, the pictures) is of layers whose loss stands out, by an adjusted p below 0.05 on the
probe: every list of the five largest has five layers, of noise too, and lists of noise meet.

The file follows neuro-scan besides: losses of the mean expected answer value, the five layers with the largest ones (of
either sign) for each probe, universal where all probes have a layer among them, specific where one alone has. The
same on the run's own metric stands beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from neuroscan_farm.report.ablation import delta_of, singles_of
from neuroscan_farm.report.chance import stands_out
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT
from neuroscan_farm.statistics.multiplicity import LEVEL

CROSS_PROBE_VERSION = 1
TOP_LAYERS = 5  # the default of neuro-scan's function; its command asks for 10
_FEWEST_LAYERS = 3  # of two, every correlation is 1 or -1

Table = tuple[tuple[float | None, ...], ...]  # [probes, probes]
Profile = tuple[float | None, ...]  # by layer: how much is lost without it; None where that was not measured


@dataclass(frozen=True, slots=True)
class CrossProbe:
    """The layers' profiles on several probes, and what they have in common."""

    probes: tuple[str, ...]
    profiles: Mapping[str, Profile]
    # layers whose loss on the run's metric has an adjusted p below 0.05, in order; None where no layer has a p-value
    needed: Mapping[str, tuple[int, ...] | None]
    top_layers: Mapping[str, tuple[int, ...]]  # the largest losses or gains first
    universal: tuple[int, ...]  # neuro-scan's: among the top layers of every probe of which any is known
    # neuro-scan's: among those of this probe alone; probes without any are absent
    specific: Mapping[str, tuple[int, ...]]
    correlation: (
        Table  # Pearson's, of the profiles; None where one has no spread, or they share no three layers
    )
    rank_correlation: Table  # Spearman's: one layer with a huge loss does not decide it

    @property
    def needed_by_all(self) -> tuple[int, ...]:
        """The layers whose loss stands out on every probe that has p-values; none where fewer than two have."""
        known = [set(layers) for layers in self.needed.values() if layers is not None]
        return tuple(sorted(set.intersection(*known))) if len(known) > 1 else ()

    @property
    def needed_by_one(self) -> Mapping[str, tuple[int, ...]]:
        """The layers whose loss stands out on this probe and on no other; probes without any are absent."""
        known = {probe: layers for probe, layers in self.needed.items() if layers is not None}
        if len(known) < 2:
            return {}
        times = Counter(layer for layers in known.values() for layer in layers)
        alone = {
            probe: tuple(layer for layer in layers if times[layer] == 1) for probe, layers in known.items()
        }
        return {probe: layers for probe, layers in alone.items() if layers}

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
        "by_ranking_metric": {
            **_told(ours, findings, findings.metric.value),
            "needed_by_all": list(ours.needed_by_all),
            "needed_by_one": {probe: list(layers) for probe, layers in ours.needed_by_one.items()},
            "needed": {
                probe: None if layers is None else list(layers) for probe, layers in ours.needed.items()
            },
        },
    }


def cross_text(seen: CrossProbe, findings: Findings) -> str:
    """Say in words which layers all probes need, and which one alone."""
    known = [probe for probe in seen.probes if seen.top_layers[probe]]
    if len(known) < 2:
        return f"Layers' losses are known on {len(known)} of {len(seen.probes)} probes, so there is nothing to compare yet."
    judged = [probe for probe in seen.probes if seen.needed[probe] is not None]
    what = f"loss of {METRIC_TEXT[findings.metric].name} stands out (adjusted p below {LEVEL:g})"
    if len(judged) < 2:
        said = (
            f"Only {len(judged)} of {len(seen.probes)} probes have p-values, so no layer is called universal."
        )
    else:
        everywhere = "every probe" if len(judged) == len(seen.probes) else f"all of {', '.join(judged)}"
        if seen.needed_by_all:
            said = f"Universal: {_named(seen.needed_by_all)}, whose {what} on {everywhere}."
        else:
            said = f"No layer's {what} on {everywhere}, so none is called universal."
        alone = seen.needed_by_one
        said += "".join(f" On {probe} alone: {_named(layers)}." for probe, layers in alone.items())
        if alone:
            said += " That a loss does not stand out elsewhere is no proof that there is none."
    values = [
        value
        for row, line in enumerate(seen.rank_correlation)
        for column, value in enumerate(line)
        if column > row and value is not None
    ]
    if values:
        alike = f"{values[0]:.2f}" if len(values) == 1 else f"{min(values):.2f} to {max(values):.2f}"
        said += f" The probes' layers rank alike by {alike} (Spearman; 1 is the same order, 0 none)."
    return said


def _named(layers: Sequence[int]) -> str:
    """Layers in order, with those that follow each other as `3 to 6`."""
    parts, start = [], layers[0]
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if following != layer + 1:
            if layer - start > 1:
                parts.append(f"{start} to {layer}")
            else:
                parts += [str(one) for one in range(start, layer + 1)]
            start = layer if following is None else following
    return f"{'layers' if len(layers) > 1 else 'layer'} {', '.join(parts)}"


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
        needed={probe: _needed(findings, singles, probe) for probe in findings.probes},
        top_layers=top,
        universal=tuple(sorted(set.intersection(*sets.values()))) if sets else (),
        specific={probe: layers for probe, layers in specific.items() if layers},
        correlation=_correlation([profiles[probe] for probe in findings.probes], ranks=False),
        rank_correlation=_correlation([profiles[probe] for probe in findings.probes], ranks=True),
    )


def _needed(findings: Findings, singles: Mapping[int, Configuration], probe: str) -> tuple[int, ...] | None:
    effects = {layer: c.results[probe].effects.get(findings.metric) for layer, c in sorted(singles.items())}
    if all(effect is None or effect.p_adjusted is None for effect in effects.values()):
        return None
    return tuple(
        layer
        for layer, effect in effects.items()
        if effect is not None and effect.mean < 0 and stands_out(effect)
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
