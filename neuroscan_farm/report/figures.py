"""Which figures suit a run: heatmaps for a grid of blocks, charts and maps of ablations, bars for what is neither."""

from __future__ import annotations

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.ablation import has_ablations, singles_of
from neuroscan_farm.report.ablation_chart import ablation_chart, ablation_title
from neuroscan_farm.report.bars import MOST_BARS, bars
from neuroscan_farm.report.circuits import Circuit
from neuroscan_farm.report.cost import has_costs
from neuroscan_farm.report.cost_figure import cost_figure, cost_title
from neuroscan_farm.report.cross_probe import CrossProbe
from neuroscan_farm.report.cross_probe_figures import (
    CORRELATION_TITLE,
    correlation_figure,
    profiles_figure,
    profiles_title,
)
from neuroscan_farm.report.figure_style import Drawn, change_title
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.heatmap import grid_of, heatmap
from neuroscan_farm.report.interaction_map import interaction_map, interaction_title
from neuroscan_farm.report.left_out import left_out_by
from neuroscan_farm.report.multi_probe import MultiProbe
from neuroscan_farm.report.multi_probe_figures import lines_title, probe_lines, probe_scatter, scatter_title

_FEWEST_PRICED = 4
_WIDE_FROM = 40  # layers: from then on, maps and charts of layers take a page's whole width


def figures(
    findings: Findings, *, probe: str | None, top_k: int = 10, circuit: Circuit | None = None
) -> list[Drawn]:
    """Return the figures of one view of the run.

    Args:
        findings: of the run.
        probe: which; None for the mean over the probes.
        top_k: how many of the best are starred.
        circuit: the run's pairs, where it has some.
    """
    cells, total = grid_of(findings), len(findings.configurations)
    metrics = [findings.metric]
    has_answers = any(Metric.CORRECT in c.results[probe].effects for c in findings.configurations)
    if findings.metric is not Metric.CORRECT and has_answers:
        metrics.append(Metric.CORRECT)
    drawn: list[Drawn] = []
    ablations = bool(singles_of(findings)) and has_ablations(findings)
    rest = total - len(cells) - (_ablations_in(findings) if ablations else 0)
    wide = findings.manifest.depth > _WIDE_FROM
    if circuit is not None:
        figure = interaction_map(findings, circuit, probe=probe)
        name = f"interactions-{circuit.metric.value}"
        drawn.append(Drawn(name, interaction_title(circuit.metric), figure, square=True, wide=wide))
    for metric in metrics:
        if cells:
            figure = heatmap(findings, probe=probe, metric=metric, top_k=top_k)
            drawn.append(Drawn(f"heatmap-{metric.value}", change_title(metric), figure, square=True))
        if ablations:
            figure = ablation_chart(findings, probe=probe, metric=metric)
            drawn.append(Drawn(f"ablation-{metric.value}", ablation_title(metric), figure, wide=wide))
        if rest > 0 or (not ablations and total <= MOST_BARS // 2):
            figure = bars(findings, probe=probe, metric=metric)
            drawn.append(Drawn(f"bars-{metric.value}", change_title(metric), figure))
    if has_costs(findings) and len(findings.ranked(probe)) >= _FEWEST_PRICED:
        drawn.append(Drawn("cost", cost_title(findings.metric), cost_figure(findings, probe=probe)))
    return drawn


def probe_figures(findings: Findings, *, several: MultiProbe | None, cross: CrossProbe | None) -> list[Drawn]:
    """Return the figures over all probes of a run of several.

    Args:
        findings: of the run.
        several: its configurations over the probes, where there are several.
        cross: its layers' profiles, where it has ablations too.
    """
    drawn = []
    if cross is not None:
        figure = profiles_figure(findings, cross)
        drawn.append(Drawn("profiles", profiles_title(findings.metric), figure, wide=True))
        if len(cross.probes) > 2:  # of two probes it is one number, which the text says
            figure = correlation_figure(findings, cross)
            drawn.append(Drawn("correlation", CORRELATION_TITLE, figure, square=True))
    if several is not None and several.standings:
        drawn.append(Drawn("probes", scatter_title(findings), probe_scatter(findings, several)))
        if len(several.probes) > 2:
            drawn.append(Drawn("probes-side-by-side", lines_title(findings), probe_lines(findings, several)))
    return drawn


def _ablations_in(findings: Findings) -> int:
    """How many configurations leave out one thing or two whole layers: those that other figures show."""
    gone = (left_out_by(c.path, findings.manifest.depth) for c in findings.configurations)
    return sum(one is not None and len(one) <= 2 for one in gone)
