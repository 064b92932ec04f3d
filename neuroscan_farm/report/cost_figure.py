"""The picture of cost beside benefit: each configuration's change over the layers that it adds, and the front of both."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.cost import cost_front, cost_text, priced
from neuroscan_farm.report.figure_style import (
    FRONT,
    GREY,
    GRID,
    SERIES,
    gains_in_view,
    layout_of,
    legend_below,
)
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT

_HOVER = "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>"
_HEIGHT = 480


def cost_title(metric: Metric) -> str:
    """The figure's title."""
    return f"{METRIC_TEXT[metric].delta} and what it costs"


def cost_figure(findings: Findings, *, probe: str | None) -> go.Figure:
    """Draw the ranked configurations' changes over their added layers, and the front through the untouched model.

    Where most lose far more than the best gains, the picture begins at what gains; the rest is a zoom-out away.
    """
    text, depth = METRIC_TEXT[findings.metric], findings.manifest.depth
    found = priced(findings, probe=probe)
    figure = go.Figure()
    figure.add_scatter(
        x=[c.n_layers_run - depth for c, _ in found],
        y=[round(mean * text.scale, 6) for _, mean in found],
        mode="markers",
        marker={"size": 6, "color": SERIES[0], "opacity": 0.45 if len(found) > 200 else 0.7},
        customdata=[_row(c, mean, findings) for c, mean in found],
        hovertemplate=_HOVER,
        name="configuration",
    )
    figure.add_scatter(
        x=[0],
        y=[0],
        mode="markers",
        marker={"size": 11, "symbol": "square", "color": GREY},
        name="untouched model",
        hovertemplate="the untouched model<extra></extra>",
    )
    front = cost_front(findings, probe=probe)
    means = {c.task_id: mean for c, mean in found}
    points: list[tuple[int, float, Configuration | None]] = [
        (c.n_layers_run - depth, means[c.task_id] * text.scale, c) for c in front
    ]
    # The untouched model is on the front itself unless something that costs no more is better.
    if not any(added <= 0 and mean >= 0 for added, mean, _ in points):
        points = sorted([*points, (0, 0.0, None)], key=lambda point: (point[0], point[1]))
    figure.add_scatter(
        x=[added for added, _, _ in points],
        y=[round(mean, 6) for _, mean, _ in points],
        mode="lines+markers",
        line={"shape": "hv", "width": 2, "color": FRONT},
        marker={"size": 10, "symbol": "star", "color": FRONT, "line": {"width": 1, "color": "#14171c"}},
        customdata=[
            _row(c, means[c.task_id], findings) if c else ["the untouched model", "", ""]
            for _, _, c in points
        ],
        hovertemplate=_HOVER,
        name="front: nothing is both better and cheaper",
    )
    layout = layout_of(findings, probe, findings.metric, title=cost_title(findings.metric))
    values = [mean * text.scale for _, mean in found]
    span = gains_in_view(values, shown=[mean for _, mean, _ in points])
    hidden = sum(value < span[0] for value in values) if span else 0
    if hidden:
        layout["title"]["subtitle"]["text"] += f" · {hidden} of {len(values)} lie below the picture"
    figure.update_layout(layout, height=_HEIGHT, legend=legend_below(_HEIGHT))
    added = [c.n_layers_run - depth for c, _ in found]
    few = max([*added, 0]) - min([*added, 0]) <= 20
    figure.update_xaxes(
        title="layers added", zeroline=True, zerolinecolor=GREY, gridcolor=GRID, dtick=1 if few else None
    )
    figure.update_yaxes(title=text.label, range=span, zeroline=True, zerolinecolor=GREY, gridcolor=GRID)
    return figure


def _row(c: Configuration, mean: float, findings: Findings) -> list[str]:
    text = METRIC_TEXT[findings.metric]
    label = c.label if len(c.label) <= 40 else f"{c.label[:39]}…"
    return [escape(label, quote=False), f"{text.change(mean)} {text.unit}", cost_text(c.cost)]
