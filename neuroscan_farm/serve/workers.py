"""`/workers`: who works for the farm, and what this machine carries out itself."""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.responses import StreamingResponse

from neuroscan_farm.dispatch.farm_records import Presence
from neuroscan_farm.serve.answers import EVENTS, errors
from neuroscan_farm.serve.events import of_the_workers, stream
from neuroscan_farm.serve.models import Drained, LocalWork, WorkerRow, Workers
from neuroscan_farm.serve.security import Refused
from neuroscan_farm.serve.state import Server, TheServer

router = APIRouter(tags=["workers"])


@router.get("/workers", responses=errors(503))
def read_workers(server: TheServer) -> Workers:
    """Say who works for the farm, as the broker told a moment ago."""
    return workers_of(server)


@router.get("/workers/events", responses=EVENTS, response_class=StreamingResponse)
def worker_events(server: TheServer) -> StreamingResponse:
    """Tell of workers as they come, work and go."""
    return stream(server, of_the_workers(server))


@router.post("/workers/{name}/drain", responses=errors(404, 503))
def drain(name: str, server: TheServer, undo: bool = False) -> Drained:
    """Let a worker finish its shard and leave; `undo` takes that back while it is still there.

    Workers are known to the broker alone: where it is out of reach, or there is none, the answer is 503, and nothing is
    kept for later.
    """
    broker = server.farm.broker()
    if name not in {worker.name for worker in broker.present()}:
        raise Refused(
            404, f"worker {name[:100]!r}: there is none of this name", "GET /api/v1/workers lists them"
        )
    broker.want_drained(name, drained=not undo)
    server.farm.look()
    return Drained(name=name, draining=not undo)


def workers_of(server: Server) -> Workers:
    """Say how farm and machine stand."""
    farm = server.farm.seen
    ids = {run.run_id: run.id for run, _ in server.runs.listing().runs.values()}
    return Workers(
        broker="up" if farm.reachable else "away",
        says=farm.says,
        workers=[
            _row(one, ids, draining=one.name in farm.draining, ahead=farm.clock_ahead.get(one.name, 0.0))
            for one in farm.workers
        ],
        local=LocalWork(running=server.local.running(), queue=server.local.queue()),
    )


def _row(worker: Presence, ids: dict[str, str], *, draining: bool, ahead: float) -> WorkerRow:
    now = time.time() + ahead  # by the worker's own clock, which its times are of
    return WorkerRow(
        name=worker.name,
        host=worker.host,
        device=worker.device,
        state=worker.state,
        draining=draining or worker.state == "draining",
        run=None if worker.run_id is None else ids.get(worker.run_id, worker.run_id),
        shard=worker.shard_id,
        task=worker.task_id,
        busy_seconds=None if worker.since is None else max(now - worker.since, 0.0),
        model=worker.model,
        memory_mb=worker.memory_mb,
        heartbeat_age=worker.heartbeat_age,
        up_seconds=max(now - worker.started, 0.0) if worker.started else None,
        version=worker.version,
    )
