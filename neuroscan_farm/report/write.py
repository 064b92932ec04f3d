"""Writes a run's report. The only part of `report/` that writes files or reads a clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeAlias

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.errors import RequestError
from neuroscan_farm.report.ablation import ablation_files
from neuroscan_farm.report.circuits import Circuit, circuit_files, circuit_of, circuit_text
from neuroscan_farm.report.controls import controls_dict, controls_text
from neuroscan_farm.report.cross_probe import cross_probe, cross_probe_json, cross_text
from neuroscan_farm.report.export import export, json_text, merge_text
from neuroscan_farm.report.failures import failure_groups
from neuroscan_farm.report.findings import Findings, read_findings
from neuroscan_farm.report.multi_probe import multi_probe, multi_probe_json, multi_probe_text
from neuroscan_farm.report.results_json import results_files
from neuroscan_farm.report.summary import summary_dict, summary_text
from neuroscan_farm.report.tables import table_csv
from neuroscan_farm.store.additions import with_additions
from neuroscan_farm.store.run_directory import RunDirectory

__all__ = ["ReportFiles", "export", "write_report"]

_MERGE_FILES = 3
_OURS = (
    "best-*.mergekit.yaml", "results*.json", "report*.json", "ablation*.csv", "circuit*.json", "interactions.csv",
    "*_probe.json",
)  # fmt: skip
Address: TypeAlias = Path | str  # the path of a file, or its URL


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """What a report wrote, and its summary."""

    folder: Address
    page: Address  # index.html
    summary_text: Address
    summary_json: Address
    results: tuple[Address, ...]  # results.json first
    other: tuple[Address, ...]  # of ablations, pairs of layers, and several probes, where the run has them
    table: Address
    mergekit: tuple[Address, ...]  # of the best configurations, best first
    summary: str  # the text of `summary_text`


def write_report(run: RunDirectory, *, metric: Metric | None = None, top_k: int = 10) -> ReportFiles:
    """Write the report of what is measured so far into `report/`, each file whole or not at all.

    Args:
        run: finished or not.
        metric: what to rank by; the request's own where None.
        top_k: how many of the best configurations are listed.

    Raises:
        RequestError: `top_k` is below 1, or a probe cannot tell the metric.
        RunError: the request or the plan is damaged.
        StorageError: the disk refused.
    """
    if top_k < 1:
        raise RequestError(f"top_k is {top_k}; use 1 or more")
    # Here, because drawing takes Plotly and the page Jinja, and an export needs neither.
    from neuroscan_farm.report.page import page_html

    findings = read_findings(run, metric=metric)
    attempts = [attempt for one in with_additions(run) for attempt in one.attempts.all()]
    failures = failure_groups(findings, attempts)
    best = findings.ranked()[: min(_MERGE_FILES, top_k)]
    # Half a layer cannot be merged.
    merges = [(c, merge_text(findings, c.path)) for c in best if c.path.whole]
    circuit = circuit_of(findings)
    remarks = _remarks(findings, circuit)
    summary = summary_text(findings, failures=failures, top_k=top_k, remarks=remarks)
    html = page_html(findings, failures=failures, merges=merges, written=_now(), top_k=top_k, circuit=circuit)
    place = run.place.below("report")
    contents: dict[str, Any] = {
        **results_files(findings, top_k=top_k),
        **ablation_files(findings),
        **circuit_files(findings, circuit),
        "multi_probe.json": multi_probe_json(findings),
        "cross_probe.json": cross_probe_json(findings),
    }
    files: dict[str, str] = {
        **{
            name: content if isinstance(content, str) else json_text(content)
            for name, content in contents.items()
            if content is not None
        },
        **{f"best-{c.results[None].rank}.mergekit.yaml": text for c, text in merges},
        "configurations.csv": table_csv(findings),
        "summary.json": json_text(
            summary_dict(findings, failures=failures, top_k=top_k)
            | {"matched_compute": controls_dict(findings), "remarks": remarks}
        ),
        "summary.txt": summary,
        "index.html": html,
    }
    for name, text in files.items():
        place.write(name, text.encode())
    for entry in place.entries():  # of an earlier report, with more of the best or before a metric changed
        if entry.name not in files and any(fnmatch(entry.name, ours) for ours in _OURS):
            place.remove(entry.name)
    address = {name: place.where(name) if place.root is None else place.root / name for name in files}
    return ReportFiles(
        folder=place.location if place.root is None else place.root,
        page=address["index.html"],
        summary_text=address["summary.txt"],
        summary_json=address["summary.json"],
        results=tuple(address[name] for name in files if name.startswith("results")),
        other=tuple(address[name] for name in contents if name in files and not name.startswith("results")),
        table=address["configurations.csv"],
        mergekit=tuple(address[name] for name in files if name.endswith(".mergekit.yaml")),
        summary=summary,
    )


def _remarks(findings: Findings, circuit: Circuit | None) -> list[str]:
    """What blocks, pairs of layers and several probes have to say, each in a paragraph."""
    several, cross = multi_probe(findings), cross_probe(findings)
    said = [
        controls_text(findings),
        circuit_text(circuit, findings, view=findings.views[0]) if circuit else None,
        cross_text(cross, findings) if cross else None,
        multi_probe_text(several, findings) if several else None,
    ]
    return [text for text in said if text]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
