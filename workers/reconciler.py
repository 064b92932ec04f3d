"""Compares what every registered run wants with what is there, and sends what is missing.

A thread in each worker's main process, and the whole of the `coordinator` process: the farm needs no coordinator of its
own while one worker lives. A lease on the broker lets one of them act for a run at a time, which saves work; were two to
act, shards would be sent twice and dropped once. Who holds leases looks at the broker once for all their runs, and opens
them; the others open and read nothing.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping

from celery import Celery

from neuroscan_farm.coordinator.drive import Driver
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import CeleryDispatcher
from neuroscan_farm.dispatch.farm_records import Ended, RunEntry, Snapshot
from neuroscan_farm.dispatch.places_here import PlacesHere
from neuroscan_farm.errors import BrokerError, NeuroscanError, RunError
from neuroscan_farm.logs import log_context
from neuroscan_farm.store.run_directory import RunDirectory

log = logging.getLogger(__name__)


class Reconciler:
    """Steps a driver for each registered run that this machine can see.

    Args:
        broker: the farm's broker.
        app: the farm's Celery application.
        places: where runs are on this machine, and which may be opened.
        unfinished: finds runs of this farm that the broker may have forgotten.
    """

    def __init__(
        self,
        broker: Broker,
        app: Celery,
        *,
        places: PlacesHere,
        unfinished: Callable[[], Mapping[str, RunEntry]] = dict,
    ) -> None:
        self._unfinished = unfinished
        self._broker = broker
        self._app = app
        self._places = places
        self._holder = uuid.uuid4().hex
        self._drivers: dict[str, Driver] = {}
        self._entries: dict[str, RunEntry] = {}  # what the drivers were made for
        self._seen: Snapshot | None = None  # the broker, at the present pass
        self._known: dict[str, RunEntry] = {}  # the registry as last seen, to restore it on a wiped broker
        self._epoch: str | None = None
        self._complaints: dict[str, str] = {}  # the last complaint about each run, so that it is made once
        self._left_until: dict[str, float] = {}  # runs that are left to others for a while, by time.monotonic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin to reconcile, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the present step; another worker takes over when the leases run out."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def stop_soon(self) -> None:
        """Let `run` return after the present step; may be called by a signal's handler."""
        self._stop.set()

    def step(self) -> None:
        """Look at every registered run once.

        Raises:
            BrokerError: the broker is out of reach.
        """
        self._known = dict(self._registered())
        for known in (self._drivers, self._entries, self._complaints, self._left_until):
            for run_id in set(known) - set(self._known):
                del known[run_id]
        ours = [run_id for run_id in self._known if self._is_ours(run_id)]
        if not ours:
            return  # most reconcilers of a farm: the orders, which are many, are read by those who hold leases
        began = time.monotonic()
        self._seen = self._broker.snapshot(ours)
        for run_id in ours:
            entry = self._known[run_id]
            # A store that is slow makes a pass longer than a lease.
            if time.monotonic() - began > self._broker.timings.lease_ttl / 2 and not self._is_ours(run_id):
                continue
            try:
                with log_context(run=run_id):
                    self._step_run(run_id, entry)
            except BrokerError:
                raise
            except NeuroscanError as error:
                self._leave_to_others(run_id)
                if self._complaints.get(run_id) != str(error):
                    log.warning("run %s: cannot be driven from here: %s", run_id, error)
                self._complaints[run_id] = str(error)
            except Exception:  # the task's broad except, for the coordinator: our bug ends the run, aloud
                log.exception("run %s: the coordinator failed", run_id)
                self._end(run_id, Ended("error", traceback.format_exc(limit=-12), 1))

    def _step_run(self, run_id: str, entry: RunEntry) -> None:
        driver = self._drivers.get(run_id)
        if driver is not None and self._entries.get(run_id) != entry:
            driver = None  # it was submitted again, from where it is called otherwise
        if driver is None:
            run = self._open(run_id, entry)
            dispatcher = CeleryDispatcher(run, self._broker, self._app, look=self._look)
            driver = Driver(run, dispatcher, location=entry.location)
            self._drivers[run_id], self._entries[run_id] = driver, entry
        end, _ = driver.step(0.0)
        if end is not None and end.state == "cancelled" and driver.run.wanted() != "cancelled":
            return  # it was resumed at this very moment
        if end is not None:
            exit_code = driver.refusal.exit_code if driver.refusal else int(end.state != "finished")
            self._end(run_id, Ended(end.state, end.reason, exit_code))

    def _is_ours(self, run_id: str) -> bool:
        """Take or keep the lease of a run, unless it was left to others."""
        if self._left_until.get(run_id, 0.0) > time.monotonic():
            return False
        if self._broker.take_lease(run_id, self._holder):
            return True
        self._drivers.pop(run_id, None)  # what it knew of the run grows old
        return False

    def _end(self, run_id: str, ended: Ended) -> None:
        log.info("run %s: %s%s", run_id, ended.state, f": {ended.reason}" if ended.reason else "")
        self._drivers.pop(run_id, None)
        self._broker.unregister(run_id, ended)

    def _open(self, run_id: str, entry: RunEntry) -> RunDirectory:
        run = RunDirectory.open(self._places.run_location(entry.location))
        if run.manifest.run_id != run_id:
            raise RunError(f"{entry.location}: holds run {run.manifest.run_id}")
        return run

    def _look(self) -> Snapshot:
        assert self._seen is not None, "a dispatcher was polled outside of a pass"
        return self._seen

    def _leave_to_others(self, run_id: str) -> None:
        """Give up the lease: what is wrong here (a disk, a mount) may be right where another reconciler runs."""
        self._drivers.pop(run_id, None)
        self._broker.end_lease(run_id, self._holder)
        self._left_until[run_id] = time.monotonic() + self._broker.timings.lease_ttl

    def _registered(self) -> Mapping[str, RunEntry]:
        """The registry; what a wiped broker forgot of it is put back first."""
        epoch, runs = self._broker.epoch(), self._broker.runs()
        before, self._epoch = self._epoch, epoch
        if before == epoch:
            return runs
        if before is not None:
            log.warning("the broker was wiped; what is known of its runs is put back")
        forgotten = {**self._unfinished(), **self._known}
        missing = {run_id: entry for run_id, entry in forgotten.items() if run_id not in runs}
        for run_id, entry in missing.items():
            log.warning("run %s: registered anew", run_id)
            self._broker.register(run_id, entry)
        return {**runs, **missing}

    def run(self) -> None:
        """Reconcile until `stop`; a broker that is away is waited for."""
        reachable = True
        while not self._stop.wait(self._broker.timings.reconcile):
            try:
                self.step()
                reachable = True
            except BrokerError as error:
                if reachable:
                    log.warning("reconciling waits for the broker: %s", error)
                reachable = False
            except Exception:  # our bug, outside of any run; without a reconciler the farm would stand still
                log.exception("reconciling failed")
