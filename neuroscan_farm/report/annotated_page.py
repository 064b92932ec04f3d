"""The heatmap, or the chart of ablations, with a coloured band of layer labels along its axes, as a page of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape, unescape
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from neuroscan_farm.errors import RunError
from neuroscan_farm.report.ablation import UNKNOWN_LABEL, has_ablations
from neuroscan_farm.report.ablation_chart import ablation_chart, ablation_title
from neuroscan_farm.report.annotate import LayerLabels
from neuroscan_farm.report.figure_style import FIGURE_CONFIG, LABELS, Drawn, change_title, legend_below
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.heatmap import grid_of, heatmap

_NO_LABEL = "#d3d6dc"


def annotated_figure(
    findings: Findings, labels: LayerLabels, *, probe: str | None = None, top_k: int = 10
) -> Drawn:
    """Draw the run's heatmap or chart with the labels' band.

    On a heatmap, the band at the left is of the block's first layer and the one above of its last, which is j − 1.

    Raises:
        RunError: the run has neither a grid of blocks nor ablations.
    """
    if grid_of(findings):
        figure = heatmap(findings, probe=probe, top_k=top_k)
        _band_of_heatmap(figure, labels)
        return Drawn("annotated", change_title(findings.metric), figure, square=True)
    if has_ablations(findings):
        figure = ablation_chart(findings, probe=probe)
        _band_of_chart(figure, labels)
        return Drawn("annotated", ablation_title(findings.metric), figure, wide=True)
    raise RunError(
        f"{findings.manifest.run_id}: labels are laid over a heatmap of blocks or over ablations, and this run has "
        "neither; a full grid needs four blocks or more"
    )


def annotated_html(findings: Findings, drawn: Drawn, *, lines: list[str], source: str) -> str:
    """Return the page: the sentences and the figure. It loads nothing.

    Args:
        findings: of the run.
        drawn: the annotated figure.
        lines: what is said of the best configurations.
        source: the name of the labels' file.
    """
    environment = Environment(
        loader=PackageLoader("neuroscan_farm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = json.loads(drawn.figure.to_json())
    title = content["layout"].pop("title")
    data = {"config": FIGURE_CONFIG, "square": drawn.square, **content}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return environment.get_template("annotated.html.j2").render(
        manifest=findings.manifest,
        title=drawn.title,
        subtitle=unescape(title["subtitle"]["text"]),
        lines=lines,
        source=source,
        data=Markup(text.replace("<", "\\u003c")),  # no "<" is left in it
        plotly=Markup(get_plotlyjs()),
    )


def label_colours(labels: LayerLabels) -> Mapping[str, str]:
    """A colour for each label that occurs; a layer without one is grey, and beyond eight colours come again."""
    named = [name for name in labels.names if name != UNKNOWN_LABEL]
    colours = {name: LABELS[place % len(LABELS)] for place, name in enumerate(named)}
    return {**colours, UNKNOWN_LABEL: _NO_LABEL}


def _band_of_heatmap(figure: go.Figure, labels: LayerLabels) -> None:
    depth, colours = len(labels.labels), label_colours(labels)
    width = max(0.5, 0.03 * depth)
    near, far = 0.25 * width, 1.25 * width  # from the cells' edge
    shapes: list[dict[str, Any]] = []
    for layer, name in enumerate(labels.labels):
        look = {"type": "rect", "fillcolor": colours[name], "line": {"width": 0}, "layer": "below"}
        left = {"x0": 0.5 - far, "x1": 0.5 - near, "y0": layer - 0.5, "y1": layer + 0.5}
        above = {"x0": layer + 0.5, "x1": layer + 1.5, "y0": -0.5 - far, "y1": -0.5 - near}
        shapes += [look | left, look | above]
    figure.update_layout(shapes=shapes)
    middle = (near + far) / 2
    texts = [f"layer {layer}: {escape(name)}" for layer, name in enumerate(labels.labels)]
    for x, y in (
        ([0.5 - middle] * depth, list(range(depth))),
        (list(range(1, depth + 1)), [-0.5 - middle] * depth),
    ):
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            marker={"size": 10, "opacity": 0},
            text=texts,
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
            name="labels",
        )
    _add_legend(figure, labels)
    figure.update_xaxes(range=[0.4 - far, depth + 0.5])
    figure.update_yaxes(range=[depth - 0.5, -0.6 - far])
    figure.update_layout(legend={"y": -0.13, "font": {"size": 11.5}})


def _band_of_chart(figure: go.Figure, labels: LayerLabels) -> None:
    colours = label_colours(labels)
    look = {"type": "rect", "yref": "paper", "line": {"width": 0}}
    figure.update_layout(
        shapes=[
            {**look, "fillcolor": colours[name], "x0": layer - 0.5, "x1": layer + 0.5, "y0": 1.0, "y1": 1.045}
            for layer, name in enumerate(labels.labels)
        ],
        showlegend=True,
        legend=legend_below(figure.layout.height) | {"font": {"size": 11.5}},
    )
    _add_legend(figure, labels)


def _add_legend(figure: go.Figure, labels: LayerLabels) -> None:
    colours = label_colours(labels)
    for name in labels.names:
        square = {"symbol": "square", "size": 12, "color": colours[name]}
        shown = f"{name} ({labels.labels.count(name)})"
        figure.add_scatter(
            x=[None], y=[None], mode="markers", marker=square, name=escape(shown), hoverinfo="skip"
        )
