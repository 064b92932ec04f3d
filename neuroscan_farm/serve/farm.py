"""The farm as its broker tells of it: looked at in the background, so that no request ever waits for a broker."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from neuroscan_farm.coordinator.prepare import wake
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_url import redacted
from neuroscan_farm.dispatch.celery_queue import location_on
from neuroscan_farm.dispatch.celery_queue import submit as register
from neuroscan_farm.dispatch.farm_records import Ended, Presence
from neuroscan_farm.dispatch.places_here import PlacesHere, read_places
from neuroscan_farm.errors import BrokerError, NeuroscanError
from neuroscan_farm.serve.config import ServeConfig
from neuroscan_farm.store.places import is_url
from neuroscan_farm.store.run_directory import RunDirectory

log = logging.getLogger(__name__)
_LOOK_SECONDS = 1.5
_LOOK_SECONDS_AWAY = 5.0


@dataclass(frozen=True, slots=True)
class FarmSeen:
    """The farm at one moment."""

    reachable: bool
    says: str
    workers: tuple[Presence, ...] = ()
    registered: frozenset[str] = frozenset()  # run ids in its care
    draining: frozenset[str] = frozenset()  # workers that are asked to leave
    clock_ahead: Mapping[str, float] = field(
        default_factory=dict
    )  # seconds of each worker's clock before ours


class Farm:
    """The connection to the broker. `seen` never waits."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._broker: Broker | None = None
        self._said = f"broker {redacted(config.broker_url)}"
        self._seen = FarmSeen(False, f"{self._said} was not asked yet")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="farm", daemon=True)

    def start(self) -> None:
        """Look once, and then again and again."""
        self.look()
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        if self._broker is not None:
            self._broker.close()

    @property
    def seen(self) -> FarmSeen:
        """The last look."""
        return self._seen

    def look(self) -> FarmSeen:
        """Look now."""
        try:
            broker = self.broker()
            workers = tuple(broker.workers())
            registered = frozenset(broker.runs())
            draining = frozenset(one.name for one in workers if broker.wanted_drained(one.name))
        except BrokerError as error:
            self._seen = FarmSeen(False, str(error))
            return self._seen
        now = time.time()
        ahead = {one.name: one.clock + one.heartbeat_age - now for one in workers if one.clock}
        many = len(workers)
        says = f"{self._said}: {many} worker{'' if many == 1 else 's'}"
        if not workers:
            says += "; runs wait until one is started with `neuroscan-farm worker`"
        self._seen = FarmSeen(True, says, workers, registered, draining, ahead)
        return self._seen

    def broker(self) -> Broker:
        """Return the connection.

        Raises:
            BrokerError: the URL is wrong.
        """
        if self._broker is None:
            self._broker = Broker(self._config.broker_url, queue=self._config.queue)
        return self._broker

    def hand_over(self, run: RunDirectory, *, priority: int | None = None) -> None:
        """Put a run into the farm's care, or wake it there.

        Raises:
            BrokerError: the broker is out of reach.
            RunError: the run lies where the farm may not look, or is damaged.
            StorageError: the disk or the store refused.
        """
        run.plan_complete()  # a damaged plan is said here, and not by a worker's log
        broker = self.broker()
        broker.ping()
        location = location_on(broker, run, here=self._places().run_location)
        wake(run, executor="celery", priority=priority)
        register(run, broker, location=location)
        self.look()

    def hand_over_again(self, run: RunDirectory) -> str | None:
        """Put a run that the broker forgot back into the farm's care; what its user wants of it is not touched.

        Returns:
            Why it was not handed over; None where the farm has it.

        Raises:
            BrokerError: the broker is out of reach.
            RunError: the run lies where the farm may not look, is of another version, or is damaged.
            StorageError: the disk or the store refused.
        """
        broker, run_id = self.broker(), run.manifest.run_id
        if broker.entry(run_id) is not None:
            return None
        ended = broker.ended(run_id)
        if ended is not None:
            last = (ended.reason or "").strip().rpartition("\n")[2]
            return f"the farm ended it ({ended.state}{f': {last}' if last else ''})"
        given = run.farm()
        if given is not None and given[0] != broker.queue:
            return f"it was given to the farm {given[0]}, and this is {broker.queue}"
        run.check_versions()
        run.plan_complete()  # a damaged plan is said here, and not by a worker's log
        self.confine(run.location)
        location = None if given is None else self._called(run, given[1])
        if given is not None and location is None and self._is_at(given[1], run_id):
            return f"it is a copy of the one that this farm was given, {given[1]}"
        for notice in run.parts.set_bad_aside(thorough=True):
            log.warning("run %s: %s", run_id, notice)
        if run.control()[:2] != ("running", "celery"):
            return "somebody wants something else of it by now"
        register(run, broker, location=location or location_on(broker, run))
        self.look()
        return None

    def confine(self, location: str) -> None:
        """Refuse a place outside of the roots of this machine, if there are any.

        Raises:
            RunError: it is outside.
        """
        self._places().confine(location)

    def let_go(self, run_id: str) -> None:
        """Take a run out of the farm's care, where the farm can be asked; it would do so by itself in a while."""
        try:
            self.broker().unregister(run_id, Ended("cancelled", None, 1))
        except BrokerError as error:
            log.info("run %s: %s", run_id, error)

    def _called(self, run: RunDirectory, location: str) -> str | None:
        """Return `location` where it is how the farm calls the very place of this run."""
        if location == run.location:
            return location
        try:
            here = self._places().run_location(location)
        except NeuroscanError:
            return None
        there = run.location if is_url(run.location) else os.path.realpath(run.location)
        return location if here == there else None

    def _is_at(self, location: str, run_id: str) -> bool:
        """Whether the run of this id is at a place that the farm names."""
        try:
            return RunDirectory.open(self._places().run_location(location)).manifest.run_id == run_id
        except NeuroscanError:
            return False

    def _places(self) -> PlacesHere:
        config = self._config
        return read_places(roots=config.roots, path_map=config.path_map, runs_dir=str(config.runs_dir))

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS if self._seen.reachable else _LOOK_SECONDS_AWAY):
            try:
                self.look()
            except NeuroscanError as error:
                log.warning("the farm cannot be looked at: %s", error)
            except Exception:  # the watch must go on, whatever a broker answers
                log.exception("the farm cannot be looked at")
