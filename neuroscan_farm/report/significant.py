"""Figures in which only what stands out after correction for all that was tried has its full colour."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.bars import bars_of
from neuroscan_farm.report.chance import stands_out
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.heatmap import grid_of

FAINT = 0.14
FAINT_NAME = "adjusted p of 0.05 or more"
_FAINT_BAR = 0.42
_SAID = " · faint: adjusted p of 0.05 or more"


def faint_unless_significant(
    content: dict[str, Any], findings: Findings, *, probe: str | None
) -> dict[str, Any]:
    """Return a figure with everything faint whose adjusted p is 0.05 or more; hover and marks stay as they are.

    Maps of pairs and charts of ablations are drawn so in the first place, and come back as they are, as does every
    figure that shows no changes.

    Args:
        content: one of the figures of `figures.figures`, as `figure_json.figure_data` gives it.
        findings: that it was drawn from.
        probe: the view that it was drawn for.
    """
    kind, _, named = content["name"].partition("-")
    if kind not in {"heatmap", "bars"}:
        return content
    metric = Metric(named)
    if kind == "heatmap":
        traces = _faded_cells(content["data"], findings, probe, metric)
    else:
        shown, _ = bars_of(findings, probe=probe, metric=metric)
        opacity = [1.0 if stands_out(effect) else _FAINT_BAR for effect, _ in shown]
        traces = [
            {**trace, "marker": {**trace["marker"], "opacity": opacity}}
            if trace.get("name") == "change"
            else trace
            for trace in content["data"]
        ]
    return {**content, "data": traces, "subtitle": content["subtitle"] + _SAID}


def _faded_cells(
    traces: list[dict[str, Any]], findings: Findings, probe: str | None, metric: Metric
) -> list[dict[str, Any]]:
    """Split the cells of a heatmap into those that stand out, and a faint copy of the others below them."""
    place = next(k for k, trace in enumerate(traces) if trace.get("name") == "change")
    full = traces[place]
    changes = _array(full["z"])  # [i, j - 1]
    sure = np.zeros(changes.shape, dtype=bool)
    for c in grid_of(findings):
        if c.block is not None and stands_out(c.results[probe].effects.get(metric)):
            sure[c.block.i, c.block.j - 1] = True
    faint = {
        **full,
        "z": _rows(np.where(sure, np.nan, changes)),
        "name": FAINT_NAME,
        "opacity": FAINT,
        "showscale": bool(full.get("showscale")) and not sure.any(),
    }
    shown = {**full, "z": _rows(np.where(sure, changes, np.nan)), "showscale": bool(sure.any())}
    return [*traces[:place], faint, shown, *traces[place + 1 :]]


def _array(values: Any) -> npt.NDArray[np.float64]:
    """Numbers as Plotly writes them: lists with nulls, or bytes with their type and shape."""
    if isinstance(values, dict):
        shape = [int(size) for size in str(values["shape"]).split(",")]
        flat = np.frombuffer(base64.b64decode(values["bdata"]), dtype=np.dtype(values["dtype"]))
        return flat.reshape(shape).astype(np.float64)
    return np.array(
        [[np.nan if value is None else value for value in row] for row in values], dtype=np.float64
    )


def _rows(values: npt.NDArray[np.float64]) -> list[list[float | None]]:
    return [[value if np.isfinite(value) else None for value in row] for row in values.tolist()]
