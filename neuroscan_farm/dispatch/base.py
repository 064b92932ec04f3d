"""The contract of a dispatcher, in prose and as a protocol; one test suite runs against every implementation.

A dispatcher carries orders to workers and brings back what happened. It promises little: an order may be lost, or
be carried out twice. What makes a shard finished is its part in the run directory and nothing that a dispatcher
says. It does promise that a worker's death is reported (`WorkerDied`) and that a worker's refusal is (`Refused`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from neuroscan_farm.dispatch.wire import ShardOrder


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """A worker began a task."""

    shard_id: str
    task_id: str
    worker: str


@dataclass(frozen=True, slots=True)
class ShardDone:
    """A worker says that it committed a shard's part, or found it there."""

    shard_id: str
    worker: str


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker vanished with a shard in its hands."""

    shard_id: str
    task_id: str | None  # what it was doing; None while it was still loading the model
    worker: str
    attempt: int
    error: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker cannot work on this run at all: no model, a failed gate, a full disk. Another try would end the same."""

    shard_id: str
    worker: str
    attempt: int
    error: str  # the message for the user
    exit_code: int


Event = TaskStarted | ShardDone | WorkerDied | Refused


class Dispatcher(Protocol):
    """Carries the orders of one run to its workers."""

    def room(self) -> int:
        """How many more orders may be sent now."""
        ...

    def in_flight(self) -> frozenset[str]:
        """The shards that are queued or in a worker's hands."""
        ...

    def send(self, order: ShardOrder) -> None:
        """Hand an order on.

        Raises:
            BrokerError: the broker is out of reach.
        """
        ...

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Return what happened since the last call, waiting at most `timeout_seconds` for something to happen.

        Raises:
            BrokerError: the broker is out of reach.
            WorkerError: no worker can be started.
        """
        ...

    def close(self) -> None:
        """Let go of the workers. What they have not finished is not lost: it is simply not done yet."""
        ...
