"""Runs that their directories say the farm is to carry out, and that its broker does not know: they are handed over again.

A broker that was wiped, or that is a new one (`up` makes one of its own each time), forgets its runs; their directories do
not. Nothing that a user wants is written here: a run that is cancelled at this very moment stays so, and one that the
broker remembers to have ended is left alone. A run is handed over once for each life of a broker, and never in a loop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from neuroscan_farm.coordinator.overview import Overview
from neuroscan_farm.errors import BrokerError, NeuroscanError
from neuroscan_farm.serve.farm import Farm
from neuroscan_farm.serve.runs import LiveRun, Runs
from neuroscan_farm.store.run_directory import RunDirectory

log = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0
PATIENCE_SECONDS = 5.0  # somebody else may be handing it over: its submitter, or a worker that knew it


@dataclass(frozen=True, slots=True)
class _Settled:
    """What was done about a run that a broker had forgotten."""

    epoch: str  # the broker's; another one has forgotten it anew
    why_not: str | None = None  # why it was not handed over


class Forgotten:
    """Looks for forgotten runs and additions, and hands them over again.

    Args:
        runs: all runs.
        farm: the farm that is to carry them out.
    """

    def __init__(self, runs: Runs, farm: Farm) -> None:
        self._runs, self._farm = runs, farm
        self._since: dict[str, float] = {}  # run id -> when it was first seen to be unknown
        self._settled: dict[str, _Settled] = {}  # by location: copies of a run have one id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="forgotten", daemon=True)

    def start(self) -> None:
        """Look again and again."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def says(self, run: RunDirectory) -> str:
        """Say what becomes of a run that the farm does not know."""
        settled = self._settled.get(run.location)
        if settled is not None and settled.why_not is not None:
            return f"the farm does not know this run, which was not handed over again: {settled.why_not}; resume it"
        if settled is None and run.manifest.run_id in self._since:
            return "the farm does not know this run; it is handed over again in a moment"
        return "the farm does not know this run; resume it"

    def step(self, now: float) -> None:
        """Look once, and hand over what has been unknown for long enough.

        Args:
            now: seconds of a clock that never goes back.

        Raises:
            BrokerError: the broker is out of reach.
            StorageError: the runs cannot be listed.
        """
        if not self._farm.seen.reachable:
            self._since.clear()  # a broker that comes back is given time, too
            return
        found = [one for one in self._unknown() if one[1].manifest.run_id not in self._farm.seen.registered]
        ids = {directory.manifest.run_id for _, directory in found}
        self._since = {run_id: self._since.get(run_id, now) for run_id in ids}
        due = [one for one in found if now - self._since[one[1].manifest.run_id] >= PATIENCE_SECONDS]
        if not due:
            return
        epoch = self._farm.broker().epoch()
        for run, directory in due:
            settled = self._settled.get(directory.location)
            if settled is None or settled.epoch != epoch:
                self._settled[directory.location] = _Settled(epoch, self._hand_over(run, directory))

    def _unknown(self) -> Iterator[tuple[LiveRun, RunDirectory]]:
        """Runs and additions that wait for the farm, as their directories say."""
        for run, seen in self._runs.listing().runs.values():
            if _waits_for_the_farm(seen.overview):
                yield run, run.directory
            if any(map(_waits_for_the_farm, seen.additions)):
                waiting = {one.run_id for one in seen.additions if _waits_for_the_farm(one)}
                for directory in run.whole()[1:]:
                    if directory.manifest.run_id in waiting:
                        yield run, directory

    def _hand_over(self, run: LiveRun, directory: RunDirectory) -> str | None:
        """Hand a run over; return why it was not.

        Raises:
            BrokerError: the broker is out of reach.
        """
        try:
            why_not = self._farm.hand_over_again(directory)
        except BrokerError:
            raise
        except NeuroscanError as error:
            why_not = str(error)
        if why_not is None:
            log.warning("run %s: the farm had forgotten it, and has it again", directory.manifest.run_id)
            self._runs.changed()
        else:
            log.warning("run %s (%s): not handed over again: %s", directory.manifest.run_id, run.id, why_not)
        return why_not

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            try:
                self.step(time.monotonic())
            except NeuroscanError as error:
                log.info("forgotten runs are not looked for now: %s", error)
            except Exception:  # one bad run must not stop the others
                log.exception("forgotten runs")


def _waits_for_the_farm(seen: Overview) -> bool:
    """Whether a run is the farm's to carry out: not finished, paused, cancelled, refused, nor driven from here."""
    return seen.executor == "celery" and seen.state == "queued"
