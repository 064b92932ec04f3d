"""A claim: this worker has this shard. A thread beats it while the model works, and dies with it."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.farm_records import Report, Running
from neuroscan_farm.errors import BrokerError
from neuroscan_farm.logs import log_ids

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0  # a task that is told again and again is told on to the broker so often


class ShardLeft(Exception):
    """The shard is left undone for a good reason; nobody died and nothing is to be put on record."""


class Claim:
    """A shard in this worker's hands, from `take` to `release`."""

    def __init__(self, broker: Broker, run_id: str, running: Running, leaving: Callable[[], bool]) -> None:
        self._broker = broker
        self._run_id = run_id
        self._running = running
        self._leaving = leaving
        self._lock = threading.Lock()  # one beat at a time, so that the newest task is the last one said
        self._lost = False
        self._reachable = True
        self._told_at = 0.0  # by time.monotonic
        self._released = threading.Event()
        self._thread = threading.Thread(
            target=contextvars.copy_context().run,  # its lines carry the shard's ids too
            args=[self._beat_on],
            name=f"beat-{running.shard_id}",
            daemon=True,
        )

    @classmethod
    def take(
        cls, broker: Broker, run_id: str, running: Running, *, leaving: Callable[[], bool]
    ) -> Claim | None:
        """Claim a shard and keep the claim alive; None where it is not to be had.

        Raises:
            BrokerError: the broker is out of reach.
        """
        if not broker.claim(run_id, running):
            return None
        claim = cls(broker, run_id, running, leaving)
        claim._thread.start()
        return claim

    @property
    def running(self) -> Running:
        """What the farm is told about this shard."""
        return self._running

    def working_on(self, task_id: str) -> None:
        """Say which task is about to run, so that a death is laid to the right one.

        Raises:
            ShardLeft: the worker is asked to leave, or the shard is another worker's by now, or this worker was
                taken for dead.
        """
        if self._leaving():
            raise ShardLeft("this worker was asked to leave")
        again = task_id == self._running.task_id and time.monotonic() - self._told_at < _AGAIN_SECONDS
        self._running = replace(self._running, task_id=task_id, progressed=time.time())
        log_ids(task=task_id)
        # Else the thread is trying; a broker that is away must not slow the model down.
        if self._reachable and not again:
            self._told_at = time.monotonic()
            self._beat()
        if self._lost:
            raise ShardLeft("its claim ran out and another worker took it, or may")

    def progress(self) -> None:
        """Say that something was done while no task runs yet; the next beat tells it on."""
        self._running = replace(self._running, progressed=time.time())

    def release(self, report: Report | None = None) -> None:
        """Give the shard back, with what went wrong if something did."""
        self._released.set()
        self._thread.join()
        try:
            self._broker.release(self._run_id, self._running, report)
        except BrokerError as error:
            log.warning("shard %s: the claim is left to run out: %s", self._running.shard_id, error)

    def _beat_on(self) -> None:
        while not self._released.wait(self._broker.timings.beat):
            self._beat()

    def _beat(self) -> None:
        with self._lock:
            try:
                self._lost = not self._broker.beat(self._run_id, self._running)
                self._reachable = True
            except BrokerError as error:
                if self._reachable:
                    log.warning("shard %s goes on without the broker: %s", self._running.shard_id, error)
                self._reachable = False
