"""Server-sent events: what changed, told to whoever listens, for as long as they do.

Nothing is queued and nothing can be missed: each event says how things stand now, so a listener that comes back needs
no event from before, whatever `Last-Event-ID` it names.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
from starlette.responses import StreamingResponse

from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.errors import NeuroscanError
from neuroscan_farm.logs import without_secrets
from neuroscan_farm.serve.runs import LiveRun
from neuroscan_farm.serve.state import Server

_RETRY_MILLISECONDS = 1000  # after which a browser asks again
_MOST_TOLD = 50  # runs in one event of the list; a client asks for the list when there are more


class Event(NamedTuple):
    """One event; `stamp` is its id."""

    name: str
    stamp: str
    data: dict[str, Any]

    def encoded(self) -> bytes:
        """The event as it is sent: JSON has no line breaks, so it is one line of data."""
        return f"event: {self.name}\nid: {self.stamp}\ndata: {json.dumps(self.data)}\n\n".encode()


def stream(server: Server, look: Callable[[], Event | None]) -> StreamingResponse:
    """Answer with events: `look` says how things stand, and what it says is sent when its stamp is another."""
    response = StreamingResponse(_events(server, look), media_type="text/event-stream")
    response.headers["cache-control"] = "no-store"
    response.headers["x-accel-buffering"] = "no"  # a proxy in between must not collect them
    return response


async def _events(server: Server, look: Callable[[], Event | None]) -> AsyncIterator[bytes]:
    yield f"retry: {_RETRY_MILLISECONDS}\n\n".encode()
    said, spoke = None, time.monotonic()
    while not server.stopping():
        event = await anyio.to_thread.run_sync(look)
        if event is not None and event.stamp != said:
            said, spoke = event.stamp, time.monotonic()
            yield event.encoded()
            if event.name == "gone":
                return
        elif time.monotonic() - spoke > server.config.beat_seconds:
            spoke = time.monotonic()
            yield b": still here\n\n"
        await anyio.sleep(server.config.poll_seconds)


def of_a_run(server: Server, run: LiveRun) -> Callable[[], Event | None]:
    """Look at one run: `run` says how it stands, `trouble` why it cannot be read, `gone` that it is there no more."""
    failed = ""

    def look() -> Event | None:
        nonlocal failed
        before, failed = failed, ""
        try:
            summary = server.summary(server.runs.find(run.id))
        except NeuroscanError as error:
            try:
                there = server.runs.is_there(run.id)
            except NeuroscanError:
                there = True  # nobody can know: the store is out of reach
            if not there:
                return Event("gone", "gone", {"id": run.id, "error": without_secrets(str(error))})
            failed = without_secrets(str(error))
            if failed != before:  # a store that is out of reach for a moment, or a file that is just put back
                return None
            return Event("trouble", content_digest(failed, length=16), {"id": run.id, "error": failed})
        data = summary.model_dump(mode="json")
        best = "" if summary.best is None else str(summary.best.effect)
        return Event("run", f"{summary.stamp}-{best}-{'.'.join(summary.workers)}", data)

    return look


def of_all_runs(server: Server) -> Callable[[], Event | None]:
    """Look at the list: `runs` says which changed since the last event of this stream, and which are gone."""
    before: dict[str, str] = {}
    first = True

    def look() -> Event | None:
        nonlocal before, first
        try:
            listing = server.runs.listing()
        except NeuroscanError:
            return None
        summaries, stamps = {}, {}
        for name, (run, seen) in listing.runs.items():
            try:
                summaries[name] = server.summary(run, seen)
            except NeuroscanError:
                continue
            best = summaries[name].best
            stamps[name] = f"{summaries[name].stamp}-{None if best is None else best.effect}"
        changed = [name for name, stamp in stamps.items() if before.get(name) != stamp]
        removed = [name for name in before if name not in stamps]
        if not (first or changed or removed):
            return None
        told = [] if first else [summaries[name].model_dump(mode="json") for name in changed[:_MOST_TOLD]]
        data = {
            "stamp": listing.stamp,
            "changed": [] if first else changed,
            "removed": removed,
            "runs": told,
            "total": len(stamps),
        }
        stamp = f"{listing.stamp}-{time.time():.3f}"
        before, first = stamps, False
        return Event("runs", stamp, data)

    return look


def of_the_workers(server: Server) -> Callable[[], Event | None]:
    """Look at the farm: `workers` says who is there."""
    from neuroscan_farm.serve.workers import workers_of

    def look() -> Event | None:
        found = workers_of(server)
        data = found.model_dump(mode="json")
        telling = [
            (one.name, one.state, one.run, one.shard, one.task, one.draining, one.model)
            for one in found.workers
        ]
        said = [found.says, found.local.running, found.local.queue, telling]
        return Event("workers", content_digest(said, length=16), data)

    return look
