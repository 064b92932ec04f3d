"""A worker's sign of life, and its eye on its own child, whose death it reports at once."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.farm_records import Presence, Running
from neuroscan_farm.errors import BrokerError

log = logging.getLogger(__name__)


class PresenceThread:
    """Tells the farm that this worker lives. Runs in the worker's main process."""

    def __init__(self, broker: Broker, presence: Presence) -> None:
        self._broker = broker
        self._presence = presence
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def leaving(self) -> None:
        """Say that this worker takes no more orders."""
        self._presence = replace(self._presence, state="leaving")

    def stop(self) -> None:
        """Say that this worker is gone."""
        self._stop.set()
        self._thread.join(5)
        try:
            self._broker.end_presence(self._presence.name)
        except BrokerError as error:
            log.info("could not say good-bye: %s", error)

    def _run(self) -> None:
        reachable = True
        while True:
            try:
                self._broker.show_presence(self._presence)
                if self._presence.state == "ready":  # a worker that leaves may kill its child itself
                    bury_dead_children(self._broker, self._presence)
                reachable = True
            except BrokerError as error:
                if reachable:
                    log.warning("worker %s waits for the broker: %s", self._presence.name, error)
                reachable = False
            if self._stop.wait(min(1.0, self._broker.timings.presence_ttl / 3)):
                return


def claims_of(broker: Broker, *, name: str, host: str) -> list[tuple[str, Running]]:
    """The shards in the hands of one worker, each with its run.

    Raises:
        BrokerError: the broker is out of reach.
    """
    return [
        (run_id, record)
        for run_id in broker.runs()
        for record in broker.running(run_id)
        if record.worker == name and record.host == host
    ]


def bury_dead_children(broker: Broker, presence: Presence) -> None:
    """Report the death of this worker's children whose process is gone.

    Raises:
        BrokerError: the broker is out of reach.
    """
    for run_id, record in claims_of(broker, name=presence.name, host=presence.host):
        if not _alive(record.pid) and broker.bury(run_id, record, witnessed=True):
            log.warning(
                "worker %s: its child %d died in shard %s", presence.name, record.pid, record.shard_id
            )


def new_presence(*, name: str, host: str, device: str) -> Presence:
    """The presence of a worker that has just come up in this process."""
    return Presence(name=name, host=host, pid=os.getpid(), device=device, state="ready", started=time.time())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
