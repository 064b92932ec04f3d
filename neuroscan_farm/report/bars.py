"""Bars for configurations that are no grid of blocks: several blocks, repeats, explicit orders."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.figure_style import GAIN, GREY, GRID, LOSS, layout_of
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.hover import hover_row, hover_template
from neuroscan_farm.report.metric_text import METRIC_TEXT
from neuroscan_farm.statistics.effects import Effect

MOST_BARS = 60
_LONGEST_LABEL = 34


def bars(findings: Findings, *, probe: str | None, metric: Metric | None = None) -> go.Figure:
    """Draw the changes of configurations that are no grid, best first, with their 95 % intervals.

    Of more than 60 configurations the best 40 and the worst 20 are drawn, and the title says so.
    """
    shown = metric or findings.metric
    text = METRIC_TEXT[shown]
    measured, left_out = bars_of(findings, probe=probe, metric=shown)
    means = [effect.mean * text.scale for effect, _ in measured]
    figure = go.Figure()
    figure.add_bar(
        orientation="h",
        x=means,
        y=list(range(len(measured))),
        name="change",
        marker={"color": [GAIN if mean >= 0 else LOSS for mean in means]},
        error_x={
            "type": "data",
            "symmetric": False,
            "color": GREY,
            "thickness": 1.2,
            "width": 3,
            "array": [None if e.high is None else (e.high - e.mean) * text.scale for e, _ in measured],
            "arrayminus": [None if e.low is None else (e.mean - e.low) * text.scale for e, _ in measured],
        },
        customdata=[hover_row(c, probe=probe, metric=findings.metric) for _, c in measured],
        hovertemplate=hover_template(findings.metric),
    )
    layout = layout_of(findings, probe, shown)
    if left_out:
        layout["title"]["subtitle"]["text"] += f" · the best 40 and the worst 20 of {left_out + MOST_BARS}"
    figure.update_layout(layout, height=190 + 22 * max(4, len(measured)), bargap=0.25, showlegend=False)
    figure.update_xaxes(title=text.label, zeroline=True, zerolinecolor=GREY, gridcolor=GRID)
    labels = [escape(_shortened(c.label)) for _, c in measured]
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=labels,
        range=[len(labels) - 0.5, -0.5],
        automargin=True,
        showgrid=False,
        zeroline=False,
    )
    return figure


def bars_of(
    findings: Findings, *, probe: str | None, metric: Metric
) -> tuple[list[tuple[Effect, Configuration]], int]:
    """Return what is drawn, best first, and how many have no room."""
    measured = [
        (effect, c)
        for c in findings.configurations
        if (effect := c.results[probe].effects.get(metric)) is not None
    ]
    measured.sort(key=lambda pair: (-pair[0].mean, pair[1].path.steps))
    left_out = max(0, len(measured) - MOST_BARS)
    if left_out:
        measured = measured[: MOST_BARS * 2 // 3] + measured[-(MOST_BARS // 3) :]
    return measured, left_out


def _shortened(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"
