"""What leaving out one layer, or one half of it, does; `report.json` and `ablation.csv` with neuro-scan's names.

`score` is the mean expected answer value, `score_delta` is the baseline's less the ablated model's (positive where
the layer was needed), as there. What neuro-scan has and we do not measure is null or empty: the logit lens, attention
entropy, block influence and labels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.left_out import COMPONENTS, LeftOut, left_out_by

REPORT_VERSION = 1
COLUMNS = (
    "layer_idx", "score", "score_delta", "uncertainty", "log_odds", "accuracy", "label",
    "effect_metric", "effect", "effect_low", "effect_high", "p_adjusted", "q", "effect_samples",
)  # fmt: skip
UNKNOWN_LABEL = "unknown"
_MOST_IMPORTANT = 10  # neuro-scan's default


def singles_of(findings: Findings) -> dict[LeftOut, Configuration]:
    """Return the configurations that leave out one thing, by component and then by layer."""
    depth = findings.manifest.depth
    found = {}
    for c in findings.configurations:
        gone = left_out_by(c.path, depth)
        if gone is not None and len(gone) == 1:
            found[gone[0]] = c
    return dict(sorted(found.items(), key=lambda item: (COMPONENTS.index(item[0].component), item[0].layer)))


def has_ablations(findings: Findings) -> bool:
    """Whether the run is one of ablations, or holds enough of them to be worth a picture."""
    return findings.manifest.analysis in ("ablation", "circuits") or len(singles_of(findings)) > 1


def ablation_json(findings: Findings, *, probe: str) -> dict[str, Any]:
    """Return `report.json` for one probe. Ours besides: the effects, and the components in their own list."""
    baseline = findings.baseline.results[probe] if findings.baseline else None
    singles = {gone: c for gone, c in singles_of(findings).items() if c.results[probe].n_ok}
    rows = {gone: _row(gone, c, findings, probe) for gone, c in singles.items()}
    layers = [row for gone, row in rows.items() if gone.component == "layer"]
    known = [row for row in layers if row["score_delta"] is not None]
    known.sort(key=lambda row: (-abs(row["score_delta"]), row["layer_idx"]))
    names = ("layer_idx", "score", "score_delta", "uncertainty", "log_odds", "accuracy")
    ours = ("effect", "effect_low", "effect_high", "p_adjusted", "q")
    return {
        "schema_version": REPORT_VERSION,
        "run_id": findings.manifest.run_id,
        "model": findings.manifest.model,
        "probe": probe,
        "total_layers": findings.manifest.depth,
        "baseline_score": baseline.means["expected_score"] if baseline else None,
        "baseline_uncertainty": baseline.means["uncertainty"] if baseline else None,
        "scan_time_seconds": findings.seconds.get(probe, 0.0),
        "ranked_by": findings.metric.value,
        "tasks_planned": findings.n_planned,
        "tasks_measured": findings.n_measured,
        "ablation_results": [{name: row[name] for name in (*names, *ours)} for row in layers],
        "component_results": [
            {"component": gone.component, **{name: row[name] for name in (*names, *ours)}}
            for gone, row in rows.items()
            if gone.component != "layer"
        ],
        "top_important_layers": [row["layer_idx"] for row in known[:_MOST_IMPORTANT]],
        "layer_labels": {},
        "logit_lens_trajectory": [],
        "attention_entropy": None,
        "block_influence": None,
    }


def ablation_csv(findings: Findings, *, probe: str, component: str = "layer") -> str:
    """Return the table of one component's ablations on one probe; what is absent is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for gone, c in singles_of(findings).items():
        if gone.component == component and c.results[probe].n_ok:
            writer.writerow(_row(gone, c, findings, probe))
    return text.getvalue()


def ablation_files(findings: Findings) -> dict[str, Any]:
    """Return texts and JSON contents by file name: the first probe's under plain names; each of several besides."""
    if not has_ablations(findings):
        return {}
    parts = {gone.component for gone in singles_of(findings)} - {"layer"}
    files: dict[str, Any] = {}
    for ending, probe in endings(findings.probes):
        files[f"report{ending}.json"] = ablation_json(findings, probe=probe)
        files[f"ablation{ending}.csv"] = ablation_csv(findings, probe=probe)
        for part in sorted(parts):
            files[f"ablation-of-{part}{ending}.csv"] = ablation_csv(findings, probe=probe, component=part)
    return files


def endings(probes: Sequence[str]) -> list[tuple[str, str]]:
    """Return what is added to a file's name for each probe: nothing for the first; `-<probe>` where there are several."""
    several = [(f"-{probe}", probe) for probe in probes] if len(probes) > 1 else []
    return [("", probes[0]), *several]


def delta_of(c: Configuration, findings: Findings, probe: str) -> float | None:
    """neuro-scan's delta: the baseline's mean expected value less the configuration's; None where one is absent."""
    base = findings.baseline.results[probe].means["expected_score"] if findings.baseline else None
    score = c.results[probe].means["expected_score"]
    return None if base is None or score is None else base - score


def _row(gone: LeftOut, c: Configuration, findings: Findings, probe: str) -> Mapping[str, Any]:
    result = c.results[probe]
    effect = result.effects.get(findings.metric)
    return {
        "layer_idx": gone.layer,
        "score": result.means["expected_score"],
        "score_delta": delta_of(c, findings, probe),
        "uncertainty": result.means["uncertainty"],
        "log_odds": result.means["log_odds"],
        "accuracy": result.means["correct"],
        "label": UNKNOWN_LABEL,
        "effect_metric": findings.metric.value,
        "effect": effect.mean if effect else None,
        "effect_low": effect.low if effect else None,
        "effect_high": effect.high if effect else None,
        "p_adjusted": effect.p_adjusted if effect else None,
        "q": effect.q if effect else None,
        "effect_samples": effect.n if effect else None,
    }
