"""`top`, `compare` and `annotate`: what finished runs, or runs half done, have found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from neuroscan_farm.cli.choice import MetricOption, metric_named
from neuroscan_farm.cli.progress import note
from neuroscan_farm.cli.run_commands import JsonOption, RunArgument
from neuroscan_farm.coordinator.overview import find_run
from neuroscan_farm.settings import load_settings

ProbeOption = Annotated[
    str | None,
    typer.Option("--probe", "-p", help="On this probe; default is the mean over the run's probes."),
]
CountOption = Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many of the best to list.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (top, compare, annotate):
        app.command(command.__name__)(command)


def top(
    run: RunArgument,
    top_k: CountOption = 10,
    probe: ProbeOption = None,
    metric: MetricOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the best configurations of a run, with intervals, corrected p-values and cost."""
    from neuroscan_farm.report.findings import read_findings
    from neuroscan_farm.report.top import top_dict, top_text, view_of

    findings = read_findings(find_run(run, load_settings().runs_dir), metric=metric_named(metric))
    view = view_of(findings, probe)
    if as_json:
        print(json.dumps(top_dict(findings, count=top_k, probe=view)))
    else:
        print(top_text(findings, count=top_k, probe=view))


def compare(
    run: RunArgument,
    other: Annotated[str, typer.Argument(metavar="RUN", help="The run to compare it with.")],
    top_k: CountOption = 10,
    probe: ProbeOption = None,
    metric: MetricOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the same configurations of two runs side by side; by share of depth where the models differ in it."""
    from neuroscan_farm.report.compare import compare_runs, comparison_dict, comparison_text
    from neuroscan_farm.report.findings import read_findings

    folder = load_settings().runs_dir
    ranked_by = metric_named(metric)
    first, second = (read_findings(find_run(name, folder), metric=ranked_by) for name in (run, other))
    seen = compare_runs(first, second)
    if as_json:
        print(json.dumps(comparison_dict(seen)))
    else:
        print(comparison_text(seen, count=top_k, probe=probe))


def annotate(
    run: RunArgument,
    labels: Annotated[
        Path,
        typer.Argument(metavar="REPORT.json", help="A neuro-scan report.json with layer_labels."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page; default is report/annotated.html in the run."),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many of the best to explain.")] = 3,
    probe: ProbeOption = None,
    metric: MetricOption = None,
) -> None:
    """Lay layer labels over a run's heatmap, and say how many labelled layers the best configurations touch."""
    from neuroscan_farm.report.annotate import annotation_lines, read_labels
    from neuroscan_farm.report.annotated_page import annotated_figure, annotated_html
    from neuroscan_farm.report.findings import read_findings
    from neuroscan_farm.report.top import view_of
    from neuroscan_farm.store.atomic import write_text

    directory = find_run(run, load_settings().runs_dir)
    found = read_labels(labels, depth=directory.manifest.depth)
    findings = read_findings(directory, metric=metric_named(metric))
    view = view_of(findings, probe)
    lines = annotation_lines(findings, found, probe=view, top_k=top_k)
    drawn = annotated_figure(findings, found, probe=view)
    html = annotated_html(findings, drawn, lines=lines, source=labels.name)
    if output is None:
        directory.place.below("report").write("annotated.html", html.encode())
        where = directory.place.below("report").where("annotated.html")
    else:
        write_text(output, html)
        where = str(output)
    for line in lines:
        print(line)
    note(f"written: {where}")
