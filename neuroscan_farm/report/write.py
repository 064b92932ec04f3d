"""Writes a run's report. The only part of `report/` that writes files or reads a clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeAlias

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.errors import RequestError
from neuroscan_farm.report.export import export, json_text, merge_text
from neuroscan_farm.report.failures import failure_groups
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.results_json import results_files
from neuroscan_farm.report.summary import summary_dict, summary_text
from neuroscan_farm.report.tables import table_csv
from neuroscan_farm.store.run_directory import RunDirectory

__all__ = ["ReportFiles", "export", "write_report"]

_MERGE_FILES = 3
Address: TypeAlias = Path | str  # the path of a file, or its URL


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """What a report wrote, and its summary."""

    folder: Address
    page: Address  # index.html
    summary_text: Address
    summary_json: Address
    results: tuple[Address, ...]  # results.json first
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
    failures = failure_groups(findings, run.attempts.all())
    best = findings.ranked()[: min(_MERGE_FILES, top_k)]
    merges = [merge_text(findings, c.path) for c in best]
    summary = summary_text(findings, failures=failures, top_k=top_k)
    html = page_html(findings, failures=failures, merges=merges, written=_now(), top_k=top_k)
    place = run.place.below("report")
    files: dict[str, str] = {
        **{name: json_text(content) for name, content in results_files(findings, top_k=top_k).items()},
        **{f"best-{rank}.mergekit.yaml": text for rank, text in enumerate(merges, start=1)},
        "configurations.csv": table_csv(findings),
        "summary.json": json_text(summary_dict(findings, failures=failures, top_k=top_k)),
        "summary.txt": summary,
        "index.html": html,
    }
    for name, text in files.items():
        place.write(name, text.encode())
    for entry in place.entries():
        if fnmatch(entry.name, "best-*.mergekit.yaml") and entry.name not in files:
            place.remove(entry.name)
    address = {name: place.where(name) if place.root is None else place.root / name for name in files}
    return ReportFiles(
        folder=place.location if place.root is None else place.root,
        page=address["index.html"],
        summary_text=address["summary.txt"],
        summary_json=address["summary.json"],
        results=tuple(address[name] for name in files if name.startswith("results")),
        table=address["configurations.csv"],
        mergekit=tuple(address[name] for name in files if name.endswith(".mergekit.yaml")),
        summary=summary,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
