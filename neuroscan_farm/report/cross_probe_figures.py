"""Pictures of ablations over several probes: the layers' profiles, and how alike they are."""

from __future__ import annotations

from html import escape

import numpy as np
import plotly.graph_objects as go

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.ablation import singles_of
from neuroscan_farm.report.chance import stands_out
from neuroscan_farm.report.cross_probe import CrossProbe
from neuroscan_farm.report.figure_style import (
    SCALE,
    colour_bar,
    layer_ticks,
    layout_of,
    legend_below,
    limit_of,
)
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT, p_text


def profiles_title(metric: Metric) -> str:
    """The profiles' title."""
    return f"Loss of {METRIC_TEXT[metric].name} without each layer, by probe"


def profiles_figure(findings: Findings, seen: CrossProbe) -> go.Figure:
    """Draw how much each probe loses without each layer; red is lost, green gained.

    A dot marks an adjusted p below 0.05; a star over the map, a layer whose loss has one on every probe.
    """
    text, depth, probes = METRIC_TEXT[findings.metric], findings.manifest.depth, list(seen.probes)
    losses = np.array([seen.profiles[probe] for probe in probes], dtype=np.float64) * text.scale
    limit, clipped = limit_of(losses)
    figure = go.Figure()
    names = [escape(probe, quote=False) for probe in probes]
    rows = [_hover_row(findings, seen, probe) for probe in probes]
    figure.add_heatmap(
        x=list(range(depth)),
        y=names,
        z=losses,
        zmin=-limit,
        zmid=0,
        zmax=limit,
        colorscale=SCALE,
        reversescale=True,
        customdata=rows,
        hoverongaps=False,
        xgap=1,
        ygap=2,
        hovertemplate="<b>%{y}</b> without layer %{x}<br>%{customdata}<extra></extra>",
        colorbar=colour_bar(text.unit, limit, text.decimals, below=clipped, above=clipped) | {"len": 1.1},
        name="loss",
    )
    singles = {gone.layer: c for gone, c in singles_of(findings).items() if gone.component == "layer"}
    sure = [
        (layer, names[k])
        for k, probe in enumerate(probes)
        for layer, c in singles.items()
        if stands_out(c.results[probe].effects.get(findings.metric))
    ]
    if sure:
        figure.add_scatter(
            x=[layer for layer, _ in sure],
            y=[name for _, name in sure],
            mode="markers",
            marker={"size": 5, "color": "#ffffff", "line": {"width": 1, "color": "#14171c"}},
            name="adjusted p below 0.05",
            hoverinfo="skip",
        )
    if seen.needed_by_all:
        figure.add_scatter(
            x=list(seen.needed_by_all),
            y=[0] * len(seen.needed_by_all),
            yaxis="y2",
            mode="markers",
            marker={
                "size": 12,
                "symbol": "star",
                "color": "#ffd23f",
                "line": {"width": 1, "color": "#14171c"},
            },
            name="universal: the loss stands out on every probe",
            hovertemplate="layer %{x} is universal<extra></extra>",
        )
    layout = layout_of(
        findings,
        probes[0],
        findings.metric,
        title=profiles_title(findings.metric),
        view=f"{len(probes)} probes",
    )
    layout["title"]["subtitle"]["text"] = "a layer is universal where its loss stands out on every probe"
    height = 260 + 30 * len(probes)
    figure.update_layout(layout, height=height, legend=legend_below(height))
    figure.update_xaxes(
        title="layer left out",
        tickvals=layer_ticks(depth),
        range=[-0.5, depth - 0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(
        yaxis={
            "autorange": "reversed",
            "automargin": True,
            "domain": [0, 0.88],
            "showgrid": False,
            "zeroline": False,
        },
        yaxis2={"domain": [0.9, 1], "visible": False, "range": [-1, 1], "fixedrange": True},
    )
    return figure


def correlation_figure(findings: Findings, seen: CrossProbe) -> go.Figure:
    """Draw Spearman's correlation of the profiles of each two probes; Pearson's stands in the hover."""
    names = [escape(probe, quote=False) for probe in seen.probes]
    values = np.array(seen.rank_correlation, dtype=np.float64)
    shown = [["–" if value is None else f"{value:.2f}" for value in row] for row in seen.rank_correlation]
    pearson = [["–" if value is None else f"{value:.2f}" for value in row] for row in seen.correlation]
    figure = go.Figure()
    figure.add_heatmap(
        x=names,
        y=names,
        z=values,
        zmin=-1,
        zmid=0,
        zmax=1,
        colorscale=[[0, "#1f5fa8"], [0.5, "#eae6da"], [1, "#b86508"]],
        text=shown,
        texttemplate="%{text}",
        textfont={"color": "#14171c"} if len(names) <= 14 else {"size": 1},
        xgap=1,
        ygap=1,
        hoverongaps=False,
        customdata=pearson,
        hovertemplate="%{y} and %{x}<br>of ranks %{text}, of losses %{customdata}<extra></extra>",
        colorbar={"thickness": 16, "outlinewidth": 0},
        name="correlation",
    )
    layout = layout_of(
        findings, seen.probes[0], findings.metric, title=CORRELATION_TITLE, view=f"{len(names)} probes"
    )
    layout["title"]["subtitle"]["text"] = f"Spearman's rank correlation, over {seen.layers} layers"
    figure.update_layout(layout, height=480, showlegend=False)
    figure.update_xaxes(showgrid=False, zeroline=False, automargin=True, constrain="domain")
    figure.update_yaxes(
        autorange="reversed",
        showgrid=False,
        zeroline=False,
        automargin=True,
        scaleanchor="x",
        constrain="domain",
        constraintoward="top",
    )
    return figure


CORRELATION_TITLE = "How alike the probes' layer profiles are"


def _hover_row(findings: Findings, seen: CrossProbe, probe: str) -> list[str | None]:
    text = METRIC_TEXT[findings.metric]
    row: list[str | None] = []
    singles = {gone.layer: c for gone, c in singles_of(findings).items() if gone.component == "layer"}
    for layer, loss in enumerate(seen.profiles[probe]):
        if loss is None:
            row.append(None)
            continue
        effect = singles[layer].results[probe].effects[findings.metric]
        said = f"change {text.change(effect.mean)} {text.unit} (95 %: {text.interval(effect)})"
        if effect.p_adjusted is not None:
            said += f"<br>adjusted p {p_text(effect.p_adjusted)}"
        row.append(said)
    return row
