"""The local executor: no broker, one spawned child process per device set, a pipe to each.

A child that dies is noticed at once by its pipe and replaced; its shard is simply not done yet. When this process
dies, the kernel kills its children (where the kernel can), and their pipes end (everywhere).
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from neuroscan_farm.dispatch.base import Event, Refused, ShardDone, TaskStarted, WorkerDied
from neuroscan_farm.dispatch.devices import DeviceSet
from neuroscan_farm.dispatch.local_child import ChildSettings, child_main
from neuroscan_farm.dispatch.wire import ShardOrder

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Child:
    name: str
    device_set: DeviceSet
    process: BaseProcess
    pipe: Connection
    order: ShardOrder | None = None
    task_id: str | None = None


class LocalExecutor:
    """Keeps one child per device set, and gives each one shard at a time."""

    def __init__(
        self,
        device_sets: Sequence[DeviceSet],
        *,
        cache_dir: Path,
        cache_bytes: int,
        log_level: str = "WARNING",
    ) -> None:
        """Start the children; they load nothing until their first shard.

        Args:
            device_sets: what each child may use.
            cache_dir: the machine's cache of boundaries.
            cache_bytes: most bytes kept there.
            log_level: of the children's logs, which go to stderr.
        """
        self._context = multiprocessing.get_context("spawn")
        self._cache_dir = cache_dir
        self._cache_bytes = cache_bytes
        self._log_level = log_level
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
        """The children's process ids by name, for `status` and for tests that kill them."""
        return {child.name: child.process.pid for child in self._children}

    def send(self, order: ShardOrder) -> None:
        """Give the order to an idle child; if that one is just dying, the next poll reports it."""
        child = next(child for child in self._children if child.order is None)
        child.order, child.task_id = order, None
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
        return events

    def close(self) -> None:
        """End the children at once; a shard that they had not finished is not done yet, and nothing else is lost."""
        for child in self._children:
            child.process.kill()
        for child in self._children:
            child.process.join()
            child.pipe.close()
            child.process.close()
        self._children = []

    def _drain(self, child: _Child, events: list[Event]) -> bool:
        """Read all that the child said; return False at the end of its pipe, which is also what a death looks like."""
        try:
            while child.pipe.poll():
                self._hear(child, child.pipe.recv(), events)
        except (EOFError, OSError):
            return False
        return True

    def _hear(self, child: _Child, message: tuple[str, ...], events: list[Event]) -> None:
        order = child.order
        if order is None:
            return
        match message:
            case ("task", task_id):
                child.task_id = task_id
                events.append(TaskStarted(order.shard_id, task_id, child.name))
            case ("done",):
                child.order = None
                events.append(ShardDone(order.shard_id, child.name))
            case ("dropped",):
                child.order = None
            case ("refused", error, exit_code):
                child.order = None
                events.append(Refused(order.shard_id, child.name, order.attempt, error, int(exit_code)))
            case ("failed", error):
                child.order = None
                events.append(WorkerDied(order.shard_id, child.task_id, child.name, order.attempt, error))

    def _replace(self, child: _Child, events: list[Event]) -> _Child:
        child.process.join()
        code = child.process.exitcode
        if child.order is not None:
            error = (
                f"killed by signal {-code}" if code is not None and code < 0 else f"exited with code {code}"
            )
            events.append(
                WorkerDied(child.order.shard_id, child.task_id, child.name, child.order.attempt, error)
            )
        child.pipe.close()
        child.process.close()
        log.warning("worker %s ended (code %s); starting another", child.name, code)
        return self._start(child.name, child.device_set)

    def _start(self, name: str, device_set: DeviceSet) -> _Child:
        ours, theirs = self._context.Pipe()
        settings = ChildSettings(name, device_set, self._cache_dir, self._cache_bytes, self._log_level)
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
