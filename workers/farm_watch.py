"""Looks at the farm now and then, for `metrics`: what the broker says of it, and how its runs stand on the store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from neuroscan_farm.coordinator.overview import look_at
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.errors import BrokerError, NeuroscanError
from neuroscan_farm.store.run_directory import RunDirectory

log = logging.getLogger(__name__)

_RECONCILINGS_BETWEEN_LOOKS = 5
_MOST_OF_THE_TIME = 0.05  # spent looking at runs; many large ones are looked at less often
_MOST_SECONDS_BETWEEN_LOOKS = 60.0


@dataclass(frozen=True, slots=True)
class RunSeen:
    """How one run stood at the last look."""

    run_id: str
    state: str
    wanted: str
    tasks: int
    tasks_finished: int
    tasks_failed: int
    shards_missing: int
    deaths: int


@dataclass(frozen=True, slots=True)
class FarmSeen:
    """How the farm stood at the last look. What only the broker knows is None while it is away."""

    reachable: bool
    registered: int  # runs in the farm's care, as far as known
    workers: int | None
    queued: int | None
    running: int | None
    runs: tuple[RunSeen, ...]  # those that could be looked at


class FarmWatch:
    """Looks from a thread of its own.

    Args:
        broker: the farm's.
        open_run: opens a registered run where this machine has it.
    """

    def __init__(self, broker: Broker, open_run: Callable[[str], RunDirectory]) -> None:
        self._broker = broker
        self._open_run = open_run
        self._runs: dict[str, RunDirectory] = {}  # kept open: a second look at a run costs little
        self._registered: dict[str, str] = {}
        self._seen: FarmSeen | None = None
        self._pause = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="farm-watch", daemon=True)

    @property
    def seen(self) -> FarmSeen | None:
        """The last look; None before the first."""
        return self._seen

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the present look."""
        self._stop.set()
        self._thread.join(5)

    def look(self) -> None:
        """Look once; nothing that is out of reach raises."""
        seen = FarmSeen(False, 0, None, None, None, ())
        driven: set[str] = set()
        try:
            farm = self._broker.snapshot()
            self._registered = {run_id: entry.location for run_id, entry in farm.runs.items()}
            seen = replace(
                seen,
                reachable=True,
                workers=len(farm.workers),
                running=sum(len(state.claimed) for state in farm.states.values()),
                queued=sum(len(state.queued) for state in farm.states.values()),
            )
            driven = {run_id for run_id, state in farm.states.items() if state.claimed}
        except BrokerError as error:
            log.debug("the farm is looked at without its broker: %s", error)
        for run_id in set(self._runs) - set(self._registered):
            del self._runs[run_id]
        began = time.monotonic()
        runs = [
            run for run_id in self._registered if (run := self._look_at(run_id, run_id in driven)) is not None
        ]
        self._pause = (time.monotonic() - began) / _MOST_OF_THE_TIME
        self._seen = replace(seen, registered=len(self._registered), runs=tuple(runs))

    def _look_at(self, run_id: str, driven: bool) -> RunSeen | None:
        try:
            if run_id not in self._runs:
                self._runs[run_id] = self._open_run(self._registered[run_id])
            run = self._runs[run_id]
            overview = look_at(run)
            wanted = run.wanted()
        except NeuroscanError as error:  # not ours to see, or damaged: the reconciler says so aloud
            log.debug("run %s cannot be looked at: %s", run_id, error)
            self._runs.pop(run_id, None)
            return None
        return RunSeen(
            run_id=run_id,
            # The directory does not know of the farm's workers.
            state="running" if driven and overview.state == "queued" else overview.state,
            wanted=wanted,
            tasks=overview.tasks,
            tasks_finished=overview.tasks_finished,
            tasks_failed=overview.tasks_failed,
            shards_missing=overview.shards - overview.shards_finished,
            deaths=overview.deaths,
        )

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except Exception:  # numbers must not take a worker down, nor stop in silence
                log.exception("the farm could not be looked at")
            shortest = _RECONCILINGS_BETWEEN_LOOKS * self._broker.timings.reconcile
            if self._stop.wait(max(shortest, min(self._pause, _MOST_SECONDS_BETWEEN_LOOKS))):
                return
