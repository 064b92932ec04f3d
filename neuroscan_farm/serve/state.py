"""What all requests of one server share, and how a run becomes what the API says of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, cast

from fastapi import Depends, Request

from neuroscan_farm.coordinator.overview import Overview
from neuroscan_farm.errors import NeuroscanError
from neuroscan_farm.serve.config import ServeConfig
from neuroscan_farm.serve.farm import Farm, FarmSeen
from neuroscan_farm.serve.forgotten import Forgotten
from neuroscan_farm.serve.local_work import LocalWork, is_waiting
from neuroscan_farm.serve.models import Addition, Executor, RunSummary, State
from neuroscan_farm.serve.results import Results
from neuroscan_farm.serve.runs import LiveRun, Runs, Seen

if TYPE_CHECKING:
    from neuroscan_farm.serve.jobs import Jobs

log = logging.getLogger(__name__)
_GOES_ON = {"running", "queued", "paused", "stopped"}


class Server:
    """The parts of one server. Everything here can be lost: it is read again from the run directories."""

    def __init__(self, config: ServeConfig) -> None:
        from neuroscan_farm.serve.jobs import Jobs

        self.config = config
        self.runs = Runs(config.runs_dir)
        self.results = Results()
        self.farm = Farm(config)
        self.forgotten = Forgotten(self.runs, self.farm)
        self.local = LocalWork(self.runs, config.cache_dir / "serve")
        self.jobs: Jobs = Jobs(config)
        self.submitting = threading.Lock()
        self.stopping: Callable[[], bool] = lambda: False  # asked by streams, which would go on for ever

    def start(self) -> None:
        """Begin to look at the farm, and to carry out what waits."""
        import neuroscan_farm.report.findings  # noqa: F401  half a second of imports, before somebody waits for them

        self.farm.start()
        self.forgotten.start()
        self.local.start()
        threading.Thread(target=self._look_ahead, name="look-ahead", daemon=True).start()

    def close(self) -> None:
        """Stop in order."""
        self.local.close()
        self.jobs.close()
        self.forgotten.close()
        self.farm.close()
        self.results.close()
        self.runs.close()

    def _look_ahead(self) -> None:
        """Read what the list of runs takes before somebody asks for it."""
        try:
            for run, seen in self.runs.listing().runs.values():
                self.results.best(run, seen)
        except NeuroscanError as error:
            log.warning("the runs cannot be listed: %s", error)

    def state(self, run: LiveRun, seen: Seen) -> State:
        """The state of a run."""
        return state_of(seen.overview, seen, self.farm.seen, run.run_id)

    def summary(self, run: LiveRun, seen: Seen | None = None) -> RunSummary:
        """Say how a run stands now.

        Raises:
            NeuroscanError: its plan is damaged, or the store failed.
        """
        seen = seen or run.see()
        farm, overview, manifest = self.farm.seen, seen.overview, run.directory.manifest
        state = self.state(run, seen)
        best, no_best = self.results.best(run, seen)
        return RunSummary(
            id=run.id,
            run_id=run.run_id,
            state=state,
            says=self._says(run, seen, state),
            executor=executor_of(overview),
            tasks=overview.tasks,
            tasks_finished=overview.tasks_finished,
            tasks_failed=overview.tasks_failed,
            share=overview.tasks_finished / overview.tasks if overview.tasks else 0.0,
            plan_complete=overview.plan_complete,
            tasks_per_minute=overview.tasks_per_minute,
            eta_seconds=overview.eta_seconds if state in _GOES_ON else None,
            workers=[one.name for one in farm.workers if one.run_id == run.run_id],
            deaths=overview.deaths,
            refusal=overview.refusal,
            priority=overview.priority,
            can=_can(state, seen),
            stamp=f"{seen.stamp}-{state}",
            rows_stamp=seen.rows_stamp,
            model=manifest.model_name,
            depth=manifest.depth,
            analysis=manifest.analysis,
            probes=[*manifest.probes, *(probe for one in seen.additions for probe in one.probes)],
            metric=run.metric.value,
            created=manifest.created,
            best=best,
            no_best=no_best,
        )

    def _says(self, run: LiveRun, seen: Seen, state: State) -> str | None:
        overview, farm = seen.overview, self.farm.seen
        if state == "refused":
            return overview.refusal
        if seen.waiting is not None and seen.waiting.error is not None and state == "stopped":
            return f"this machine could not carry it out: {seen.waiting.error}"
        if overview.executor == "celery" and state in _GOES_ON:
            if not farm.reachable:
                return f"nobody knows who works on it: {farm.says}"
            if state == "stopped":
                return self.forgotten.says(run.directory)
            if state == "queued" and not farm.workers:
                return "no worker is on the farm yet; start one with `neuroscan-farm worker`"
            return None
        if state == "queued":
            queue = self.local.queue()
            before = queue.index(run.id) if run.id in queue else 0
            return "waits for this machine" + (f"; {before} before it" if before else ", and is next")
        if state == "stopped":
            return "nobody carries it out; resume it"
        return None


def state_of(overview: Overview, seen: Seen, farm: FarmSeen, run_id: str) -> State:
    """The state of a run as its directory, the broker and this machine's queue tell it together."""
    if overview.executor == "celery" and overview.state == "queued" and farm.reachable:
        if any(one.run_id == run_id for one in farm.workers):
            return "running"
        return "queued" if run_id in farm.registered else "stopped"
    if seen.waiting is not None and seen.waiting.error is None and is_waiting(seen):
        return "queued"
    return cast(State, overview.state)


def executor_of(overview: Overview) -> Executor:
    """Who carries a run out."""
    return "farm" if overview.executor == "celery" else "local"


def addition_of(overview: Overview) -> Addition:
    """An addition as the API says it."""
    return Addition(
        run_id=overview.run_id,
        probes=overview.probes,
        state=cast(State, overview.state),
        tasks=overview.tasks,
        tasks_finished=overview.tasks_finished,
        tasks_failed=overview.tasks_failed,
    )


def _can(state: State, seen: Seen) -> list[Literal["pause", "cancel", "resume", "retry"]]:
    found: list[Literal["pause", "cancel", "resume", "retry"]] = []
    if state in {"running", "queued"}:
        found.append("pause")
    if state in {"running", "queued", "paused", "stopped", "refused"}:
        found.append("cancel")
    unfinished = any(one.state != "finished" for one in seen.additions)
    if state in {"paused", "stopped", "cancelled", "refused"} or (state == "finished" and unfinished):
        found.append("resume")
    if seen.overview.tasks_failed or any(one.tasks_failed for one in seen.additions):
        found.append("retry")
    return found


def server_of(request: Request) -> Server:
    """The server that a request reached."""
    server: Server = request.app.state.server
    return server


TheServer = Annotated[Server, Depends(server_of)]


def the_run(run_id: str, server: TheServer) -> LiveRun:
    """The run that a path names."""
    return server.runs.find(run_id)


TheRun = Annotated[LiveRun, Depends(the_run)]
