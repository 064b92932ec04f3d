"""The table of configurations as CSV and as JSON: one record for each configuration and probe."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.configurations import SCORES, Configuration
from neuroscan_farm.report.findings import Findings

TABLE_VERSION = 2
MEAN_OVER_PROBES = "*"  # what the column `probe` says of the mean over several probes

COLUMNS = (
    "rank", "unranked", "task_id", "probe", "path", "i", "j", "times", "block_size", "n_layers_run", "stage",
    "baseline", "samples_ok", "samples_failed", "outcomes", "detail",
    "log_odds", "log_p_correct", "accuracy", "expected_score", "uncertainty", "coverage", "entropy",
    "effect_metric", "effect", "effect_low", "effect_high", "effect_standard_error", "effect_samples",
    "accuracy_effect", "accuracy_effect_low", "accuracy_effect_high",
    "p", "p_adjusted", "q", "no_interval", "accuracy_p_adjusted",
    "added_layers", "added_parameters", "added_kv_bytes_per_token", "relative_latency",
)  # fmt: skip


def records(findings: Findings, *, only: Sequence[Configuration] | None = None) -> list[dict[str, Any]]:
    """Return the records: the baseline first, then by stage, block and path; what is not there is None.

    Args:
        findings: of the run.
        only: these configurations in this order, and no baseline.
    """
    baseline = [findings.baseline] if findings.baseline else []
    chosen = [*baseline, *findings.configurations] if only is None else list(only)
    return [_record(c, view, findings) for c in chosen for view in findings.views]


def table_csv(findings: Findings, *, only: Sequence[Configuration] | None = None) -> str:
    """Return the records as CSV with a header; an absent value is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in records(findings, only=only):
        writer.writerow({**record, "baseline": str(record["baseline"]).lower()})
    return text.getvalue()


def table_json(findings: Findings, *, only: Sequence[Configuration] | None = None) -> dict[str, Any]:
    """Return the records with what they rest on; each record's path is also a list of its steps, under `layers`."""
    layers = {c.task_id: list(c.path) for c in findings.configurations}
    if findings.baseline:
        layers[findings.baseline.task_id] = list(findings.baseline.path)
    return {
        "schema_version": TABLE_VERSION,
        "run_id": findings.manifest.run_id,
        "model": findings.manifest.model,
        "total_layers": findings.manifest.depth,
        "probes": list(findings.probes),
        "ranked_by": findings.metric.value,
        "tasks_planned": findings.n_planned,
        "tasks_measured": findings.n_measured,
        "configurations": [
            {**record, "layers": layers[record["task_id"]]} for record in records(findings, only=only)
        ],
    }


def _record(c: Configuration, view: str | None, findings: Findings) -> dict[str, Any]:
    result = c.results[view]
    effect, accuracy = result.effects.get(findings.metric), result.effects.get(Metric.CORRECT)
    scores = {("accuracy" if name == "correct" else name): result.means[name] for name in SCORES}
    values = {
        "rank": result.rank,
        "unranked": result.unranked,
        "task_id": c.task_id,
        "probe": MEAN_OVER_PROBES if view is None else view,
        "path": str(c.path),
        "i": c.plain_block.i if c.plain_block else None,
        "j": c.plain_block.j if c.plain_block else None,
        "times": c.block.times if c.block else None,
        "block_size": c.block.j - c.block.i if c.block else None,
        "n_layers_run": c.n_layers_run,
        "stage": c.stage,
        "baseline": c is findings.baseline,
        "samples_ok": result.n_ok,
        "samples_failed": result.n_failed,
        "outcomes": result.outcome_text,
        "detail": result.detail,
        **scores,
        "effect_metric": findings.metric.value,
        "effect": effect.mean if effect else None,
        "effect_low": effect.low if effect else None,
        "effect_high": effect.high if effect else None,
        "effect_standard_error": effect.standard_error if effect else None,
        "effect_samples": effect.n if effect else None,
        "accuracy_effect": accuracy.mean if accuracy else None,
        "accuracy_effect_low": accuracy.low if accuracy else None,
        "accuracy_effect_high": accuracy.high if accuracy else None,
        "p": effect.p if effect else None,
        "p_adjusted": effect.p_adjusted if effect else None,
        "q": effect.q if effect else None,
        "no_interval": effect.no_interval if effect else None,
        "accuracy_p_adjusted": accuracy.p_adjusted if accuracy else None,
        "added_layers": c.cost.added_layers if c.cost else None,
        "added_parameters": c.cost.added_parameters if c.cost else None,
        "added_kv_bytes_per_token": c.cost.added_kv_bytes_per_token if c.cost else None,
        "relative_latency": c.cost.relative_latency if c.cost else None,
    }
    return {name: values[name] for name in COLUMNS}
