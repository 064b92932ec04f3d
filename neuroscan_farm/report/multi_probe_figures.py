"""Pictures of a run of several probes: one probe against another with the front, and all probes side by side."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

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
from neuroscan_farm.report.multi_probe import MultiProbe, Standing

_BALANCED = "#c2588c"
_MOST_LINES = 24  # of the front, in the parallel view
_MOST_OTHERS = 150
_HEIGHT = 560


def probe_scatter(findings: Findings, seen: MultiProbe) -> go.Figure:
    """Draw each configuration's change on one probe over its change on another; menus choose of three or more.

    The front is the one over all probes of the run; with two of them, its steps are drawn.
    """
    text, probes = METRIC_TEXT[findings.metric], seen.probes
    figure = go.Figure()
    groups = [
        ("beaten on every probe or equal", [s for s in seen.standings if not s.on_front]),
        ("Pareto front", list(seen.front)),
        ("best balanced", list(seen.standings[:1])),
        ("untouched model", []),
    ]
    marks: list[dict[str, Any]] = [
        {"size": 6, "color": SERIES[0], "opacity": 0.45},
        {"size": 11, "symbol": "star", "color": FRONT, "line": {"width": 1, "color": "#14171c"}},
        {"size": 17, "symbol": "circle-open", "color": _BALANCED, "line": {"width": 2.5}},
        {"size": 11, "symbol": "square", "color": GREY},
    ]
    if len(probes) == 2:
        steps = sorted(seen.front, key=lambda s: s.effects)
        figure.add_scatter(
            x=[s.effects[0] * text.scale for s in steps],
            y=[s.effects[1] * text.scale for s in steps],
            mode="lines",
            line={"shape": "vh", "width": 1.5, "color": FRONT},
            hoverinfo="skip",
            showlegend=False,
            name="steps of the front",
        )
    for (name, members), mark in zip(groups, marks, strict=True):
        at = [s.effects for s in members] or [(0.0,) * len(probes)]
        figure.add_scatter(
            x=[_shown(effects[0], text.scale) for effects in at],
            y=[_shown(effects[1], text.scale) for effects in at],
            mode="markers",
            marker=mark,
            name=name,
            customdata=[_row(s, findings) for s in members] or [["the untouched model", "", ""]],
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
            hoverinfo="skip" if name == "best balanced" else None,
        )
    figure.data[-2].update(hovertemplate=None, customdata=None)  # its star below says everything
    layout = layout_of(findings, probes[0], findings.metric, title=scatter_title(findings), view=_view(seen))
    layout["title"]["subtitle"]["text"] = escape(_counts(seen), quote=False)
    figure.update_layout(layout, height=_HEIGHT, legend=legend_below(_HEIGHT))
    axis = {"zeroline": True, "zerolinecolor": GREY, "gridcolor": GRID}
    figure.update_xaxes(title=f"{probes[0]} ({text.unit})", **axis)
    figure.update_yaxes(title=f"{probes[1]} ({text.unit})", **axis)
    spans = [
        gains_in_view(
            [s.effects[k] * text.scale for s in seen.standings],
            shown=[s.effects[k] * text.scale for s in seen.front],
        )
        for k in range(len(probes))
    ]
    figure.update_xaxes(range=spans[0])
    figure.update_yaxes(range=spans[1])
    if len(probes) > 2:
        figure.update_layout(
            updatemenus=[
                _menu("x", 0, groups, seen, findings, spans),
                _menu("y", 1, groups, seen, findings, spans),
            ],
            margin={"t": 120},
        )
    return figure


def scatter_title(findings: Findings) -> str:
    """The scatter's title."""
    return f"{METRIC_TEXT[findings.metric].delta} on one probe and another"


def probe_lines(findings: Findings, seen: MultiProbe) -> go.Figure:
    """Draw the configurations of the front as lines over the probes, with others faint behind them.

    Of a front of more than 24 the best balanced are drawn, and of the others an even choice of 150.
    """
    text, probes = METRIC_TEXT[findings.metric], list(seen.probes)
    others = [s for s in seen.standings if not s.on_front]
    others = others[:: max(1, len(others) // _MOST_OTHERS)]
    xs: list[str | None] = []
    ys: list[float | None] = []
    for standing in others:
        xs += [*probes, None]
        ys += [*(_shown(effect, text.scale) for effect in standing.effects), None]
    figure = go.Figure()
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="lines",
        line={"width": 1, "color": "rgba(128,134,146,0.22)"},
        hoverinfo="skip",
        name="others",
    )
    drawn = seen.front[:_MOST_LINES]
    for place, standing in enumerate(drawn):
        c = standing.configuration
        figure.add_scatter(
            x=probes,
            y=[_shown(effect, text.scale) for effect in standing.effects],
            mode="lines+markers",
            line={"width": 2.4 if place < len(SERIES) else 1.4, "color": SERIES[place % len(SERIES)]},
            name=escape(_label(c.label, 22), quote=False),
            hovertemplate=f"<b>{escape(_label(c.label), quote=False)}</b> on %{{x}}<br>"
            f"%{{y:+.{text.decimals}f}} {text.unit}<extra></extra>",
        )
    layout = layout_of(findings, probes[0], findings.metric, title=lines_title(findings), view=_view(seen))
    layout["title"]["subtitle"]["text"] = (
        f"the front{'' if len(drawn) == len(seen.front) else f', its {len(drawn)} best balanced'}; "
        f"faint: {len(others)} of the others"
    )
    values = [effect * text.scale for s in drawn for effect in s.effects]
    figure.update_layout(layout, height=_HEIGHT, legend=legend_below(_HEIGHT) | {"font": {"size": 11}})
    figure.update_xaxes(type="category", showgrid=True, gridcolor=GRID)
    low, high = min([*values, 0.0]), max([*values, 0.0])
    pad = 0.25 * ((high - low) or 1.0)
    figure.update_yaxes(
        title=text.label, range=[low - pad, high + pad], zeroline=True, zerolinecolor=GREY, gridcolor=GRID
    )
    return figure


def lines_title(findings: Findings) -> str:
    """The parallel view's title."""
    return f"{METRIC_TEXT[findings.metric].delta} on every probe"


def _menu(
    axis: str,
    active: int,
    groups: Sequence[tuple[str, list[Standing]]],
    seen: MultiProbe,
    findings: Findings,
    spans: Sequence[list[float] | None],
) -> dict[str, Any]:
    text = METRIC_TEXT[findings.metric]
    buttons = []
    for k, probe in enumerate(seen.probes):
        values = [[_shown(s.effects[k], text.scale) for s in members] or [0.0] for _, members in groups]
        moved: dict[str, Any] = {f"{axis}axis.title.text": f"{probe} ({text.unit})"}
        moved |= {f"{axis}axis.autorange": True} if spans[k] is None else {f"{axis}axis.range": spans[k]}
        buttons.append({"label": f"{axis}: {probe}", "method": "update", "args": [{axis: values}, moved]})
    place = {"x": 0.0 if axis == "x" else 0.5, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    return {"buttons": buttons, "active": active, "showactive": True, "bgcolor": "#ffffff", **place,
            "font": {"color": "#1d2129", "size": 12}}  # fmt: skip


def _row(standing: Standing, findings: Findings) -> list[str]:
    text = METRIC_TEXT[findings.metric]
    on = (
        f"{probe} {text.change(effect)}"
        for probe, effect in zip(findings.probes, standing.effects, strict=True)
    )
    c = standing.configuration
    said = [_label(c.label), ", ".join(on), f"balanced {standing.balanced:+.2f}"]
    return [escape(part, quote=False) for part in said]


def _view(seen: MultiProbe) -> str:
    return f"{len(seen.probes)} probes"


def _counts(seen: MultiProbe) -> str:
    return (
        f"{len(seen.front)} of {len(seen.standings)} configurations are on the Pareto front over all "
        f"{len(seen.probes)} probes"
    )


def _shown(effect: float, scale: float) -> float:
    return round(effect * scale, 6)


def _label(label: str, longest: int = 40) -> str:
    return label if len(label) <= longest else f"{label[: longest - 1]}…"
