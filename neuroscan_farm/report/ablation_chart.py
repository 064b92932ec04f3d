"""The chart of ablations: how much is lost without each layer, or without its attention or feed-forward part."""

from __future__ import annotations

import plotly.graph_objects as go

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.ablation import singles_of
from neuroscan_farm.report.chance import stands_out
from neuroscan_farm.report.figure_style import (
    GAIN,
    GREY,
    GRID,
    LOSS,
    SERIES,
    layer_ticks,
    layout_of,
    legend_below,
)
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.hover import hover_row, hover_template
from neuroscan_farm.report.left_out import COMPONENTS
from neuroscan_farm.report.metric_text import METRIC_TEXT

_FAINT = 0.45
_HEIGHT = 430
_NAMES = {"layer": "whole layer", "attention": "its attention", "mlp": "its feed-forward part"}
_COLOURS = dict(zip(COMPONENTS, SERIES, strict=False))


def ablation_chart(findings: Findings, *, probe: str | None, metric: Metric | None = None) -> go.Figure:
    """Draw each layer's loss (the baseline less the model without it) with its 95 % interval, by layer.

    Bars are faint unless the adjusted p is below 0.05. Several components stand side by side.

    Args:
        findings: of a run with ablations.
        probe: which; None for the mean over the probes.
        metric: whose loss is drawn; None for the ranking metric. It must be that one or `correct`.
    """
    shown = metric or findings.metric
    text, depth = METRIC_TEXT[shown], findings.manifest.depth
    singles = singles_of(findings)
    components = [name for name in COMPONENTS if any(gone.component == name for gone in singles)]
    figure = go.Figure()
    waiting = 0
    for component in components:
        mine = [
            (gone.layer, c, c.results[probe].effects.get(shown))
            for gone, c in singles.items()
            if gone.component == component
        ]
        waiting += sum(effect is None for _, _, effect in mine)
        drawn = [(layer, c, effect) for layer, c, effect in mine if effect is not None]
        if not drawn:
            continue
        losses = [-effect.mean * text.scale for _, _, effect in drawn]
        one_kind = len(components) == 1
        figure.add_bar(
            x=[layer for layer, _, _ in drawn],
            y=losses,
            name=_NAMES[component],
            marker={
                "color": [LOSS if loss >= 0 else GAIN for loss in losses]
                if one_kind
                else _COLOURS[component],
                "opacity": [1.0 if stands_out(effect) else _FAINT for _, _, effect in drawn],
            },
            error_y={
                "type": "data",
                "symmetric": False,
                "color": GREY,
                "thickness": 1.2,
                "width": 2 if depth * len(components) <= 60 else 0,
                "array": [
                    None if effect.low is None else (effect.mean - effect.low) * text.scale
                    for _, _, effect in drawn
                ],
                "arrayminus": [
                    None if effect.high is None else (effect.high - effect.mean) * text.scale
                    for _, _, effect in drawn
                ],
            },
            customdata=[
                [f"without {'' if component == 'layer' else _NAMES[component] + ', '}layer {layer}", *row[1:]]
                for layer, c, _ in drawn
                for row in [hover_row(c, probe=probe, metric=findings.metric)]
            ],
            hovertemplate=hover_template(findings.metric),
        )
    layout = layout_of(findings, probe, shown, title=ablation_title(shown))
    said = "faint: adjusted p of 0.05 or more"
    if waiting:
        said += f"; {waiting} not measured or failed"
    layout["title"]["subtitle"]["text"] += f" · {said}"
    figure.update_layout(layout, height=_HEIGHT, barmode="group", bargap=0.2)
    figure.update_layout(showlegend=len(components) > 1, legend=legend_below(_HEIGHT))
    figure.update_xaxes(
        title="layer left out",
        range=[-0.6, depth - 0.4],
        tickvals=layer_ticks(depth),
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(title=f"loss ({text.unit})", zeroline=True, zerolinecolor=GREY, gridcolor=GRID)
    return figure


def ablation_title(metric: Metric) -> str:
    """The chart's title."""
    return f"Loss of {METRIC_TEXT[metric].name.removeprefix('the ')} without each layer"
