"""Pairs of layers: what leaving out both loses beyond the sum of the two. `circuit.json` and `interactions.csv`.

The interaction of a and b is joint loss − (loss of a + loss of b), by sample: above zero the layers are synergistic,
below zero redundant, as in neuro-scan; which of them is decided by the 95 % interval and by no fixed threshold.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.ablation import endings, singles_of
from neuroscan_farm.report.chance import stands_out
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.left_out import left_out_by
from neuroscan_farm.report.metric_text import METRIC_TEXT
from neuroscan_farm.statistics.interactions import Interaction, interactions

CIRCUIT_VERSION = 1
KINDS = ("synergistic", "redundant", "independent", "undecided")
COLUMNS = (
    "layer_a", "layer_b", "probe", "metric", "interaction", "interaction_low", "interaction_high", "kind", "reason",
    "p_adjusted", "q", "joint_loss", "loss_a", "loss_b", "samples",
)  # fmt: skip
MEAN_OVER_PROBES = "*"

Pair = tuple[int, int]  # the lower layer first


@dataclass(frozen=True, slots=True)
class Circuit:
    """The pairs of a run, and the interactions of those that are measured, on one metric."""

    metric: Metric
    pairs: Mapping[Pair, Configuration]  # planned, measured or not
    interactions: Mapping[str | None, Mapping[Pair, Interaction]]  # by view; without what cannot be computed

    def count(self, view: str | None, kind: str) -> int:
        """How many measured pairs are of a kind."""
        return sum(found.kind == kind for found in self.interactions[view].values())

    def strongest(self, view: str | None, *, kinds: Iterable[str] = KINDS[:2]) -> list[Interaction]:
        """Return the pairs of these kinds, the largest interaction of either sign first."""
        wanted = set(kinds)
        chosen = [found for found in self.interactions[view].values() if found.kind in wanted]
        return sorted(chosen, key=lambda found: (-abs(found.mean), found.layer_a, found.layer_b))


def pairs_of(findings: Findings) -> dict[Pair, Configuration]:
    """Return the configurations that leave out two whole layers which are also left out alone, in order."""
    depth, singles = findings.manifest.depth, singles_of(findings)
    found: dict[Pair, Configuration] = {}
    for c in findings.configurations:
        gone = left_out_by(c.path, depth)
        if gone is not None and len(gone) == 2 and all(one in singles for one in gone):
            a, b = gone
            if a.component == b.component == "layer":
                found[a.layer, b.layer] = c
    return dict(sorted(found.items()))


def circuit_of(findings: Findings, *, metric: Metric | None = None) -> Circuit | None:
    """Compute the interactions of a run's pairs on `metric`, or on the ranking metric; None where it has no pairs.

    A pair has none yet where it, one of its two singles or the baseline is not measured, or lacks a sample.
    """
    pairs = pairs_of(findings)
    if not pairs:
        return None
    metric = metric or findings.metric
    by_view: dict[str | None, dict[Pair, Interaction]] = {view: {} for view in findings.views}
    singles = {gone.layer: c for gone, c in singles_of(findings).items() if gone.component == "layer"}
    if findings.has_baseline and findings.baseline is not None:
        found = interactions(
            findings.matrices,
            metric=metric,
            baseline_id=findings.baseline.task_id,
            singles={layer: c.task_id for layer, c in singles.items() if c.is_begun},
            pairs={pair: c.task_id for pair, c in pairs.items() if c.is_begun},
        )
        # The mean is over all probes or not there: one that was added and has no rows yet has no matrix either.
        views = {
            view for view in by_view if view is not None or findings.matrices.keys() >= set(findings.probes)
        }
        for one in found:
            three = (pairs[one.layer_a, one.layer_b], singles[one.layer_a], singles[one.layer_b])
            failed = findings.baseline.results[one.probe].n_failed
            if one.probe in views and all(c.results[one.probe].n_failed <= failed for c in three):
                by_view[one.probe][one.layer_a, one.layer_b] = one
    return Circuit(metric, pairs, by_view)


def circuit_text(circuit: Circuit, findings: Findings, *, view: str | None) -> str:
    """Say in words how many pairs are of which kind, and what that rests on."""
    measured = len(circuit.interactions[view])
    counts = [f"{count} {kind}" for kind in KINDS if (count := circuit.count(view, kind))]
    said = f"{measured} of {len(circuit.pairs)} planned pairs are measured on {findings.view_name(view)}"
    if not measured:
        return f"{said}, so nothing is known of interactions yet."
    text = METRIC_TEXT[circuit.metric]
    said += f": {', '.join(counts)}."
    sure = [one for one in circuit.strongest(view) if stands_out(one)]
    if circuit.count(view, "undecided") < measured:
        expected = 0.05 * (measured - circuit.count(view, "undecided"))
        about = f"{expected:.0f}" if expected >= 10 else f"{expected:.1f}"
        said += (
            f" Each pair is decided by its own 95 % interval, so that about {about} would be called synergistic or"
            f" redundant if none were; {len(sure)} hold at an adjusted p below 0.05 over all pairs."
        )
    reasons = dict.fromkeys(one.reason for one in circuit.interactions[view].values() if one.reason)
    said += "".join(f" Undecided: {reason}." for reason in reasons)
    best = circuit.strongest(view)
    if best:
        one = best[0]
        said += (
            f" The strongest is {one.layer_a} with {one.layer_b}, {one.kind}: {text.change(one.mean)} {text.unit}"
            f" (95 %: {text.interval(one)})."
        )
    return said


def circuit_json(findings: Findings, circuit: Circuit, *, probe: str) -> dict[str, Any]:
    """Return `circuit.json` for one probe: neuro-scan's fields, on the mean expected answer value and with their sign.

    Args:
        findings: of the run.
        circuit: its interactions on `Metric.EXPECTED_SCORE`.
        probe: which.
    """
    found = circuit.interactions.get(probe, {})
    chosen = getattr(findings.request.parameters, "strategy", None)
    by_kind = {kind: [one for one in found.values() if one.kind == kind] for kind in KINDS}
    reason = None
    if not found:
        baseline = findings.baseline.results[probe] if findings.baseline else None
        numerals = baseline is None or not baseline.n_ok or baseline.means["expected_score"] is not None
        reason = "no pair is measured yet" if numerals else f"the answers of probe {probe} are no numbers"
    return {
        "schema_version": CIRCUIT_VERSION,
        "run_id": findings.manifest.run_id,
        "model": findings.manifest.model,
        "probe": probe,
        "total_layers": findings.manifest.depth,
        "metric": circuit.metric.value,
        "decided_by": "95 % interval of the interaction, paired by sample",
        "reason": reason,
        "tasks_planned": findings.n_planned,
        "tasks_measured": findings.n_measured,
        "strategy": chosen,
        "top_k": getattr(findings.request.parameters, "top_layers", None),
        "total_pairs": len(found),
        "planned_pairs": len(circuit.pairs),
        "total_evals": sum(one.n for one in found.values()),
        "time_seconds": findings.seconds.get(probe, 0.0),
        "synergistic": [_theirs(one) for one in sorted(by_kind["synergistic"], key=lambda one: -one.mean)],
        "redundant": [_theirs(one) for one in sorted(by_kind["redundant"], key=lambda one: one.mean)],
        "all_interactions": [
            {
                "layer_i": one.layer_a,
                "layer_j": one.layer_b,
                "interaction_effect": one.mean,
                "interaction_type": one.kind,
                "joint_delta": one.joint_loss,
                "individual_delta_i": one.loss_a,
                "individual_delta_j": one.loss_b,
                "interaction_low": one.low,
                "interaction_high": one.high,
                "p_adjusted": one.p_adjusted,
                "q": one.q,
                "samples": one.n,
                "reason": one.reason,
            }
            for one in found.values()
        ],
    }


def interactions_csv(findings: Findings, circuit: Circuit) -> str:
    """Return all interactions on the circuit's metric, a row for each pair and view; what is absent is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for view in findings.views:
        for one in circuit.interactions[view].values():
            writer.writerow(
                {
                    "layer_a": one.layer_a,
                    "layer_b": one.layer_b,
                    "probe": MEAN_OVER_PROBES if view is None else view,
                    "metric": circuit.metric.value,
                    "interaction": one.mean,
                    "interaction_low": one.low,
                    "interaction_high": one.high,
                    "kind": one.kind,
                    "reason": one.reason,
                    "p_adjusted": one.p_adjusted,
                    "q": one.q,
                    "joint_loss": one.joint_loss,
                    "loss_a": one.loss_a,
                    "loss_b": one.loss_b,
                    "samples": one.n,
                }
            )
    return text.getvalue()


def circuit_files(findings: Findings, circuit: Circuit | None) -> dict[str, Any]:
    """Return texts and JSON contents by file name; none for a run without pairs.

    Args:
        findings: of the run.
        circuit: its interactions on the ranking metric.
    """
    if circuit is None:
        return {}
    theirs = (
        circuit
        if circuit.metric is Metric.EXPECTED_SCORE
        else circuit_of(findings, metric=Metric.EXPECTED_SCORE)
    )
    assert theirs is not None
    files: dict[str, Any] = {
        f"circuit{ending}.json": circuit_json(findings, theirs, probe=probe)
        for ending, probe in endings(findings.probes)
    }
    return {**files, "interactions.csv": interactions_csv(findings, circuit)}


def _theirs(one: Interaction) -> dict[str, Any]:
    return {
        "layer_i": one.layer_a,
        "layer_j": one.layer_b,
        "interaction_effect": one.mean,
        "joint_delta": one.joint_loss,
        "individual_delta_i": one.loss_a,
        "individual_delta_j": one.loss_b,
        "interaction_low": one.low,
        "interaction_high": one.high,
    }
