"""Single exports of a run's configurations, as text that another program reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.errors import RequestError, RunError
from neuroscan_farm.report.checkpoint import checkpoint_dtype, model_reference
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.findings import Findings, read_findings
from neuroscan_farm.report.mergekit import mergekit_yaml
from neuroscan_farm.report.metric_text import METRIC_TEXT, p_text
from neuroscan_farm.report.tables import table_csv, table_json
from neuroscan_farm.store.run_directory import Manifest, RunDirectory

ExportFormat: TypeAlias = Literal["mergekit", "exl3-layer-map", "csv", "json"]


def export(
    run: RunDirectory,
    *,
    format: str,
    path: LayerPath | None = None,
    top: int = 1,
    metric: Metric | None = None,
) -> str:
    """Return configurations in a form that another program reads.

    mergekit and exllamav3 get one configuration, which needs no measurements where `path` names it. The
    tables hold the configuration that `path` names, or all.

    Args:
        run: finished or not.
        format: one of `ExportFormat`.
        path: this configuration.
        top: the configuration of this rank, for mergekit and exllamav3 where `path` is None.
        metric: what to rank by; the request's own where None.

    Raises:
        RequestError: the format is unknown, the path leaves the model, or `top` is below 1.
        RunError: no configuration has that rank, or the path is not in the run (tables only).
    """
    _check(run.manifest, format, path, top)
    return export_of(read_findings(run, metric=metric), format=format, path=path, top=top)


def export_of(findings: Findings, *, format: str, path: LayerPath | None = None, top: int = 1) -> str:
    """Return the same of findings that were read before; see `export`."""
    _check(findings.manifest, format, path, top)
    if format in ("csv", "json"):
        only = None if path is None else [_in_the_run(findings, path)]
        return (
            table_csv(findings, only=only) if format == "csv" else json_text(table_json(findings, only=only))
        )
    path = path or configuration_of_rank(findings, top).path
    if format == "exl3-layer-map":
        path.require_whole("a layer map")
        return f"{path}\n"
    return merge_text(findings, path)


def path_of_rank(run: RunDirectory, rank: int, *, metric: Metric | None = None) -> LayerPath:
    """Return the path of the configuration of this rank; 1 is the best.

    Raises:
        RequestError: the probes cannot tell the metric.
        RunError: no configuration has that rank.
    """
    return configuration_of_rank(read_findings(run, metric=metric), rank).path


def merge_text(findings: Findings, path: LayerPath) -> str:
    """Return the mergekit file of `path`, with comments that say what is known of it in this run."""
    c = _find(findings, path)
    manifest, text = findings.manifest, METRIC_TEXT[findings.metric]
    model, revision = model_reference(manifest, findings.request)
    notes = [f"neuroscan-farm run {manifest.run_id}", f"configuration {c.label if c else path}, path {path}"]
    result = c.results[None] if c else None
    effect = result.effects.get(findings.metric) if result else None
    if result is not None and effect is not None:
        rank = f", rank {result.rank}" if result.rank is not None else ""
        notes.append(
            f"effect {text.change(effect.mean)} {text.unit} on {findings.metric.value} against the baseline "
            f"(95 % interval {text.interval(effect)}, {effect.n} paired samples{rank}; "
            f"probes: {', '.join(findings.probes)})"
        )
        notes.append("the interval is not corrected for the number of configurations tried")
        if effect.p_adjusted is not None:
            notes.append(f"over all configurations that are measured: adjusted p {p_text(effect.p_adjusted)}")
    else:
        notes.append(
            "no effect is known in this run: " + (result.unranked or "none" if result else "not in its plan")
        )
    dtype = checkpoint_dtype(Path(manifest.model_folder))
    if dtype is None:
        measured = findings.conditions["dtype"]
        dtype = measured[0] if len(measured) == 1 else "bfloat16"
        notes.append(
            f"the model folder does not say its dtype here; {dtype} is a guess, set the checkpoint's own"
        )
    return mergekit_yaml(
        path,
        model=model,
        revision=revision,
        dtype=dtype,
        model_type=manifest.model_type,
        notes=notes,
    )


def json_text(content: object) -> str:
    """Return `content` as the JSON that all report files have: indented, without NaN."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _find(findings: Findings, path: LayerPath) -> Configuration | None:
    baseline = [findings.baseline] if findings.baseline else []
    return next((c for c in [*findings.configurations, *baseline] if c.path == path), None)


def _in_the_run(findings: Findings, path: LayerPath) -> Configuration:
    found = _find(findings, path)
    if found is None:
        raise RunError(f"{findings.manifest.run_id}: path {path} is not in this run; name none to have all")
    return found


def _check(manifest: Manifest, format: str, path: LayerPath | None, top: int) -> None:
    if format not in get_args(ExportFormat):
        raise RequestError(f"format {format!r} is not known; there are: {', '.join(get_args(ExportFormat))}")
    if top < 1:
        raise RequestError(f"top is {top}; use 1 for the best configuration, 2 for the second, and so on")
    if path is not None:
        path.check_depth(manifest.depth)


def configuration_of_rank(findings: Findings, rank: int) -> Configuration:
    """Return the configuration of this rank over the probes; 1 is the best.

    Raises:
        RunError: none has it.
    """
    ranked = findings.ranked()
    if rank <= len(ranked):
        return ranked[rank - 1]
    reasons = (c.results[None].unranked for c in findings.configurations)
    why = next((reason for reason in reasons if reason), "there is none")
    raise RunError(
        f"{findings.manifest.run_id}: no configuration has rank {rank}; {len(ranked)} have a rank"
        + ("" if ranked else f" ({why})")
        + "; name one with --block or --path, or wait until more is measured"
    )
