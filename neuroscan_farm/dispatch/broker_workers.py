"""Workers on the broker: their signs of life, and the wish that one of them leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace

import neuroscan_farm
from neuroscan_farm.dispatch.broker_connection import BrokerConnection, reaching
from neuroscan_farm.dispatch.farm_records import Presence, Running
from neuroscan_farm.domain.identity import content_digest

_KEEP_WISH_SECONDS = 24 * 3600


class Workers(BrokerConnection):
    """The part of the broker that knows which workers there are."""

    @reaching
    def show_presence(self, presence: Presence) -> None:
        """Say that a worker lives."""
        ttl = int(self.timings.presence_ttl * 1000)
        own = {"version": neuroscan_farm.__version__, "timings": content_digest(asdict(self.timings))}
        said = json.dumps({**asdict(presence), **own, "clock": time.time(), "ttl": ttl}, sort_keys=True)
        with self._redis.pipeline() as pipe:
            pipe.set(self._key("worker", presence.name), said, px=ttl)
            pipe.sadd(self._key("workers"), presence.name)
            pipe.execute()

    @reaching
    def end_presence(self, name: str) -> None:
        """Say that a worker left."""
        with self._redis.pipeline() as pipe:
            pipe.delete(self._key("worker", name))
            pipe.srem(self._key("workers"), name)
            pipe.execute()

    @reaching
    def present(self) -> list[Presence]:
        """The workers that live, by name, as they last described themselves."""
        names = sorted(self._redis.smembers(self._key("workers")))
        found: list[Presence] = []
        gone: list[str] = []
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.get(self._key("worker", name))
                pipe.pttl(self._key("worker", name))
            answers = pipe.execute()
        for name, text, left in zip(names, answers[::2], answers[1::2], strict=True):
            presence = _read(text, left)
            if presence is None:
                gone.append(name)
            else:
                found.append(presence)
        if gone:  # one that comes back says so within a second
            self._redis.srem(self._key("workers"), *gone)
        return found

    @reaching
    def want_drained(self, name: str, *, drained: bool) -> None:
        """Ask a worker to finish its shard and leave, or take that back while it is still there."""
        self._redis.set(self._key("drain", name), "yes" if drained else "no", ex=_KEEP_WISH_SECONDS)

    @reaching
    def wanted_drained(self, name: str) -> bool | None:
        """Whether a worker is asked to leave after its shard; None where nothing was said."""
        said = self._redis.get(self._key("drain", name))
        return None if said is None else said == "yes"

    @reaching
    def forget_drained(self, name: str) -> None:
        """Forget what was asked of a worker: it left, or another one of its name begins."""
        self._redis.delete(self._key("drain", name))


def _read(text: str | None, left: int) -> Presence | None:
    if text is None:
        return None
    try:
        fields = json.loads(text)
        ttl = float(fields.pop("ttl"))
        return Presence(**{**fields, "heartbeat_age": max(ttl - left, 0.0) / 1000})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def at_work(workers: Iterable[Presence], running: Mapping[str, Iterable[Running]]) -> tuple[Presence, ...]:
    """The workers, each with the shard and the task in its hands."""
    busy = {record.worker: (run_id, record) for run_id, records in running.items() for record in records}
    found = []
    for worker in workers:
        if worker.name in busy:
            run_id, record = busy[worker.name]
            worker = replace(
                worker,
                run_id=run_id,
                shard_id=record.shard_id,
                task_id=record.task_id,
                since=record.since,
            )
        found.append(worker)
    return tuple(found)
