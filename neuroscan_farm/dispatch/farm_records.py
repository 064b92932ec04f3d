"""What the farm says of itself on its broker: who runs what, who died of what, who is there. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Timings:
    """How patient the farm is, in seconds; tests are less patient."""

    claim_ttl: float = 30.0  # a worker that says nothing for so long is dead
    beat: float = 5.0  # how often a worker says that it lives
    presence_ttl: float = 15.0  # a worker that says nothing for so long is not listed
    lost_after: float = 10.0  # an order that is neither queued nor claimed for so long is sent again
    lease_ttl: float = 5.0  # a reconciler that says nothing for so long is replaced
    reconcile: float = 1.0  # how often a reconciler looks
    storage_pause: float = 60.0  # a worker whose store failed is asked again after so long
    patience: float = 600.0  # a worker holds on to one model for so long while orders for others wait


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run in the farm's care."""

    location: str  # a path or a URL, as the submitter writes it
    model: str  # the model's fingerprint, which names the queue
    model_name: str = ""  # for `status`


@dataclass(frozen=True, slots=True)
class Running:
    """A shard in a worker's hands, as its worker last described it."""

    shard_id: str
    token: str
    worker: str
    host: str
    pid: int  # of the process that measures
    attempt: int
    task_id: str | None  # None until the first task: the model is being loaded
    since: float  # when the shard was claimed, seconds since 1970 by the worker's clock
    progressed: float = 0.0  # when something was last done for it, by the same clock
    limit_seconds: float = 0.0  # no progress for so long is hung; 0 is no limit


@dataclass(frozen=True, slots=True)
class Report:
    """Something that went wrong with a shard: its worker is gone, failed on a task, or refuses the run."""

    shard_id: str
    worker: str
    attempt: int
    task_id: str | None
    error: str
    exit_code: int | None  # of a refusal; None for a death or a failure
    passing: bool = False  # a refusal that may mend itself: the disk is full, the store is away


@dataclass(frozen=True, slots=True)
class Refusal:
    """A worker that cannot do a run; it is not asked again until the run is woken, or the worker started anew."""

    worker: str
    shard_id: str
    attempt: int
    error: str
    exit_code: int
    at: float  # the broker's clock
    passing: bool = False  # the store failed: the worker is asked again after a while


@dataclass(frozen=True, slots=True)
class Presence:
    """A worker of the farm, as `status` and `watch` show it."""

    name: str
    host: str
    pid: int  # of the worker's main process
    device: str
    state: str  # "ready", "draining" or "leaving"
    started: float  # seconds since 1970 by the worker's clock
    run_id: str | None = None  # what it works on; None while it waits
    shard_id: str | None = None
    task_id: str | None = None
    since: float | None = None  # when it began with the shard
    model: str | None = (
        None  # name and fingerprint of the model that it was last given; None before the first order
    )
    memory_mb: int | None = None  # of the process that measures (resident)
    heartbeat_age: float = 0.0  # seconds since it last said so, by the broker's clock
    clock: float = 0.0  # its own clock when it said so, seconds since 1970; 0 is unknown
    version: str = ""  # of this program
    timings: str = ""  # a digest of its `Timings`: all workers of a farm should have the same


@dataclass(frozen=True, slots=True)
class RunState:
    """What the broker holds of one run."""

    queued: frozenset[str]  # shards whose order waits in the queue
    running: tuple[Running, ...]  # shards in a worker's hands, or that were when it died
    claimed: frozenset[str]  # those of them whose claim holds
    sent: Mapping[
        str, float
    ]  # shards with an order that nobody has claimed, and when it was last seen in the queue
    reports: tuple[
        tuple[str, Report], ...
    ]  # what went wrong and is not settled, with the receipt that settles it
    refusals: Mapping[str, Refusal]  # worker -> why it cannot do the run


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the broker holds of a farm at one moment."""

    now: float  # the broker's clock
    epoch: str  # another one than before says that the broker was wiped
    runs: Mapping[str, RunEntry]
    workers: tuple[Presence, ...]
    states: Mapping[str, RunState]


class Ended(NamedTuple):
    """How a run ended: "finished", "cancelled", "refused" or "error"."""

    state: str
    reason: str | None
    exit_code: int


class OrderName(NamedTuple):
    """The name of an order's message, by which it is recognised while it waits in the queue."""

    run_id: str
    shard_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.run_id}/{self.shard_id}/{self.attempt}"

    @classmethod
    def read(cls, name: str) -> OrderName | None:
        """Read a name back; None where it is not one of ours."""
        run_id, _, rest = name.partition("/")
        shard_id, _, attempt = rest.partition("/")
        return cls(run_id, shard_id, int(attempt)) if attempt.isdecimal() and shard_id else None
