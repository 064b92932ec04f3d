"""Compares what every registered run wants with what is there, and sends what is missing.

A thread in each worker's main process: the farm needs no coordinator of its own while one worker lives. A
lease on the broker lets one of them act for a run at a time, which saves work; were two to act, shards would
be sent twice and dropped once.
"""

from __future__ import annotations

import logging
import threading
import traceback
import uuid
from pathlib import Path

from celery import Celery

from neuroscan_farm.coordinator.drive import Driver
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import CeleryDispatcher
from neuroscan_farm.dispatch.farm_records import Ended
from neuroscan_farm.errors import BrokerError, NeuroscanError, RunError
from neuroscan_farm.store.run_directory import RunDirectory

log = logging.getLogger(__name__)


class Reconciler:
    """Steps a driver for each registered run that this machine can see."""

    def __init__(self, broker: Broker, app: Celery) -> None:
        self._broker = broker
        self._app = app
        self._holder = uuid.uuid4().hex
        self._drivers: dict[str, Driver] = {}
        self._known: dict[str, str] = {}  # the registry as last seen, to restore it on a wiped broker
        self._epoch: str | None = None
        self._complaints: dict[str, str] = {}  # the last complaint about each run, so that it is made once
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin to reconcile."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the present step; another worker takes over when the leases run out."""
        self._stop.set()
        self._thread.join(5)

    def step(self) -> None:
        """Look at every registered run once.

        Raises:
            BrokerError: the broker is out of reach.
        """
        self._restore_after_wipe()
        self._known = self._broker.runs()
        for run_id in set(self._drivers) - set(self._known):
            del self._drivers[run_id]
        for run_id, run_dir in self._known.items():
            try:
                self._step_run(run_id, Path(run_dir))
            except BrokerError:
                raise
            except NeuroscanError as error:
                self._drivers.pop(run_id, None)
                if self._complaints.get(run_id) != str(error):
                    log.warning("run %s: cannot be driven from here: %s", run_id, error)
                self._complaints[run_id] = str(error)
            except Exception:  # the task's broad except, for the coordinator: our bug ends the run, aloud
                log.exception("run %s: the coordinator failed", run_id)
                self._end(run_id, Ended("error", traceback.format_exc(limit=-12), 1))

    def _step_run(self, run_id: str, run_dir: Path) -> None:
        driver = self._drivers.get(run_id)
        run = driver.run if driver else RunDirectory.open(run_dir)
        if run.manifest.run_id != run_id:
            raise RunError(f"{run_dir}: holds run {run.manifest.run_id}")
        if not self._broker.take_lease(run_id, self._holder):
            self._drivers.pop(run_id, None)  # what it knew of the run grows old
            return
        if driver is None:
            driver = Driver(run, CeleryDispatcher(run, self._broker, self._app))
            self._drivers[run_id] = driver
        end, _ = driver.step(0.0)
        if end is not None:
            exit_code = driver.refusal.exit_code if driver.refusal else int(end.state != "finished")
            self._end(run_id, Ended(end.state, end.reason, exit_code))

    def _end(self, run_id: str, ended: Ended) -> None:
        log.info("run %s: %s%s", run_id, ended.state, f": {ended.reason}" if ended.reason else "")
        self._drivers.pop(run_id, None)
        self._broker.unregister(run_id, ended)

    def _restore_after_wipe(self) -> None:
        epoch = self._broker.epoch()
        if self._epoch is not None and epoch != self._epoch:
            log.warning("the broker was wiped; %d runs are registered anew", len(self._known))
            for run_id, run_dir in self._known.items():
                self._broker.register(run_id, run_dir)
        self._epoch = epoch

    def _run(self) -> None:
        reachable = True
        while not self._stop.wait(self._broker.timings.reconcile):
            try:
                self.step()
                reachable = True
            except BrokerError as error:
                if reachable:
                    log.warning("reconciling waits for the broker: %s", error)
                reachable = False
