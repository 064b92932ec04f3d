"""Submitting a run, and what a person may want of one that is there."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from neuroscan_farm.coordinator.prepare import forget_failures, wake
from neuroscan_farm.coordinator.run_lock import is_driven
from neuroscan_farm.serve.answers import errors
from neuroscan_farm.serve.models import Options, RunSummary, Submission, Submitted
from neuroscan_farm.serve.runs import LiveRun
from neuroscan_farm.serve.security import Refused
from neuroscan_farm.serve.state import Server, TheRun, TheServer
from neuroscan_farm.serve.submissions import options, submit
from neuroscan_farm.store.run_directory import RunDirectory

router = APIRouter(tags=["control"])


@router.get("/options", responses=errors())
def read_options(server: TheServer) -> Options:
    """Say what may be submitted here: analyses with their parameters, models, probes."""
    return options(server)


@router.post(
    "/runs",
    status_code=201,
    responses={
        200: {"model": Submitted, "description": "The same request is a run already."},
        **errors(409, 413, 415, 422),
    },
)
def submit_run(
    submission: Submission,
    response: Response,
    server: TheServer,
    executor: Annotated[
        Literal["auto", "farm", "local"],
        Query(description="who carries it out; auto is the farm where its broker answers, else this machine"),
    ] = "auto",
) -> Submitted:
    """Submit a request. The same request again is the same run."""
    submitted = submit(submission, server, executor=executor)
    response.status_code = 201 if submitted.created else 200
    response.headers["location"] = f"/api/v1/runs/{submitted.id}"
    return submitted


@router.post("/runs/{run_id}/pause", responses=errors(404, 409))
def pause(run: TheRun, server: TheServer) -> RunSummary:
    """Pause a run: shards in hand are finished, no other is begun."""
    for directory in _unfinished(run):
        directory.set_wanted("paused")
    server.local.dequeue(run)
    return server.summary(run)


@router.post("/runs/{run_id}/cancel", responses=errors(404, 409))
def cancel(run: TheRun, server: TheServer) -> RunSummary:
    """Cancel a run: its workers stop between two tasks; what is finished stays, and resuming goes on."""
    for directory in _unfinished(run):
        directory.set_wanted("cancelled")
    server.local.dequeue(run)
    return server.summary(run)


@router.post("/runs/{run_id}/resume", responses=errors(404, 409))
def resume(run: TheRun, server: TheServer) -> RunSummary:
    """Go on with a run that was paused, cancelled or stopped, in the way it was started: here, or on the farm."""
    _go_on(run, server, _unfinished(run))
    return server.summary(run)


@router.post("/runs/{run_id}/retry", responses=errors(404, 409))
def retry(run: TheRun, server: TheServer) -> RunSummary:
    """Measure the failed tasks of a run again, after their cause was mended; every other row stays."""
    tried = []
    for directory in run.whole():
        directory.check_versions()
        if forget_failures(directory):
            tried.append(directory)
    if not tried:
        raise Refused(409, f"run {run.id}: no task has failed; there is nothing to try again")
    _go_on(run, server, tried)
    return server.summary(run)


def _go_on(run: LiveRun, server: Server, wanted: list[RunDirectory]) -> None:
    here = False
    for directory in wanted:
        directory.check_versions()
        if directory.executor() == "celery":
            server.farm.hand_over(directory)
        elif is_driven(directory.location):
            wake(directory)
            here |= server.local.holds(run)  # it was taken out of the queue when it was paused
        else:
            directory.attempts.settle()
            directory.set_wanted("running")
            here = True
    if here:
        server.local.enqueue(run)
    server.runs.changed()


def _unfinished(run: LiveRun) -> list[RunDirectory]:
    """The run and its additions, as far as they are not finished.

    Raises:
        Refused: all of them are.
    """
    seen = run.see()
    states = [seen.overview.state, *(one.state for one in seen.additions)]
    found = [one for one, state in zip(run.whole(), states, strict=False) if state != "finished"]
    if not found:
        raise Refused(409, f"run {run.id}: it is finished already", "retry measures its failed tasks again")
    return found
