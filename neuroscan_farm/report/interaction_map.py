"""The interaction map: for each two layers, what leaving out both loses beyond the sum of the two."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.chance import stands_out
from neuroscan_farm.report.circuits import Circuit
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.figure_style import (
    GREY,
    PAIR_SCALE,
    PALE_PAIR_SCALE,
    colour_bar,
    layer_ticks,
    layout_of,
    limit_of,
)
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT, p_text
from neuroscan_farm.statistics.interactions import Interaction

_WAITING, _FAILED = "#d5d8de", GREY
_PALE = PALE_PAIR_SCALE[-1][1]
_NOT_DECIDED = "pale: not decided, the interval holds zero"
_DECIDED = {
    "synergistic": "synergistic: more is lost together",
    "redundant": "redundant: less is lost together",
}
_HOVER = (
    "<b>layers %{customdata[0]}</b>  %{customdata[1]}<br>"
    "interaction %{customdata[2]}<br>"
    "adjusted p %{customdata[3]} · q %{customdata[4]} · n = %{customdata[5]}<br>"
    "loss together %{customdata[6]}; alone %{customdata[7]} and %{customdata[8]}<extra></extra>"
)


def interaction_title(metric: Metric) -> str:
    """The map's title."""
    return f"Interaction of two layers in {METRIC_TEXT[metric].name}"


def interaction_map(findings: Findings, circuit: Circuit, *, probe: str | None) -> go.Figure:
    """Draw the interactions as a symmetric map of layers by layers; pairs that were not asked for are blank.

    Pairs whose 95 % interval lies on one side of zero have the colour bar's colours, the others a tint however large
    they are; a dot marks an adjusted p below 0.05. The colours end where 99 of 100 interactions are within.

    Args:
        findings: of the run.
        circuit: its pairs.
        probe: which view; None for the mean over the probes.
    """
    depth, text = findings.manifest.depth, METRIC_TEXT[circuit.metric]
    view = probe if probe in circuit.interactions else findings.views[0]
    decided = np.full((depth, depth), np.nan, dtype=np.float64)
    others = decided.copy()
    rows: list[list[list[str] | None]] = [[None] * depth for _ in range(depth)]
    states = np.full((depth, depth), np.nan, dtype=np.float32)
    reasons: list[list[str | None]] = [[None] * depth for _ in range(depth)]
    sure: list[tuple[int, int]] = []
    for (a, b), c in circuit.pairs.items():
        one = circuit.interactions[view].get((a, b))
        both = ((a, b), (b, a))
        if one is None:
            said = _absence(c, a, b, probe)
            for y, x in both:
                states[y, x] = 1 if c.results[probe].n_failed else 0
                reasons[y][x] = said
            continue
        row = _row(one, circuit.metric)
        for y, x in both:
            (decided if one.kind in _DECIDED else others)[y, x] = one.mean * text.scale
            rows[y][x] = row
        if one.kind in _DECIDED and stands_out(one):
            sure += both
    layers = list(range(depth))
    gap = 1 if depth <= 40 else 0
    figure = go.Figure()
    figure.add_heatmap(
        x=layers,
        y=layers,
        z=states,
        zmin=0,
        zmax=1,
        customdata=reasons,
        name="without an interaction",
        colorscale=[[0, _WAITING], [0.5, _WAITING], [0.51, _FAILED], [1, _FAILED]],
        showscale=False,
        hoverongaps=False,
        xgap=gap,
        ygap=gap,
        hovertemplate="%{customdata}<extra></extra>",
    )
    everything = np.where(np.isfinite(decided), decided, others)
    limit, clipped = limit_of(everything, share=0.99)
    bar = colour_bar(text.unit, limit, text.decimals, below=clipped, above=clipped)
    # The bar is of what is decided; of the pale ones only where there is nothing else.
    some = bool(np.isfinite(decided).any())
    for name, values, scale, barred in (
        ("independent or undecided", others, PALE_PAIR_SCALE, not some and bool(np.isfinite(others).any())),
        ("decided", decided, PAIR_SCALE, some),
    ):
        figure.add_heatmap(
            x=layers,
            y=layers,
            z=values,
            zmin=-limit,
            zmid=0,
            zmax=limit,
            customdata=[
                [row if np.isfinite(value) else None for row, value in zip(line, drawn, strict=True)]
                for line, drawn in zip(rows, values, strict=True)
            ],
            name=name,
            colorscale=scale,
            hoverongaps=False,
            xgap=gap,
            ygap=gap,
            hovertemplate=_HOVER,
            showscale=barred,
            **({"colorbar": bar} if barred else {}),
        )
    for sign, (kind, name) in zip((0.6, -0.6), _DECIDED.items(), strict=True):
        if any(one.kind == kind for one in circuit.interactions[view].values()):
            square = {
                "symbol": "square",
                "size": 11,
                "color": [sign],
                "cmin": -1,
                "cmax": 1,
                "colorscale": PAIR_SCALE,
            }
            figure.add_scatter(x=[None], y=[None], mode="markers", marker=square, name=name, hoverinfo="skip")
    if np.isfinite(others).any():
        pale = {"symbol": "square", "size": 11, "color": _PALE, "line": {"width": 1, "color": GREY}}
        figure.add_scatter(
            x=[None], y=[None], mode="markers", marker=pale, name=_NOT_DECIDED, hoverinfo="skip"
        )
    if sure:
        figure.add_scatter(
            x=[x for _, x in sure],
            y=[y for y, _ in sure],
            mode="markers",
            marker=_dot(depth),
            name="adjusted p below 0.05",
            hoverinfo="skip",
        )
    for state, colour, name in ((0, _WAITING, "not measured yet"), (1, _FAILED, "failed")):
        if (states == state).any():
            square = {"symbol": "square", "size": 11, "color": colour}
            figure.add_scatter(x=[None], y=[None], mode="markers", marker=square, name=name, hoverinfo="skip")
    layout = layout_of(findings, probe, circuit.metric, title=interaction_title(circuit.metric))
    layout["title"]["subtitle"]["text"] = escape(_subtitle(circuit, view), quote=False)
    figure.update_layout(layout, height=680, legend=layout["legend"] | {"y": -0.16})
    axis: dict[str, Any] = {
        "title": "layer",
        "tickvals": layer_ticks(depth),
        "constrain": "domain",
        "showgrid": False,
        "zeroline": False,
    }
    figure.update_xaxes(**axis, range=[-0.5, depth - 0.5])
    figure.update_yaxes(**axis, range=[depth - 0.5, -0.5], scaleanchor="x", constraintoward="top")
    return figure


def _subtitle(circuit: Circuit, view: str | None) -> str:
    measured = len(circuit.interactions[view])
    return f"{measured} pairs; pale: the 95 % interval holds zero, or there is none; blank: not measured"


def _row(one: Interaction, metric: Metric) -> list[str]:
    text = METRIC_TEXT[metric]
    interval = (
        f"(95 %: {text.interval(one)}) {text.unit}"
        if one.low is not None
        else f"{text.unit} ({one.reason or 'no interval'})"
    )
    return [
        f"{one.layer_a} and {one.layer_b}",
        one.kind,
        f"{text.change(one.mean)} {interval}",
        p_text(one.p_adjusted),
        p_text(one.q),
        str(one.n),
        text.change(one.joint_loss),
        text.change(one.loss_a),
        text.change(one.loss_b),
    ]


def _absence(c: Configuration, a: int, b: int, probe: str | None) -> str:
    result = c.results[probe]
    if not result.outcomes:
        reason = "not measured yet"
    elif result.n_failed:
        reason = f"{result.n_failed} samples failed: {result.detail or result.outcome_text}"
    else:
        reason = "one of the two layers alone, or the baseline, is not measured or lacks samples"
    return f"<b>layers {a} and {b}</b><br>{escape(reason[:160], quote=False)}"


def _dot(depth: int) -> dict[str, Any]:
    size = 8 if depth <= 24 else 6 if depth <= 48 else 5
    return {"size": size, "color": "#14171c", "line": {"width": 1.2, "color": "#ffffff"}}
