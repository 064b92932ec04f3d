"""Which queues this worker takes from: those of the models of every registered run that it has not refused.

Runs come and go while the worker lives, so that its Celery consumer is adapted again and again; what is consumed is
compared with what is wanted, which also holds after a lost connection.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Set
from typing import Any

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import queue_of
from neuroscan_farm.dispatch.wire import model_queue

log = logging.getLogger(__name__)

_FORGOTTEN_SECONDS = 10.0


class Consumption:
    """Adapts the queues of one Celery worker; `look` is called by a thread, the queues change in Celery's loop."""

    def __init__(self, broker: Broker, worker: Any, *, name: str) -> None:
        self._broker = broker
        self._worker = worker
        self._name = name
        self._ended = False
        self._asked_at: float | None = (
            None  # when the loop was asked to adapt, by time.monotonic; None if it has
        )

    def end(self, *, ended: bool = True) -> None:
        """Take from no queue any more, or from those that are wanted again."""
        self._ended = ended

    def look(self) -> None:
        """Compare what is wanted with what is consumed.

        Raises:
            BrokerError: the broker is out of reach.
        """
        wanted: set[str] = set()
        if not self._ended:
            entries = self._broker.runs_for(self._name).values()
            wanted = {
                self._broker.queue,
                *(model_queue(self._broker.queue, entry.model) for entry in entries),
            }
        consumer = self._worker.consumer
        if consumer is None or self._is_adapting() or wanted == set(self._consumed(consumer)):
            return
        self._asked_at = time.monotonic()
        consumer.call_soon(self._adapt, consumer, frozenset(wanted))

    def is_over(self) -> bool:
        """Whether the worker takes from no queue any more."""
        return self._ended and not self._is_adapting() and not self._consumed(self._worker.consumer)

    def _is_adapting(self) -> bool:
        # A loop that is torn down with its connection may forget what it was asked.
        return self._asked_at is not None and time.monotonic() - self._asked_at < _FORGOTTEN_SECONDS

    def _consumed(self, consumer: Any) -> list[str]:
        selected = list(consumer.app.amqp.queues.consume_from)
        tasks = consumer.task_consumer
        if tasks is None:  # the connection is being made anew; it begins with the selected ones
            return selected
        known = {queue.name for queue in list(tasks.queues)} | set(selected)
        return [name for name in known if tasks.consuming_from(name)]

    def _adapt(self, consumer: Any, wanted: Set[str]) -> None:
        """Runs in Celery's loop, where the connection is."""
        try:
            queues = consumer.app.amqp.queues
            for name in sorted(wanted):
                queues.select_add(queue_of(name))
            others = sorted({*queues.consume_from, *self._consumed(consumer)} - wanted)
            if consumer.task_consumer is None:
                queues.deselect(others)
                return
            for name in sorted(wanted):
                if not consumer.task_consumer.consuming_from(name):
                    consumer.add_task_queue(name)
            for name in others:
                consumer.cancel_task_queue(name)
                queues.pop(name, None)
        except Exception as error:  # the loop itself notices a lost connection, and the next look asks again
            log.info("worker %s: its queues could not be changed: %r", self._name, error)
        finally:
            self._asked_at = None
