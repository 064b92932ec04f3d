"""Orders on the broker: which ones went out, which ones wait, and in which of Redis' lists.

The only module that knows how Celery's Redis transport keeps priorities: each priority of a queue is a list of its
own, and 0 is taken first; for users, 9 is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from neuroscan_farm.dispatch.broker_connection import KEEP_SECONDS, BrokerConnection, reaching
from neuroscan_farm.dispatch.farm_records import OrderName
from neuroscan_farm.dispatch.wire import model_queue

PRIORITY_STEPS = list(range(10))
PRIORITY_SEPARATOR = "\x06\x16"


def message_priority(priority: int, attempt: int = 1) -> int:
    """The priority of a message, by the user's (0 to 9, 9 goes first); what is tried again goes one step before its like.

    So a shard whose worker died is taken by the next worker that is free, and does not wait behind the queue.
    """
    return max(PRIORITY_STEPS) - min(priority + (attempt > 1), max(PRIORITY_STEPS))


def lists_of(queue: str) -> list[str]:
    """The lists in which a queue's messages wait, the first ones first."""
    return [f"{queue}{PRIORITY_SEPARATOR}{step}" if step else queue for step in PRIORITY_STEPS]


class Orders(BrokerConnection):
    """The part of the broker that remembers orders between their sender and their worker."""

    @reaching
    def note_sent(self, run_id: str, shards: Iterable[str]) -> None:
        """Remember that orders for these shards are queued now."""
        stamps = list(shards)
        if not stamps:
            return
        now = self.now()
        with self._redis.pipeline() as pipe:
            pipe.hset(self._key("sent", run_id), mapping=dict.fromkeys(stamps, f"{now:.3f}"))
            pipe.expire(self._key("sent", run_id), KEEP_SECONDS)
            pipe.execute()

    @reaching
    def sent(self, run_id: str) -> dict[str, float]:
        """Shards with an order that nobody has claimed, and when it was last known to be queued."""
        return read_stamps(self._redis.hgetall(self._key("sent", run_id)))

    @reaching
    def forget_sent(self, run_id: str, shards: Iterable[str]) -> None:
        """Forget orders that were carried out, or lost."""
        gone = list(shards)
        if gone:
            self._redis.hdel(self._key("sent", run_id), *gone)

    def _lists(self, models: Iterable[str]) -> list[str]:
        queues = sorted({model_queue(self.queue, model) for model in models})
        return [name for queue in (self.queue, *queues) for name in lists_of(queue)]

    def _purge(self, run_id: str, models: Iterable[str]) -> None:
        """Take the orders of a run that has ended out of the queues; nobody may come for them any more."""
        for name in self._lists(models):
            for text in self._redis.lrange(name, 0, -1):
                if run_id in read_orders([text]):
                    self._redis.lrem(name, 0, text)


def read_orders(texts: Iterable[str]) -> dict[str, set[str]]:
    """The orders among messages: run id -> shards."""
    waiting: dict[str, set[str]] = {}
    for text in texts:
        try:
            name = str(json.loads(text)["headers"]["id"])
        except (ValueError, LookupError, TypeError, RecursionError):
            continue  # not one of ours; the worker that takes it will say so
        order = OrderName.read(name)
        if order is not None:
            waiting.setdefault(order.run_id, set()).add(order.shard_id)
    return waiting


def read_stamps(fields: dict[str, str]) -> dict[str, float]:
    """Times by shard; what is no time is left out."""
    stamps = {}
    for shard, text in fields.items():
        try:
            stamps[shard] = float(text)
        except ValueError:
            continue
    return stamps
