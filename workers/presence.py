"""A worker's sign of life, and the chores of its main process: one thread, every second."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.farm_records import Presence, Running
from neuroscan_farm.errors import BrokerError

log = logging.getLogger(__name__)


class PresenceThread:
    """Tells the farm that this worker lives, and does what has to be done regularly.

    Args:
        broker: the farm's broker.
        presence: this worker.
        describe: how the worker is now, by what is to be said of it.
        chores: called one after the other; a broker that is away is for this thread to tell.
    """

    def __init__(
        self,
        broker: Broker,
        presence: Presence,
        *,
        describe: Callable[[Presence], Presence] = lambda presence: presence,
        chores: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._broker = broker
        self._presence = presence
        self._state = presence.state  # set from elsewhere, a signal handler too; shown with the next beat
        self._describe = describe
        self._chores = chores
        self.child_deaths = 0  # so far
        self.said_at: float | None = None  # when the farm was last told, by time.monotonic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    @property
    def presence(self) -> Presence:
        """This worker, as it last described itself."""
        return self._presence

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def say(self, state: str) -> None:
        """Say that this worker is "ready", or takes no more orders: "draining", "leaving"."""
        if self._state != "leaving":
            self._state = state

    def stop(self) -> None:
        """Say that this worker is gone."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5)
        try:
            self._broker.end_presence(self._presence.name)
        except BrokerError as error:
            log.info("could not say good-bye: %s", error)

    def _run(self) -> None:
        reachable = True
        while True:
            try:
                self._presence = replace(self._describe(self._presence), state=self._state)
                self._broker.show_presence(self._presence)
                self.said_at = time.monotonic()
                if self._state != "leaving":  # a worker that leaves may kill its child itself
                    self.child_deaths += bury_dead_children(self._broker, self._presence)
                    for chore in self._chores:
                        chore()
                reachable = True
            except BrokerError as error:
                if reachable:
                    log.warning("worker %s waits for the broker: %s", self._presence.name, error)
                reachable = False
            except Exception:  # our bug; a worker that is silent would be taken for dead
                log.exception("worker %s: a chore failed", self._presence.name)
            timings = self._broker.timings
            if self._stop.wait(min(1.0, timings.reconcile, timings.presence_ttl / 3)):
                return


def claims_of(broker: Broker, *, name: str, host: str) -> list[tuple[str, Running]]:
    """The shards in the hands of one worker, each with its run.

    Raises:
        BrokerError: the broker is out of reach.
    """
    return [
        (run_id, record)
        for run_id, records in broker.all_running().items()
        for record in records
        if record.worker == name and record.host == host
    ]


def bury_dead_children(broker: Broker, presence: Presence) -> int:
    """Report the death of this worker's children whose process is gone; return how many were not reported before.

    Raises:
        BrokerError: the broker is out of reach.
    """
    buried = 0
    for run_id, record in claims_of(broker, name=presence.name, host=presence.host):
        if not _alive(record.pid) and broker.bury(run_id, record, witnessed=True):
            buried += 1
            log.warning(
                "worker %s: its child %d died in shard %s", presence.name, record.pid, record.shard_id
            )
    return buried


def new_presence(*, name: str, host: str, device: str) -> Presence:
    """The presence of a worker that has just come up in this process."""
    return Presence(name=name, host=host, pid=os.getpid(), device=device, state="ready", started=time.time())


def memory_mb(pids: Sequence[int]) -> int | None:
    """The resident megabytes of some processes; None where that cannot be known."""
    pages = 0
    for pid in pids:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return None
    return pages * os.sysconf("SC_PAGE_SIZE") // 10**6 if pids else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
