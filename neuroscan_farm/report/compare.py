"""Two runs side by side: the same configurations of two models, or of one model measured twice.

Models of different depths are compared on relative depth: a block's ends are scaled and rounded, a layer that is left
out is the one at the same share of the depth. Each configuration of the shallower model has one counterpart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.stats import rankdata

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.errors import RequestError
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.left_out import left_out_by
from neuroscan_farm.report.metric_text import ABSENT, METRIC_TEXT
from neuroscan_farm.report.top import table_lines
from neuroscan_farm.statistics.effects import Effect

COMPARISON_VERSION = 1
_Key: TypeAlias = tuple[object, ...]  # what a configuration does, in words that fit both models


@dataclass(frozen=True, slots=True)
class View:
    """The matched configurations with a change in both runs, on one probe or over the probes."""

    probe: str | None
    # (of the first run, of the second), by the first's rank
    matched: tuple[tuple[Configuration, Configuration], ...]
    correlation: float | None  # Pearson's, of the changes; None with fewer than three, or without spread
    rank_correlation: float | None  # Spearman's


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs, and what they have in common."""

    first: Findings
    second: Findings
    metric: Metric
    views: tuple[View, ...]  # over the probes first, where both have the same several
    unmatched: tuple[int, int]  # configurations of each run without a counterpart

    @property
    def by_share_of_depth(self) -> bool:
        """Whether the models differ in depth."""
        return self.first.manifest.depth != self.second.manifest.depth


def compare_runs(first: Findings, second: Findings) -> Comparison:
    """Match the configurations of two runs.

    Raises:
        RequestError: they are one run, or differ in analysis or metric, or have no probe or configuration in common.
    """
    a, b = first.manifest, second.manifest
    names = f"{a.run_id} and {b.run_id}"
    if a == b:
        raise RequestError(f"{a.run_id}: both are the same run; name two")
    different = []
    if a.analysis != b.analysis:
        different.append(f"analysis ({a.analysis} and {b.analysis})")
    if first.metric is not second.metric:
        different.append(
            f"metric ({first.metric.value} and {second.metric.value}; --metric ranks both by one of them)"
        )
    common = [probe for probe in first.probes if b.probes.get(probe) == a.probes[probe]]
    if not common:
        same_name = [probe for probe in first.probes if probe in b.probes]
        why = f"{', '.join(same_name)} by name, but with other samples" if same_name else "none in common"
        different.append(f"probes ({', '.join(first.probes)} and {', '.join(second.probes)}: {why})")
    if different:
        raise RequestError(f"{names} cannot be compared; they differ in: {'; '.join(different)}")
    pairs = _pairs(first, second)
    if not pairs:
        raise RequestError(
            f"{names} cannot be compared: no configuration of one has a counterpart in the other "
            f"(depths {a.depth} and {b.depth})"
        )
    views: list[str | None] = list(common)
    if len(common) > 1 and set(common) == set(first.probes) == set(second.probes):
        views.insert(0, None)
    counts = (len(first.configurations) - len(pairs), len(second.configurations) - len(pairs))
    return Comparison(
        first, second, first.metric, tuple(_view(pairs, view, first.metric) for view in views), counts
    )


def comparison_text(seen: Comparison, *, count: int = 10, probe: str | None = None) -> str:
    """Return the comparison for a terminal: the best `count` of each run, side by side.

    Raises:
        RequestError: the runs do not share the probe.
    """
    view = _chosen(seen, probe)
    text, (a, b) = METRIC_TEXT[seen.metric], (seen.first.manifest, seen.second.manifest)
    lines = [
        f"A  {a.run_id}: {a.analysis} of {a.model} ({a.depth} layers), {_done(seen.first)}",
        f"B  {b.run_id}: {b.analysis} of {b.model} ({b.depth} layers), {_done(seen.second)}",
        f"on {view.probe or seen.first.view_name(None)}, changes of {text.name} in {text.unit}",
    ]
    if seen.by_share_of_depth:
        lines.append("the models differ in depth: configurations are matched by their share of it")
    held_out = [findings.request.confirm for findings in (seen.first, seen.second)]
    if held_out[0] != held_out[1]:
        shares = " and ".join("none" if share is None else f"{share:g}" for share in held_out)
        lines.append(
            f"the runs hold out different shares of the samples ({shares}): changes rest on different ones"
        )
    baselines = [_baseline(findings, view, seen.metric) for findings in (seen.first, seen.second)]
    lines += [f"baselines: A {baselines[0]}, B {baselines[1]}", ""]
    rows = [
        (
            "A",
            "configuration A",
            "change A",
            "95 % interval",
            "B",
            "configuration B",
            "change B",
            "95 % interval",
        )
    ]
    for one, other in _best(view, count):
        x, y = (c.results[view.probe].effects[seen.metric] for c in (one, other))
        rows.append(
            (
                _rank(one, view), one.label, text.change(x.mean), text.interval(x),
                _rank(other, view), other.label, text.change(y.mean), text.interval(y),
            )
        )  # fmt: skip
    lines += table_lines(rows, right={0, 2, 4, 6})
    lines.append("")
    matched = f"{len(view.matched)} configurations have a change in both"
    if view.rank_correlation is not None and view.correlation is not None:
        matched += (
            f"; their changes correlate by {view.correlation:.2f} (Pearson), their order by "
            f"{view.rank_correlation:.2f} (Spearman)"
        )
    lines.append(matched)
    lines.append(f"{seen.unmatched[0]} of A and {seen.unmatched[1]} of B have no counterpart")
    return "\n".join(lines)


def comparison_dict(seen: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON's own types, with every matched configuration."""
    return {
        "schema_version": COMPARISON_VERSION,
        "metric": seen.metric.value,
        "matched_by": "share of depth" if seen.by_share_of_depth else "path",
        "runs": [
            {
                "run_id": findings.manifest.run_id,
                "model": findings.manifest.model,
                "total_layers": findings.manifest.depth,
                "tasks_planned": findings.n_planned,
                "tasks_measured": findings.n_measured,
                "held_out": findings.request.confirm,
                "without_counterpart": left_out,
            }
            for findings, left_out in zip((seen.first, seen.second), seen.unmatched, strict=True)
        ],
        "views": [
            {
                "probe": view.probe or "*",
                "correlation": view.correlation,
                "rank_correlation": view.rank_correlation,
                "configurations": [[_told(c, view, seen.metric) for c in both] for both in view.matched],
            }
            for view in seen.views
        ],
    }


def _pairs(first: Findings, second: Findings) -> list[tuple[Configuration, Configuration]]:
    """Match by path, or by share of depth: then each of the shallower model is looked up in the deeper one."""
    depths = (first.manifest.depth, second.manifest.depth)
    turned = depths[0] > depths[1]
    few, many = (second, first) if turned else (first, second)
    there = {_key(c, many, many.manifest.depth): c for c in many.configurations}
    found = []
    for c in few.configurations:
        key = _key(c, few, many.manifest.depth)
        other = there.get(key) if key is not None else None
        if other is not None:
            found.append((other, c) if turned else (c, other))
    return found


def _key(c: Configuration, findings: Findings, depth: int) -> _Key | None:
    """What a configuration does, as if its model had `depth` layers; None where that cannot be said."""
    own = findings.manifest.depth
    if own == depth:
        scaled: _Key = ("path", *c.path.steps)
        if c.block is None and left_out_by(c.path, own) is None:
            return scaled
    if c.block is not None:
        i, j = (round(end * depth / own) for end in (c.block.i, c.block.j))
        return ("block", i, j, c.block.times)
    gone = left_out_by(c.path, own)
    if gone is None:
        return None
    layers = [(int((one.layer + 0.5) * depth / own), one.component) for one in gone]
    return ("without", *layers) if len(set(layers)) == len(layers) else None


def _view(pairs: list[tuple[Configuration, Configuration]], probe: str | None, metric: Metric) -> View:
    def effects(both: tuple[Configuration, Configuration]) -> list[Effect | None]:
        return [c.results[probe].effects.get(metric) for c in both]

    matched = [both for both in pairs if None not in effects(both)]
    matched.sort(key=lambda both: (both[0].results[probe].rank or len(pairs), both[0].path.steps))
    x, y = (np.array([both[k].results[probe].effects[metric].mean for both in matched]) for k in range(2))
    told = len(matched) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0
    return View(
        probe,
        tuple(matched),
        float(np.corrcoef(x, y)[0, 1]) if told else None,
        float(np.corrcoef(rankdata(x), rankdata(y))[0, 1]) if told else None,
    )


def _chosen(seen: Comparison, probe: str | None) -> View:
    if probe is None:
        return seen.views[0]
    by_name: Mapping[str | None, View] = {view.probe: view for view in seen.views}
    if probe not in by_name:
        names = ", ".join(name for name in by_name if name)
        raise RequestError(f"probe {probe} is not in both runs; in common are: {names}")
    return by_name[probe]


def _best(view: View, count: int) -> list[tuple[Configuration, Configuration]]:
    """The best of each run, in the order of the first's ranks."""
    best = set()
    for k in range(2):
        ranked = [
            (rank, n) for n, both in enumerate(view.matched) if (rank := both[k].results[view.probe].rank)
        ]
        best |= {n for _, n in sorted(ranked)[:count]}
    return [view.matched[n] for n in sorted(best)]


def _rank(c: Configuration, view: View) -> str:
    rank = c.results[view.probe].rank
    return ABSENT if rank is None else str(rank)


def _baseline(findings: Findings, view: View, metric: Metric) -> str:
    value = findings.baseline.results[view.probe].means[metric.value] if findings.baseline else None
    return ABSENT if value is None else f"{value:.3f}"


def _done(findings: Findings) -> str:
    return f"{findings.n_measured} of {findings.n_planned} tasks measured"


def _told(c: Configuration, view: View, metric: Metric) -> dict[str, Any]:
    result = c.results[view.probe]
    effect = result.effects[metric]
    return {
        "path": str(c.path),
        "rank": result.rank,
        "effect": effect.mean,
        "effect_low": effect.low,
        "effect_high": effect.high,
        "p_adjusted": effect.p_adjusted,
    }
