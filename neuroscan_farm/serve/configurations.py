"""The table of configurations, and everything that is known of one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from neuroscan_farm.domain.paths import LayerPath, parse_blocks
from neuroscan_farm.serve.result_models import (
    Block,
    ConfigurationDetail,
    ConfigurationRow,
    ConfigurationsPage,
    SampleEffect,
)
from neuroscan_farm.serve.results import Found
from neuroscan_farm.serve.runs import LiveRun
from neuroscan_farm.serve.security import Refused
from neuroscan_farm.serve.views import name_of, view_of
from neuroscan_farm.store.additions import read_whole

if TYPE_CHECKING:
    from neuroscan_farm.report.configurations import Configuration
    from neuroscan_farm.report.findings import Findings

_MORE = ("label", "block")  # that no order is made of
_SAMPLE_COLUMNS = ("task_id", "probe", "sample_id", "outcome", "detail", "correct", "top_token")


def configurations_page(
    found: Found,
    *,
    probe: str | None,
    sort: str,
    path: str | None,
    block: str | None,
    baseline: bool,
    limit: int,
    offset: int,
) -> ConfigurationsPage:
    """Return a page of the table, on one view.

    Raises:
        Refused: no such view, or no such column to sort by.
        RequestError: path or block cannot be read.
    """
    from neuroscan_farm.report.metric_text import METRIC_TEXT

    findings = found.findings
    view = view_of(findings, probe)
    rows = _rows(found, view)
    shown = [row for row in rows if baseline or not row["baseline"]]
    if path is not None:
        wanted = str(LayerPath.parse(path))
        shown = [row for row in shown if row["path"] == wanted]
    if block is not None:
        wanted = str(LayerPath.duplicating(parse_blocks(block), findings.manifest.depth))
        shown = [row for row in shown if row["path"] == wanted]
    shown = _sorted(shown, sort)
    text = METRIC_TEXT[findings.metric]
    return ConfigurationsPage(
        configurations=[ConfigurationRow(**row) for row in shown[offset : offset + limit]],
        total=len(shown),
        limit=limit,
        offset=offset,
        probe=name_of(view),
        metric=findings.metric.value,
        unit=text.unit,
        scale=text.scale,
        decimals=text.decimals,
        tasks_planned=findings.n_planned,
        tasks_measured=findings.n_measured,
        stamp=found.stamp,
    )


def configuration_detail(
    run: LiveRun, found: Found, task_id: str, *, probe: str | None
) -> ConfigurationDetail:
    """Return one configuration, with its effect on each sample of one probe, or of all.

    Raises:
        Refused: the run has no such task or probe.
    """
    from neuroscan_farm.report.cost import cost_text
    from neuroscan_farm.report.metric_text import METRIC_TEXT

    findings = found.findings
    chosen = next((c for c in _all(findings) if c.task_id == task_id), None)
    if chosen is None:
        raise Refused(
            404,
            f"configuration {task_id[:100]!r}: this run has none of this id",
            "the configurations of the run have their task_id",
        )
    view = None if probe is None else view_of(findings, probe)
    path, depth = chosen.path, findings.manifest.depth
    return ConfigurationDetail(
        task_id=chosen.task_id,
        label="baseline" if chosen is findings.baseline else chosen.label,
        path=str(path),
        steps=list(path.steps),
        layers=list(path.layers),
        runs=[list(run_of_layers) for run_of_layers in path.runs()],
        skipped=list(path.skipped(depth)),
        depth=depth,
        whole=path.whole,
        block=_block(chosen),
        views=[
            ConfigurationRow(**row)
            for view_ in findings.views
            for row in _rows(found, view_)
            if row["task_id"] == task_id
        ],
        metric=findings.metric.value,
        unit=METRIC_TEXT[findings.metric].unit,
        scale=METRIC_TEXT[findings.metric].scale,
        decimals=METRIC_TEXT[findings.metric].decimals,
        cost_text=cost_text(chosen.cost),
        samples=_samples(run, found, task_id, (view,) if view else findings.probes),
        stamp=found.stamp,
    )


def _all(findings: Findings) -> list[Configuration]:
    return [*([findings.baseline] if findings.baseline else []), *findings.configurations]


def _rows(found: Found, view: str | None) -> list[dict[str, Any]]:
    """The records of a view, the baseline first, each with its label and block."""
    from neuroscan_farm.report.tables import records

    def make() -> dict[str, list[dict[str, Any]]]:
        findings = found.findings
        by_view: dict[str, list[dict[str, Any]]] = {}
        told = {c.task_id: (c.label, _block(c)) for c in _all(findings)}
        for record in records(findings):
            label, block = told[record["task_id"]]
            named = "baseline" if record["baseline"] else label
            by_view.setdefault(record["probe"], []).append({**record, "label": named, "block": block})
        return by_view

    return found.keep("records", make).get(name_of(view), [])


def _block(c: Configuration) -> Block | None:
    return None if c.block is None else Block(i=c.block.i, j=c.block.j, times=c.block.times)


def _sorted(rows: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    column, descending = sort.removeprefix("-"), sort.startswith("-")
    known = [name for name in ConfigurationRow.model_fields if name not in _MORE]
    if column not in known:
        raise Refused(
            422,
            f"sort {sort[:40]!r} is no column",
            f"use one of: {', '.join(known)}",
            {"sort": "is no column"},
        )
    present = [row for row in rows if row[column] is not None]
    absent = [row for row in rows if row[column] is None]
    return sorted(present, key=lambda row: row[column], reverse=descending) + absent


def _samples(run: LiveRun, found: Found, task_id: str, probes: tuple[str, ...]) -> list[SampleEffect]:
    """The samples of the probes in their order, with what was measured here and on the untouched model."""
    findings = found.findings
    metric = findings.metric.value
    baseline_id = findings.baseline.task_id if findings.baseline else None
    columns = list(dict.fromkeys((*_SAMPLE_COLUMNS, metric)))
    table = found.keep("rows", lambda: read_whole(run.directory, columns).rows)
    wanted = {task_id, baseline_id} - {None}
    table = table.filter(pc.is_in(table["task_id"], value_set=_strings(wanted)))
    here: dict[tuple[str, str, str], dict[str, Any]] = {
        (row["task_id"], row["probe"], row["sample_id"]): row for row in table.to_pylist()
    }
    told = []
    for directory in run.whole():
        for asked in directory.probes():
            if asked.name not in probes:
                continue
            for sample in asked.samples:
                mine = here.get((task_id, asked.name, sample.sample_id), {})
                base = here.get((baseline_id or "", asked.name, sample.sample_id), {})
                value, before = _number(mine.get(metric)), _number(base.get(metric))
                told.append(
                    SampleEffect(
                        probe=asked.name,
                        sample_id=sample.sample_id,
                        prompt=asked.text_of(sample),
                        answer=sample.answer,
                        outcome=mine.get("outcome"),
                        detail=mine.get("detail"),
                        value=value,
                        baseline=before,
                        effect=None if value is None or before is None else value - before,
                        correct=mine.get("correct"),
                        baseline_correct=base.get("correct"),
                        top_token=mine.get("top_token"),
                    )
                )
    return told


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _strings(values: set[Any]) -> Any:
    import pyarrow as pa

    return pa.array(sorted(values), pa.string())
