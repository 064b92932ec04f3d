"""The (i, j) heatmap: every block's change against the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.chance import stands_out
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.figure_style import GREY, SCALE, boundary_ticks, colour_bar, layout_of
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.hover import absence_text, hover_row, hover_template
from neuroscan_farm.report.metric_text import METRIC_TEXT, MetricText
from neuroscan_farm.statistics.multiplicity import Noise

_WAITING, _FAILED, _NO_BASELINE = "#d5d8de", GREY, "#a9c1e8"
_STATES = ((_WAITING, "not measured yet"), (_FAILED, "failed"), (_NO_BASELINE, "measured, no baseline yet"))
_SMALLEST_GRID = 4  # blocks of an explicit list that make a heatmap worth its space


def grid_of(findings: Findings) -> list[Configuration]:
    """Return the configurations that a heatmap can show: one block each, run equally often; [] where few."""
    times = Counter(c.block.times for c in findings.configurations if c.block is not None)
    if not times:
        return []
    commonest = min(times, key=lambda t: (-times[t], t))
    cells = [c for c in findings.configurations if c.block is not None and c.block.times == commonest]
    return cells if len(cells) >= _SMALLEST_GRID else []


def heatmap(
    findings: Findings, *, probe: str | None, metric: Metric | None = None, top_k: int = 10
) -> go.Figure:
    """Draw each block's change at x = j (its end, exclusive) and y = i (its start).

    The colour bar marks what the best would show if nothing had an effect. Lines go around the blocks that are better,
    and those that are worse, after correction for all that was tried (adjusted p below 0.05).

    Args:
        findings: of the run.
        probe: which; None for the mean over the probes.
        metric: whose change is drawn; None for the ranking metric. It must be that one or `correct`.
        top_k: how many of the best are starred; always the best on the ranking metric.
    """
    shown = metric or findings.metric
    text = METRIC_TEXT[shown]
    depth = findings.manifest.depth
    cells = grid_of(findings)
    changes = np.full((depth, depth), np.nan, dtype=np.float32)  # [i, j - 1]
    rows: list[list[list[str] | None]] = [[None] * depth for _ in range(depth)]
    states = np.full((depth, depth), np.nan, dtype=np.float32)
    reasons: list[list[str | None]] = [[None] * depth for _ in range(depth)]
    troubled: list[Configuration] = []
    better: set[tuple[int, int]] = set()  # (j, i), as drawn
    worse: set[tuple[int, int]] = set()
    for c in cells:
        assert c.block is not None
        i, j = c.block.i, c.block.j
        result = c.results[probe]
        effect = result.effects.get(shown)
        if result.n_failed:
            troubled.append(c)
        if effect is not None:
            changes[i, j - 1] = effect.mean * text.scale
            rows[i][j - 1] = hover_row(c, probe=probe, metric=findings.metric)
            if stands_out(effect):
                (better if effect.mean > 0 else worse).add((j, i))
        else:
            states[i, j - 1] = 0 if not result.outcomes else 1 if not result.n_ok else 2
            reasons[i][j - 1] = absence_text(c, probe=probe)
    ends = list(range(1, depth + 1))
    gap = 1 if depth <= 40 else 0
    figure = go.Figure()
    figure.add_heatmap(
        x=ends,
        y=list(range(depth)),
        z=states,
        zmin=0,
        zmax=2,
        customdata=reasons,
        name="without a change",
        colorscale=[
            [0, _WAITING],
            [0.33, _WAITING],
            [0.34, _FAILED],
            [0.66, _FAILED],
            [0.67, _NO_BASELINE],
            [1, _NO_BASELINE],
        ],
        showscale=False,
        hoverongaps=False,
        xgap=gap,
        ygap=gap,
        hovertemplate="%{customdata}<extra></extra>",
    )
    limit, clipped = _limit(changes)
    noise = findings.noise_on(shown, probe)
    figure.add_heatmap(
        x=ends,
        y=list(range(depth)),
        z=changes,
        zmin=-limit,
        zmid=0,
        zmax=limit,
        customdata=rows,
        name="change",
        colorscale=SCALE,
        hoverongaps=False,
        xgap=gap,
        ygap=gap,
        hovertemplate=hover_template(findings.metric),
        showscale=bool(np.isfinite(changes).any()),
        colorbar=colour_bar(text.unit, limit, text.decimals, below=clipped, noise=_marked(noise, text)),
    )
    _add_outline(figure, worse, name="worse, adjusted p < 0.05", dash="dot")
    _add_outline(figure, better, name="better, adjusted p < 0.05", dash="solid")
    _add_marks(
        figure,
        troubled,
        name="samples failed",
        marker={"symbol": "x", "size": 7, "color": "#ffffff", "line": {"width": 1, "color": "#20242c"}},
    )
    best = [c for c in cells if (rank := c.results[probe].rank) is not None and rank <= top_k]
    star = {
        "symbol": "star",
        "size": _star_size(depth),
        "color": "#ffd23f",
        "line": {"width": 1.2, "color": "#14171c"},
    }
    _add_marks(figure, best, name=f"best {len(best)} on {findings.metric.value}", marker=star)
    for state, (colour, name) in enumerate(_STATES):
        if (states == state).any():
            square = {"symbol": "square", "size": 11, "color": colour}
            figure.add_scatter(x=[None], y=[None], mode="markers", marker=square, name=name, hoverinfo="skip")
    layout = layout_of(findings, probe, shown)
    if noise is not None:
        layout["title"]["subtitle"]["text"] += _noise_said(noise, text)
    figure.update_layout(layout, height=680)
    ticks = boundary_ticks(depth)
    figure.update_xaxes(
        title="j: end of the block (exclusive)",
        range=[0.5, depth + 0.5],
        tickvals=[t for t in ticks if t],
        constrain="domain",
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(
        title="i: start of the block",
        range=[depth - 0.5, -0.5],
        tickvals=[t for t in ticks if t < depth],
        scaleanchor="x",
        constrain="domain",
        constraintoward="top",
        showgrid=False,
        zeroline=False,
    )
    return figure


def _marked(noise: Noise | None, text: MetricText) -> float | None:
    """What the colour bar marks as noise; of one configuration, chance expects nothing."""
    return None if noise is None or noise.tried == 1 or noise.mean <= 0 else noise.mean * text.scale


def _noise_said(noise: Noise, text: MetricText) -> str:
    expected = (
        ""
        if noise.tried == 1
        else f" · best of {noise.tried} expected under noise: {text.change(noise.mean)}"
    )
    return (
        expected
        if noise.high is None
        else f"{expected} · the best stands out above {text.change(noise.high)}"
    )


def _limit(changes: npt.NDArray[np.float32]) -> tuple[float, bool]:
    """Where the colours end on both sides of zero, and whether losses reach beyond.

    Blocks that break the model would wash out all others, so the end is the third quartile of all changes'
    sizes, but no less than the largest gain and no more than twenty times that: gains are what people look for.
    """
    present = changes[np.isfinite(changes)]
    if not present.size:
        return 1.0, False
    sizes = np.abs(present)
    limit, gain = float(np.quantile(sizes, 0.75)), float(present.max())
    if gain > 0:
        limit = min(max(limit, gain), 20 * gain)
    limit = limit if limit > 0 else float(sizes.max()) or 1.0
    return limit, bool(sizes.max() > limit * (1 + 1e-9))


def _add_marks(
    figure: go.Figure, configurations: Sequence[Configuration], *, name: str, marker: dict[str, Any]
) -> None:
    """Mark cells without taking the pointer from them: the cell's own hover says everything."""
    if configurations:
        blocks = [c.block for c in configurations if c.block is not None]
        figure.add_scatter(
            x=[block.j for block in blocks],
            y=[block.i for block in blocks],
            mode="markers",
            marker=marker,
            name=name,
            hoverinfo="skip",
        )


def _add_outline(figure: go.Figure, cells: Collection[tuple[int, int]], *, name: str, dash: str) -> None:
    """Draw lines around the cells (x, y), and none between two of them."""
    if not cells:
        return
    inside = set(cells)
    xs: list[float | None] = []
    ys: list[float | None] = []
    for x, y in sorted(inside):
        left, right, top, bottom = x - 0.5, x + 0.5, y - 0.5, y + 0.5
        edges = {
            (x - 1, y): ((left, left), (top, bottom)),
            (x + 1, y): ((right, right), (top, bottom)),
            (x, y - 1): ((left, right), (top, top)),
            (x, y + 1): ((left, right), (bottom, bottom)),
        }
        for neighbour, (across, down) in edges.items():
            if neighbour not in inside:
                xs += [*across, None]
                ys += [*down, None]
    line = {"color": "#14171c", "width": 1.8 if dash == "solid" else 1.2, "dash": dash}
    figure.add_scatter(x=xs, y=ys, mode="lines", line=line, name=name, hoverinfo="skip")


def _star_size(depth: int) -> int:
    return 14 if depth <= 24 else 11 if depth <= 48 else 9
