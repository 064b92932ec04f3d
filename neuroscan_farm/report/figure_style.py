"""What all figures share: colours, layout, and the settings that keep Plotly from offering an upload.

Green is a gain and red a loss; the two also differ in lightness and in blueness, so that they stay apart for
people with red-green colour blindness.
"""

from __future__ import annotations

import math
from html import escape
from typing import Any

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


def layout_of(findings: Findings, probe: str | None, metric: Metric) -> dict[str, Any]:
    """The layout that all figures share: title with the baseline's score under it, fonts, margins, legend."""
    text = METRIC_TEXT[metric]
    title = (
        f"{text.delta} against the baseline · {findings.manifest.model_name} · {findings.view_name(probe)}"
    )
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


def _baseline_text(findings: Findings, probe: str | None, metric: Metric) -> str:
    done = ""
    if findings.n_measured != findings.n_planned:
        done = f" · {findings.n_measured} of {findings.n_planned} tasks measured so far"
    if not findings.has_baseline or findings.baseline is None:
        return f"The baseline is not measured yet, so there are no changes against it{done}"
    value = findings.baseline.results[probe].means[metric.value]
    shown = percent(value) if metric is Metric.CORRECT else number(value)
    return f"baseline: {METRIC_TEXT[metric].name} {shown}{done}"
