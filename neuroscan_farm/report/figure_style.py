"""What all figures share: colours, layout, and the settings that keep Plotly from offering an upload.

Green is a gain and red a loss; the two also differ in lightness and in blueness, so that they stay apart for
people with red-green colour blindness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT, number, percent

# No upload of figures to anybody's server: plotly 7 would offer "Share chart".
FIGURE_CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["sendChartToCloud", "select2d", "lasso2d"],
    "responsive": True,
}

_COLOURS = ("#560010", "#a3122a", "#e4483d", "#f9a78b", "#eae6da", "#a4dcc6", "#44bc98", "#0c906c", "#02523f")
_MIDDLE = len(_COLOURS) // 2
# Losses to gains. The colours stand at the squares of even steps from zero, so that what is a tenth of the largest
# change is still seen: in a trained model most blocks hurt by far more than the best one helps.
SCALE = [
    [0.5 + 0.5 * math.copysign(((k - _MIDDLE) / _MIDDLE) ** 2, k - _MIDDLE), colour]
    for k, colour in enumerate(_COLOURS)
]
GAIN, LOSS = "#0c906c", "#a3122a"
GREY = "#6d727c"
FRONT = "#d9a400"  # of what nothing beats
# Under the title of a colour bar, so that it keeps off the uppermost tick; Plotly drops lines that are empty.
_GAP = '<br><span style="color:rgba(0,0,0,0);font-size:6px">.</span>'
_ROOM = 0.2  # of the half of a colour bar: labels that are closer would touch in the smallest figure
GRID = "rgba(128,128,128,0.2)"


# Interactions are neither gains nor losses: orange where two layers need each other, blue where one stands in.
_PAIR_COLOURS = (
    "#0b2a5b",
    "#1f5fa8",
    "#4f97cf",
    "#a9cfe8",
    "#eae6da",
    "#f6cf9a",
    "#e79a3c",
    "#b86508",
    "#6e3600",
)
PAIR_SCALE = [
    [0.5 + 0.5 * math.copysign(abs((k - _MIDDLE) / _MIDDLE) ** 1.5, k - _MIDDLE), colour]
    for k, colour in enumerate(_PAIR_COLOURS)
]
# Of pairs that are not decided: tints that no one takes for an interaction of the bar above.
PALE_PAIR_SCALE = [[0.0, "#e6eff7"], [0.5, "#f5f4f1"], [1.0, "#fcf0e1"]]
# Series that are kinds, not sizes; told apart in both themes and without red and green.
SERIES = ("#3f7fbf", "#e0872f", "#7d5fb2", "#2a9d8f", "#c2588c", "#8a8f3c", "#5a6b8c", "#b5534a")

# Of labels that lie beside series: paler, so that a band is not taken for one of them.
LABELS = ("#86a0cf", "#d8b165", "#c98074", "#8dbb8a", "#b493b8", "#7fc0c4", "#a09a62", "#7d7aa8")


class Drawn(NamedTuple):
    """A figure with what a page needs to place it."""

    name: str  # unique among a page's figures
    title: str
    figure: go.Figure
    square: bool = False  # a grid whose height follows its width
    wide: bool = False  # takes the page's whole width


def layout_of(
    findings: Findings,
    probe: str | None,
    metric: Metric,
    *,
    title: str | None = None,
    view: str | None = None,
) -> dict[str, Any]:
    """The layout that all figures share: title with the baseline's score under it, fonts, margins, legend.

    Args:
        findings: of the run.
        probe: the view; None for the mean over the probes.
        metric: what the baseline's score is told of.
        title: what is drawn; None for the metric's change.
        view: what the title calls the view; None for its name.
    """
    title = title or change_title(metric)
    title = f"{title} · {findings.manifest.model_name} · {view or findings.view_name(probe)}"
    return {
        "template": "none",
        "title": {
            "text": escape(title, quote=False),
            "x": 0,
            "xref": "paper",
            "font": {"size": 17},
            "subtitle": {
                "text": escape(_baseline_text(findings, probe, metric), quote=False),
                "font": {"size": 12.5},
            },
        },
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12.5},
        "paper_bgcolor": "white",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 60, "r": 20, "t": 84, "b": 90},
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": -0.13, "yanchor": "top"},
        "showlegend": True,
    }


def change_title(metric: Metric) -> str:
    """The title of a figure that shows changes."""
    return f"{METRIC_TEXT[metric].delta} against the baseline"


def limit_of(values: npt.NDArray[np.float64], *, share: float = 0.9) -> tuple[float, bool]:
    """Where symmetric colours end so that this share of the sizes is within, and whether values reach beyond."""
    sizes = np.abs(values[np.isfinite(values)])
    if not sizes.size or not sizes.max() > 0:
        return 1.0, False
    limit = float(np.quantile(sizes, share)) or float(sizes.max())
    return limit, bool(sizes.max() > limit * (1 + 1e-9))


def colour_bar(
    unit: str,
    limit: float,
    decimals: int,
    *,
    below: bool = False,
    above: bool = False,
    noise: float | None = None,
) -> dict[str, Any]:
    """A symmetric colour bar with its unit on top: beside it, a title would run through the ticks.

    Args:
        unit: of the numbers.
        limit: where the colours end on both sides of zero.
        decimals: of the ticks, at least.
        below: whether values reach below the colours.
        above: whether they reach above.
        noise: what the best would show by chance, to be marked; None where that is unknown, or not above zero.
    """
    decimals = max(decimals, 2 - math.floor(math.log10(limit)))  # three digits at least, however small

    def written(value: float) -> str:
        return f"{value:+.{decimals}f}"

    ticks = {end: written(end) if end else "0" for end in (-limit, -limit / 2, 0.0, limit / 2, limit)}
    if below:
        ticks[-limit] = f"≤ {ticks[-limit]}"
    if above:
        ticks[limit] = f"≥ {ticks[limit]}"
    if noise is not None:
        said = f"noise {written(noise)}"
        if noise > limit:  # beyond the colours: nothing that is drawn reaches it
            ticks[(1 - _ROOM) * limit] = f"▲ {said}"
        elif noise < _ROOM * limit:
            ticks[0.0] = f"0, {said}"
        else:
            ticks = {end: text for end, text in ticks.items() if abs(end - noise) >= _ROOM * limit}
            ticks[noise] = said
    return {
        "title": {"text": unit.replace(" ", "<br>", 1) + _GAP, "side": "top"},
        "tickvals": list(ticks),
        "ticktext": list(ticks.values()),
        "thickness": 16,
        "outlinewidth": 0,
    }


def legend_below(height: float) -> dict[str, Any]:
    """A legend under the title of the x axis, in a figure of `height` pixels with the margins of `layout_of`."""
    return {"orientation": "h", "x": 0, "y": -72 / max(height - 174, 60), "yanchor": "top"}


def gains_in_view(values: Sequence[float], *, shown: Sequence[float] = ()) -> list[float] | None:
    """The range of an axis that gives the gains their room where losses reach far below; None where all fit well.

    At least half of the values, zero, and all of `shown` are within.
    """
    kept = [*values, *shown, 0.0]
    low, high = min(kept), max(kept)
    floor = min([-4 * high, float(np.median(values)) if len(values) else 0.0, *shown])
    if high <= 0 or low >= floor:
        return None
    pad = 0.06 * (high - floor)
    return [floor - pad, high + pad]


def layer_ticks(depth: int) -> list[int]:
    """Layers worth a tick, so that at most 26 stand on an axis; the last is there."""
    return _ticks(depth, last=depth - 1)


def boundary_ticks(depth: int) -> list[int]:
    """Boundaries between layers worth a tick, from 0 to `depth`; the last is there."""
    return _ticks(depth, last=depth)


def _ticks(depth: int, *, last: int) -> list[int]:
    stride = next((stride for stride in (1, 2, 5, 10, 20, 50) if depth / stride <= 26), 100)
    return [tick for tick in range(0, last, stride) if last - tick >= stride] + [last]


def _baseline_text(findings: Findings, probe: str | None, metric: Metric) -> str:
    done = ""
    if (measured := findings.n_measured_on(probe)) != findings.n_planned:
        done = f" · {measured} of {findings.n_planned} tasks measured so far"
    if findings.baseline is None or not findings.baseline.results[probe].outcomes:
        return f"The baseline is not measured yet, so there are no changes against it{done}"
    value = findings.baseline.results[probe].means[metric.value]
    shown = percent(value) if metric is Metric.CORRECT else number(value)
    return f"baseline: {METRIC_TEXT[metric].name} {shown}{done}"
