"""What is taken out of a run: rows, exports, checkpoints; and two runs side by side."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.paths import LayerPath, parse_blocks
from neuroscan_farm.errors import RequestError
from neuroscan_farm.serve.answers import errors, errors_beside
from neuroscan_farm.serve.result_models import Comparison, Job, Jobs, Materialize, RowsPage
from neuroscan_farm.serve.rows import ARROW, CSV, MOST_AS_JSON, arrow_bytes, csv_bytes, rows_page, some_rows
from neuroscan_farm.serve.runs import LiveRun
from neuroscan_farm.serve.security import Refused
from neuroscan_farm.serve.state import Server, TheRun, TheServer

router = APIRouter(tags=["results"])
ExportName = Literal["mergekit", "exl3-layer-map", "csv", "json"]
_TYPES = {
    "mergekit": ("application/yaml", "mergekit.yaml"),
    "exl3-layer-map": ("text/plain; charset=utf-8", "layer-map.txt"),
    "csv": ("text/csv; charset=utf-8", "configurations.csv"),
    "json": ("application/json", "configurations.json"),
}
_TEXT: dict[str, Any] = {"schema": {"type": "string"}}
_BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
MetricQuery = Annotated[Metric | None, Query(description="rank by this metric instead of the request's")]


@router.get(
    "/runs/{run_id}/rows",
    response_model=RowsPage,
    responses={200: {"content": {ARROW: _BYTES, CSV: _TEXT}}, **errors(404, 406, 409, 422)},
)
def read_rows(
    request: Request,
    run: TheRun,
    format: Annotated[
        Literal["json", "arrow", "csv"] | None,
        Query(description="default is what Accept asks for, else JSON"),
    ] = None,
    probe: Annotated[str | None, Query(max_length=200)] = None,
    outcome: Annotated[Outcome | None, Query()] = None,
    task: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[
        int, Query(ge=1, le=1_000_000, description="of JSON at most 10,000 come at once")
    ] = 1000,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> Any:
    """Return measured rows, ordered by task, probe and sample; `X-Total-Count` says how many fit the filters."""
    chosen = format or _asked_for(request.headers.get("accept"))
    stamp = run.see().rows_stamp
    limit = min(limit, MOST_AS_JSON) if chosen == "json" else limit
    piece, total = some_rows(run, probe=probe, outcome=outcome, task=task, limit=limit, offset=offset)
    if chosen == "json":
        page = rows_page(piece, total=total, limit=limit, offset=offset, stamp=stamp)
        return Response(page, media_type="application/json", headers=_total(total))
    body = arrow_bytes(piece) if chosen == "arrow" else csv_bytes(piece)
    name = f"{run.id}.rows.{chosen}"
    headers = _total(total) | {"content-disposition": _attachment(name)}
    return Response(body, media_type=ARROW if chosen == "arrow" else CSV, headers=headers)


@router.get(
    "/runs/{run_id}/exports/{format}",
    responses={
        200: {
            "description": "The file.",
            "content": {
                "application/yaml": {"schema": {"type": "object"}},
                "application/json": {"schema": {"type": "object"}},
                "text/plain": _TEXT,
                "text/csv": _TEXT,
            },
        },
        **errors_beside(404, 409, 422),
    },
    response_class=Response,
)
def read_export(
    run: TheRun,
    server: TheServer,
    format: ExportName,
    path: Annotated[str | None, Query(max_length=20_000, description="this order, as 0..15,11..31")] = None,
    block: Annotated[str | None, Query(max_length=2000, description="this block, as I,J or I,J;K,L")] = None,
    top: Annotated[
        int | None, Query(ge=1, le=1_000_000, description="the configuration of this rank")
    ] = None,
    metric: MetricQuery = None,
) -> Response:
    """Return a configuration as mergekit YAML or exllamav3 layer map, or all as CSV or JSON, as a file to keep."""
    from neuroscan_farm.report.export import export_of

    chosen = _chosen(run, path=path, block=block, top=top)
    findings = server.results.of(run, metric).findings
    text = export_of(findings, format=format, path=chosen, top=top or 1)
    kind, ending = _TYPES[format]
    return Response(text, media_type=kind, headers={"content-disposition": _attachment(f"{run.id}.{ending}")})


@router.post(
    "/runs/{run_id}/materialize",
    status_code=202,
    responses={
        200: {"model": Job, "description": "It is written already, or being written."},
        **errors(404, 409, 413, 415, 422),
    },
)
def materialize(run: TheRun, server: TheServer, asked: Materialize, response: Response) -> Job:
    """Write a configuration as a checkpoint, into the folder that the server was given for that."""
    from neuroscan_farm.report.export import configuration_of_rank

    path = _chosen(run, path=asked.path, block=asked.block, top=asked.top)
    if path is None and asked.top is None:
        raise RequestError("path, block and top each name a configuration; give one of them")
    if path is None:
        path = configuration_of_rank(server.results.of(run).findings, asked.top or 1).path
    path.check_depth(run.directory.manifest.depth)
    path.require_whole("a checkpoint")
    job, new = server.jobs.start(run, path)
    response.status_code = 202 if new else 200
    response.headers["location"] = f"/api/v1/runs/{run.id}/materialize/{job.id}"
    return job


@router.get("/runs/{run_id}/materialize", responses=errors(404, 409))
def list_jobs(run: TheRun, server: TheServer) -> Jobs:
    """List the checkpoints of a run that were asked for."""
    return Jobs(jobs=server.jobs.of(run))


@router.get("/runs/{run_id}/materialize/{job_id}", responses=errors(404, 409))
def read_job(run: TheRun, server: TheServer, job_id: str) -> Job:
    """Say how the writing of a checkpoint stands."""
    job = server.jobs.job(job_id)
    if job is None or job.run != run.id:
        raise Refused(404, f"job {job_id[:100]!r}: this run has none of this id")
    return job


@router.get("/compare", responses=errors(404, 409, 422))
def compare(
    server: TheServer,
    a: Annotated[str, Query(max_length=255, description="a run's id")],
    b: Annotated[str, Query(max_length=255, description="another run's id")],
    metric: MetricQuery = None,
    top: Annotated[int, Query(ge=1, le=1000, description="how many of each run's best the text has")] = 10,
) -> Comparison:
    """Compare two runs: the same configurations side by side, by share of depth where the models differ in it."""
    from neuroscan_farm.report.compare import compare_runs, comparison_dict, comparison_text

    first, second = (_findings(server, name, metric) for name in (a, b))
    seen = compare_runs(first, second)
    return Comparison(**comparison_dict(seen), text=comparison_text(seen, count=top))


def _findings(server: Server, name: str, metric: Metric | None) -> Any:
    return server.results.of(server.runs.find(name), metric).findings


def _asked_for(accept: str | None) -> Literal["json", "arrow", "csv"]:
    """The first of our formats that a client takes, in the order in which it names them."""
    if accept is None:
        return "json"
    known: dict[str, Literal["json", "arrow", "csv"]] = {
        "application/json": "json", "*/*": "json", "application/*": "json", "text/html": "json", ARROW: "arrow",
        CSV: "csv", "text/*": "csv",
    }  # fmt: skip
    for piece in accept.split(","):
        kind = piece.partition(";")[0].strip().lower()
        if kind in known:
            return known[kind]
    raise Refused(406, f"Accept is {accept[:200]!r}; there are application/json, {ARROW} and {CSV}")


def _chosen(run: LiveRun, *, path: str | None, block: str | None, top: int | None) -> LayerPath | None:
    if sum(named is not None for named in (path, block, top)) > 1:
        raise RequestError("path, block and top each name a configuration; give one of them")
    if block is not None:
        return LayerPath.duplicating(parse_blocks(block), run.directory.manifest.depth)
    return LayerPath.parse(path) if path is not None else None


def _total(count: int) -> dict[str, str]:
    return {"x-total-count": str(count)}


def _attachment(name: str) -> str:
    plain = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in name
    )
    return f'attachment; filename="{plain}"'
