"""`/runs` and what is read of one run: how it stands, its findings, its table, its figures, its failures."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.errors import NeuroscanError
from neuroscan_farm.serve.answers import EVENTS, errors
from neuroscan_farm.serve.configurations import configuration_detail, configurations_page
from neuroscan_farm.serve.drawn import figure_json, figures_of
from neuroscan_farm.serve.events import of_a_run, of_all_runs, stream
from neuroscan_farm.serve.findings_text import findings_text
from neuroscan_farm.serve.models import LeftOut, RunDetail, RunsPage, State
from neuroscan_farm.serve.result_models import (
    ConfigurationDetail,
    ConfigurationsPage,
    FailureRow,
    Failures,
    FigureData,
    Figures,
    Findings,
)
from neuroscan_farm.serve.state import TheRun, TheServer, addition_of
from neuroscan_farm.store.run_directory import request_content

router = APIRouter(tags=["runs"])
ProbeQuery = Annotated[
    str | None,
    Query(
        max_length=200, description="one probe, or `*` for the mean over several; default is the first view"
    ),
]
MetricQuery = Annotated[Metric | None, Query(description="rank by this metric instead of the request's")]


@router.get("/runs", responses=errors(422))
def list_runs(
    server: TheServer,
    state: Annotated[list[State] | None, Query(description="one or several")] = None,
    model: Annotated[str | None, Query(max_length=200, description="part of the model's name")] = None,
    analysis: Annotated[str | None, Query(max_length=100)] = None,
    probe: Annotated[str | None, Query(max_length=200)] = None,
    text: Annotated[str | None, Query(max_length=200, description="in id, model, analysis or probes")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> RunsPage:
    """List the runs, the newest first."""
    listing = server.runs.listing()
    left_out = dict(listing.left_out)
    found = []
    for name, (run, seen) in listing.runs.items():
        manifest = run.directory.manifest
        probes = [*manifest.probes, *(one for added in seen.additions for one in added.probes)]
        words = " ".join((name, run.run_id, manifest.model, manifest.analysis, *probes)).lower()
        if (
            (model and model.lower() not in manifest.model_name.lower())
            or (analysis and analysis != manifest.analysis)
            or (probe and probe not in probes)
            or (text and not all(word in words for word in text.lower().split()))
        ):
            continue
        if state and server.state(run, seen) not in state:
            continue
        found.append((run, seen))
    shown = []
    for run, seen in found[offset : offset + limit]:
        try:
            shown.append(server.summary(run, seen))
        except NeuroscanError as error:
            left_out[run.id] = str(error)
    return RunsPage(
        runs=shown,
        total=len(found),
        all=len(listing.runs),
        limit=limit,
        offset=offset,
        left_out=[LeftOut(id=name, error=why) for name, why in left_out.items()],
        stamp=f"{listing.stamp}-{server.results.version}",
    )


@router.get("/events", responses=EVENTS, response_class=StreamingResponse)
def list_events(server: TheServer) -> StreamingResponse:
    """Tell which runs changed, as they do: events `runs`."""
    return stream(server, of_all_runs(server))


@router.get("/runs/{run_id}", responses=errors(404, 409))
def read_run(run: TheRun, server: TheServer) -> RunDetail:
    """Say how a run stands, and what it rests on."""
    seen = run.see()
    manifest, overview = run.directory.manifest, seen.overview
    summary = server.summary(run, seen)
    views = summary.probes if len(summary.probes) == 1 else ["*", *summary.probes]
    return RunDetail(
        **summary.model_dump(),
        location=run.directory.location,
        model_type=manifest.model_type,
        model_fingerprint=manifest.model_fingerprint,
        n_samples={name: count for one in run.whole() for name, count in one.manifest.n_samples.items()},
        views=views,
        metrics=[metric.value for metric in dict.fromkeys((run.metric, *Metric))],
        outcomes=overview.outcomes,
        shards=overview.shards,
        shards_finished=overview.shards_finished,
        evaluations=overview.evaluations,
        evaluations_left=overview.evaluations_left,
        versions=dict(manifest.versions),
        request=request_content(run.directory.request()),
        additions=[addition_of(one) for one in seen.additions],
        can_materialize=server.jobs.enabled,
    )


@router.get("/runs/{run_id}/events", responses=EVENTS, response_class=StreamingResponse)
def run_events(run: TheRun, server: TheServer) -> StreamingResponse:
    """Tell how a run stands whenever that changes: events `run`, and `gone` where it is there no more."""
    return stream(server, of_a_run(server, run))


@router.get("/runs/{run_id}/findings", responses=errors(404, 409, 422))
def read_findings(run: TheRun, server: TheServer, metric: MetricQuery = None) -> Findings:
    """Say what the report says in words: notices, chance, the best, the baseline."""
    return findings_text(run, server.results.of(run, metric))


@router.get("/runs/{run_id}/configurations", responses=errors(404, 409, 422))
def list_configurations(
    run: TheRun,
    server: TheServer,
    probe: ProbeQuery = None,
    metric: MetricQuery = None,
    sort: Annotated[
        str,
        Query(
            max_length=40,
            description="a column; with a minus before it, the largest first; absent values last",
        ),
    ] = "rank",
    path: Annotated[
        str | None, Query(max_length=20_000, description="this one alone, such as 0..6,3..13")
    ] = None,
    block: Annotated[
        str | None, Query(max_length=200, description="this one alone, such as 3,7 or 3,7x3")
    ] = None,
    baseline: Annotated[bool, Query(description="with the untouched model")] = False,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> ConfigurationsPage:
    """List the configurations with their effects: the table of the report."""
    found = server.results.of(run, metric)
    return configurations_page(
        found, probe=probe, sort=sort, path=path, block=block, baseline=baseline, limit=limit, offset=offset
    )


@router.get("/runs/{run_id}/configurations/{task_id}", responses=errors(404, 409, 422))
def read_configuration(
    run: TheRun, server: TheServer, task_id: str, probe: ProbeQuery = None, metric: MetricQuery = None
) -> ConfigurationDetail:
    """Say all that is known of one configuration: its path, its cost, and its effect on each sample."""
    return configuration_detail(run, server.results.of(run, metric), task_id, probe=probe)


@router.get("/runs/{run_id}/figures", responses=errors(404, 409, 422))
def list_figures(
    run: TheRun, server: TheServer, probe: ProbeQuery = None, metric: MetricQuery = None
) -> Figures:
    """List the figures that a view of the run has: the very ones of the report."""
    return figures_of(server.results.of(run, metric), probe=probe)


@router.get("/runs/{run_id}/figures/{name}", response_model=FigureData, responses=errors(404, 409, 422))
def read_figure(
    request: Request,
    run: TheRun,
    server: TheServer,
    name: str,
    probe: ProbeQuery = None,
    metric: MetricQuery = None,
    significant: Annotated[
        bool, Query(description="show only what stands out after correction for all that was tried")
    ] = False,
) -> Any:
    """Return a figure as Plotly JSON. Its ETag changes with the rows."""
    found = server.results.of(run, metric)
    tag, body = figure_json(found, name, probe=probe, significant=significant)
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"etag": tag, "cache-control": "no-cache"})
    return Response(body, media_type="application/json", headers={"etag": tag, "cache-control": "no-cache"})


@router.get("/runs/{run_id}/failures", responses=errors(404, 409, 422))
def list_failures(run: TheRun, server: TheServer) -> Failures:
    """Say what went wrong, grouped by what it said."""
    from neuroscan_farm.report.failures import failure_groups

    found = server.results.of(run)
    groups = failure_groups(found.findings, run.directory.attempts.all())
    failed = run.see().overview.tasks_failed
    return Failures(
        groups=[
            FailureRow(
                outcome=one.outcome,
                message=one.message,
                configurations=one.configurations,
                samples=one.samples,
                example=one.example,
            )
            for one in groups
        ],
        tasks_failed=failed,
        can_retry=failed > 0,
        stamp=found.stamp,
    )
