"""What a worker's main process looks after while its child measures: queues, progress, the wish that it leaves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from celery.worker import state
from pydantic import ValidationError

from neuroscan_farm.dispatch.affinity import Affinity
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.farm_records import Presence
from neuroscan_farm.dispatch.wire import ShardOrder, model_queue
from workers.config import WorkerConfig
from workers.consumption import Consumption
from workers.hung import HungWatch, InHand
from workers.presence import PresenceThread, memory_mb, new_presence

log = logging.getLogger(__name__)


class Tending:
    """The chores of one worker around its Celery worker, done by its presence's thread."""

    def __init__(self, config: WorkerConfig, broker: Broker, worker: Any, affinity: Affinity) -> None:
        self._config = config
        self._broker = broker
        self._worker = worker
        self._affinity = affinity
        self._draining = False
        self._idle_before = False
        self._begun = False
        self._consumption = Consumption(broker, worker, name=config.name)
        hung = HungWatch(broker, name=config.name, host=config.host, in_hand=self._in_hand)
        self.presence = PresenceThread(
            broker,
            new_presence(name=config.name, host=config.host, device=config.device_text()),
            describe=self._describe,
            chores=[self._begin, hung.look, self._drain, self._consumption.look],
        )

    def start(self) -> None:
        """Begin."""
        self.presence.start()

    def stop(self) -> None:
        """Say good-bye."""
        self.presence.stop()

    def child_pids(self) -> list[int]:
        """The processes of the pool, now."""
        pool = self._worker.pool
        try:
            return list(pool.info["processes"]) if pool is not None else []
        except AttributeError:  # Celery's pool is not up yet, or down already
            return []

    def _begin(self) -> None:
        """Once: what an earlier worker of this name refused, or was asked to do, is not this one's."""
        if not self._begun:
            self._broker.forgive(self._config.name, self._broker.runs())
            self._broker.forget_drained(self._config.name)
            self._begun = True

    def _in_hand(self) -> Iterator[InHand]:
        for request in list(state.active_requests):
            pid = request.worker_pid
            try:
                order = ShardOrder.model_validate(request.args[0])
            except (ValidationError, LookupError, TypeError):
                continue  # the child drops it
            if pid is not None:
                yield InHand(order, pid)

    def _describe(self, presence: Presence) -> Presence:
        held = self._affinity.held
        model = presence.model
        if held is not None and (model is None or held not in model):
            names = {
                model_queue(self._config.queue, entry.model): entry.model_name
                for entry in self._broker.runs().values()
            }
            name = names.get(f"{self._config.queue}.{held}")
            model = f"{name} ({held})" if name else held
        return replace(presence, model=model, memory_mb=memory_mb(self.child_pids()))

    def _drain(self) -> None:
        """Leave after the present shard if that is wanted; it may be taken back while the shard goes on."""
        wanted = self._broker.wanted_drained(self._config.name)
        if wanted is not None and wanted != self._draining:
            self._draining = wanted
            log.warning(
                "worker %s: %s",
                self._config.name,
                "leaves after its present shard" if wanted else "stays, and takes orders again",
            )
            self._consumption.end(ended=wanted)
            self.presence.say("draining" if wanted else "ready")
        idle = not state.active_requests and not state.reserved_requests
        # Twice, because an order may be between the broker and us when the last queue is let go.
        if self._draining and idle and self._idle_before and self._consumption.is_over():
            self._broker.forget_drained(self._config.name)
            self.presence.say("leaving")
            state.should_stop = 0
        self._idle_before = idle and self._consumption.is_over()
