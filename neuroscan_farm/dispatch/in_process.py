"""The simplest dispatcher: a shard is run where it is sent, in this process. For tests and for debugging."""

from __future__ import annotations

from collections.abc import Callable

from neuroscan_farm.dispatch.base import Event, Refused, ShardDone, TaskStarted
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.errors import CancelledRun, NeuroscanError
from neuroscan_farm.store.run_directory import RunDirectory

ExecuteShard = Callable[[RunDirectory, str, int, Callable[[str], None]], None]


class InProcess:
    """Runs each order when it is polled, with `execute` (run, shard, attempt, on_task)."""

    def __init__(self, execute: ExecuteShard) -> None:
        self._execute = execute
        self._order: ShardOrder | None = None

    def room(self) -> int:
        """One order at a time."""
        return 0 if self._order else 1

    def in_flight(self) -> frozenset[str]:
        """The order that the next poll will carry out."""
        return frozenset({self._order.shard_id} if self._order else ())

    def send(self, order: ShardOrder) -> None:
        """Keep the order for the next poll."""
        self._order = order

    def poll(self, timeout_seconds: float) -> list[Event]:  # noqa: ARG002 - nothing to wait for
        """Carry out the order at hand."""
        if self._order is None:
            return []
        order, self._order = self._order, None
        events: list[Event] = []

        def started(task_id: str) -> None:
            events.append(TaskStarted(order.shard_id, task_id, "in-process"))

        try:
            self._execute(RunDirectory.open(order.location), order.shard_id, order.attempt, started)
        except CancelledRun:
            return events
        except NeuroscanError as error:
            return [
                *events,
                Refused(order.shard_id, "in-process", order.attempt, str(error), error.exit_code),
            ]
        return [*events, ShardDone(order.shard_id, "in-process")]

    def close(self) -> None:
        """Nothing to let go of."""
