"""Leaving: the first signal hands the present shard back within the grace, the second one leaves at once."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.errors import BrokerError
from workers.config import WorkerConfig
from workers.presence import claims_of

log = logging.getLogger(__name__)

_ONE_ASK_SECONDS = 1.0  # Ctrl-C reaches a whole process group, and a parent may pass it on once more


class Shutdown:
    """Answers SIGTERM and SIGINT in the worker's main process."""

    def __init__(
        self,
        config: WorkerConfig,
        broker: Broker,
        *,
        child_pids: Callable[[], list[int]],
        stop: Callable[[], None],
    ) -> None:
        """Make the answer to signals.

        Args:
            config: this worker.
            broker: the farm's broker.
            child_pids: the processes of the pool, now.
            stop: makes Celery finish what its child is doing, and end.
        """
        self._config = config
        self._broker = broker
        self._child_pids = child_pids
        self._stop = stop
        self._asked_at: float | None = None

    def install(self) -> None:
        """Take over SIGTERM and SIGINT from Celery."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, _: object) -> None:
        # Threads do the rest: a signal may come while this thread holds any lock.
        now = time.monotonic()
        if self._asked_at is not None:
            if now - self._asked_at > _ONE_ASK_SECONDS:
                threading.Thread(target=self._leave_at_once, args=[signum], daemon=True).start()
            return
        self._asked_at = now
        for pid in self._child_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)  # the child hands its shard back at the next task
        self._stop()
        grace = threading.Timer(self._config.grace_seconds, self._leave_at_once, args=[signum])
        grace.daemon = True
        grace.start()

    def _leave_at_once(self, signum: int) -> None:
        for pid in self._child_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            for run_id, record in claims_of(self._broker, name=self._config.name, host=self._config.host):
                self._broker.release(run_id, record)  # handed back: no death is put on record
            self._broker.end_presence(self._config.name)
        except BrokerError as error:
            log.warning("the claim is left to run out: %s", error)
        os._exit(128 + signum)
