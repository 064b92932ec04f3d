"""Which figures suit a run: heatmaps for a grid of blocks, bars for what is no grid. Plotly objects."""

from __future__ import annotations

import plotly.graph_objects as go

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.bars import MOST_BARS, bars
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.heatmap import grid_of, heatmap


def figures(findings: Findings, *, probe: str | None, top_k: int = 10) -> list[tuple[str, Metric, go.Figure]]:
    """Return the figures that suit the run, each with a name and the metric whose change it shows."""
    cells, total = grid_of(findings), len(findings.configurations)
    metrics = [findings.metric]
    has_answers = any(Metric.CORRECT in c.results[probe].effects for c in findings.configurations)
    if findings.metric is not Metric.CORRECT and has_answers:
        metrics.append(Metric.CORRECT)
    drawn = []
    for metric in metrics:
        if cells:
            figure = heatmap(findings, probe=probe, metric=metric, top_k=top_k)
            drawn.append((f"heatmap-{metric.value}", metric, figure))
        if len(cells) < total or total <= MOST_BARS // 2:
            drawn.append((f"bars-{metric.value}", metric, bars(findings, probe=probe, metric=metric)))
    return drawn
