"""The local executor: no broker, one spawned child process per device set, a pipe to each.

A child that dies is noticed at once by its pipe and replaced; its shard is simply not done yet. One that says nothing
for longer than its order allows is hung: it is killed. When this process dies, the kernel kills its children (where
the kernel can), and their pipes end (everywhere). What goes through the pipes is JSON.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from neuroscan_farm.dispatch.base import Event, Refused, ShardDone, TaskStarted, WorkerDied
from neuroscan_farm.dispatch.devices import DeviceSet
from neuroscan_farm.dispatch.local_child import ChildSettings, child_main, hear
from neuroscan_farm.dispatch.places_here import PlacesHere
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.logs import LogFormat

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Child:
    name: str
    device_set: DeviceSet
    process: BaseProcess
    pipe: Connection
    order: ShardOrder | None = None
    task_id: str | None = None
    heard: float = 0.0  # when it last said something, or was given its order, by time.monotonic
    hung: float | None = None  # it was killed because it said nothing for so many seconds


class LocalExecutor:
    """Keeps one child per device set, and gives each one shard at a time."""

    def __init__(
        self,
        device_sets: Sequence[DeviceSet],
        *,
        cache_dir: Path,
        cache_bytes: int,
        log_level: str = "WARNING",
        log_format: LogFormat = "text",
        places: PlacesHere | None = None,
    ) -> None:
        """Start the children; they load nothing until their first shard.

        Args:
            device_sets: what each child may use.
            cache_dir: the machine's cache of boundaries.
            cache_bytes: most bytes kept there.
            log_level: of the children's logs, which go to stderr.
            log_format: of the same: "text" or "json".
            places: where models of other machines are on this one; a run of this machine is not confined.
        """
        self._context = multiprocessing.get_context("spawn")
        self._cache_dir = cache_dir
        self._cache_bytes = cache_bytes
        self._log_level = log_level
        self._log_format = log_format
        self._places = places or PlacesHere()
        self._children = [
            self._start(f"local-{index}", device_set) for index, device_set in enumerate(device_sets)
        ]

    def room(self) -> int:
        """One shard per idle child."""
        return sum(child.order is None for child in self._children)

    def in_flight(self) -> frozenset[str]:
        """The shards that children are working on."""
        return frozenset(child.order.shard_id for child in self._children if child.order is not None)

    def process_ids(self) -> dict[str, int | None]:
        """The children's process ids by name, for tests that kill them."""
        return {child.name: child.process.pid for child in self._children}

    def send(self, order: ShardOrder) -> None:
        """Give the order to an idle child; if that one is just dying, the next poll reports it."""
        child = next(child for child in self._children if child.order is None)
        child.order, child.task_id, child.heard = order, None, time.monotonic()
        with contextlib.suppress(OSError):
            child.pipe.send_bytes(order.model_dump_json().encode())

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Return what the children reported, waiting at most `timeout_seconds` for the first word."""
        waitables = [child.pipe for child in self._children]
        ready = set(multiprocessing.connection.wait(waitables, timeout_seconds))
        events: list[Event] = []
        for index, child in enumerate(self._children):
            if child.pipe in ready and not self._drain(child, events):
                self._children[index] = self._replace(child, events)
        self._kill_hung()
        return events

    def close(self, *, grace_seconds: float = 0.0) -> None:
        """End the children; a shard that they had not finished is not done yet, and nothing else is lost.

        Args:
            grace_seconds: how long they may take to commit the tasks of their shards that are finished.
        """
        try:
            if grace_seconds > 0:
                self._hand_back(grace_seconds)
        finally:  # also when the user does not want to wait
            for child in self._children:
                child.process.kill()
            for child in self._children:
                child.process.join()
                child.pipe.close()
                child.process.close()
            self._children = []

    def _hand_back(self, grace_seconds: float) -> None:
        until = time.monotonic() + grace_seconds
        busy = [child for child in self._children if child.order is not None]
        for child in busy:
            child.process.terminate()
        while busy and (left := until - time.monotonic()) > 0:
            ready = set(multiprocessing.connection.wait([child.pipe for child in busy], left))
            busy = [
                child
                for child in busy
                if child.pipe not in ready or (self._drain(child, []) and child.order is not None)
            ]

    def _kill_hung(self) -> None:
        """Kill the children that said nothing for longer than their orders allow; their pipes end, and tell of it."""
        now = time.monotonic()
        for child in self._children:
            if child.order is None or child.hung is not None:
                continue
            limit = child.order.limit_at(child.task_id)
            if now - child.heard > limit:
                child.hung = limit
                child.process.kill()

    def _drain(self, child: _Child, events: list[Event]) -> bool:
        """Read all that the child said; return False at the end of its pipe, which is also what a death looks like."""
        try:
            while child.pipe.poll():
                child.heard = time.monotonic()
                self._hear(child, hear(child.pipe), events)
        except (EOFError, OSError):
            return False
        except ValueError as error:
            log.error("worker %s: %s; it is replaced", child.name, error)
            child.process.kill()
            return False
        return True

    def _hear(self, child: _Child, words: list[str], events: list[Event]) -> None:
        order = child.order
        if order is None:
            return
        match words:
            case ["task", task_id]:
                child.task_id = task_id
                events.append(TaskStarted(order.shard_id, task_id, child.name))
            case ["done"]:
                child.order = None
                events.append(ShardDone(order.shard_id, child.name))
            case ["dropped"]:
                child.order = None
            case ["refused", error, exit_code]:
                child.order = None
                events.append(Refused(order.shard_id, child.name, order.attempt, error, int(exit_code)))
            case ["failed", error]:
                child.order = None
                events.append(WorkerDied(order.shard_id, child.task_id, child.name, order.attempt, error))

    def _replace(self, child: _Child, events: list[Event]) -> _Child:
        child.process.join()
        code = child.process.exitcode
        if child.order is not None:
            if child.hung is not None:
                error = f"hung: no progress for {child.hung:g} s"
            elif code is not None and code < 0:
                error = f"killed by signal {-code}"
            else:
                error = f"exited with code {code}"
            events.append(
                WorkerDied(child.order.shard_id, child.task_id, child.name, child.order.attempt, error)
            )
        child.pipe.close()
        child.process.close()
        log.warning("worker %s ended (code %s); starting another", child.name, code)
        return self._start(child.name, child.device_set)

    def _start(self, name: str, device_set: DeviceSet) -> _Child:
        ours, theirs = self._context.Pipe()
        settings = ChildSettings(
            name,
            device_set,
            self._cache_dir,
            self._cache_bytes,
            self._log_level,
            self._log_format,
            self._places,
        )
        process = self._context.Process(target=child_main, args=(theirs, settings), name=name, daemon=True)
        with (
            _interrupts_ignored()
        ):  # a child inherits that, so that Ctrl-C is ours alone from its first moment
            process.start()
        theirs.close()  # so that the pipe ends when the child does
        return _Child(name, device_set, process, ours)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C for a moment; only the main thread may, and only it is interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
