"""The runs as the server sees them: directories, looked at cheaply and often. What is kept here can be lost."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from neuroscan_farm.coordinator.overview import Overview, look_at
from neuroscan_farm.coordinator.run_lock import is_driven
from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.errors import NeuroscanError, RunError
from neuroscan_farm.serve.waiting import Waiting, read_waiting
from neuroscan_farm.store.additions import FOLDER, additions_of
from neuroscan_farm.store.places import inside, is_url, open_place
from neuroscan_farm.store.run_directory import RunDirectory

_THREADS = 16  # that look into an object store at a time
_MOST_NAME = 255
_SETTLED_NANOSECONDS = 2_000_000_000
_REST_SECONDS = (
    3.0  # then a finished run is looked at in full: a file that is damaged in place changes no folder
)


class NoRun(RunError):
    """There is no run of an id."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A run at one moment."""

    overview: Overview
    additions: tuple[Overview, ...]
    waiting: Waiting | None  # in this machine's own queue
    stamp: str  # of all of it
    rows_stamp: str  # of plan and rows


class LiveRun:
    """One run; `see` looks, and reads only what changed."""

    def __init__(self, name: str, directory: RunDirectory, opened: str) -> None:
        self.id = name
        self.directory = directory
        self.opened = opened  # the manifest's stamp
        self.metric = directory.request().metric
        self._additions: dict[str, RunDirectory] = {}
        self._looks: dict[str, tuple[str, Overview]] = {}
        self._rest: tuple[tuple[int, ...], Seen] | None = None  # folders' times, and what was seen then
        self._rested = -math.inf  # since when, by time.monotonic
        self._lock = threading.Lock()

    @property
    def run_id(self) -> str:
        """The id that is made of the run's content."""
        return self.directory.manifest.run_id

    def whole(self) -> list[RunDirectory]:
        """The run and what was added to it.

        Raises:
            NeuroscanError: an addition is damaged, or the store failed.
        """
        return [self.directory, *additions_of(self.directory)]

    def see(self) -> Seen:
        """Look at the run.

        Raises:
            NeuroscanError: its plan is damaged, or the store failed.
        """
        with self._lock:
            times = self._times()
            fresh = time.monotonic() - self._rested < _REST_SECONDS
            if self._rest is not None and times is not None and self._rest[0] == times and fresh:
                return self._rest[1]
            stamp, rows_stamp, overview = self._look(self.directory)
            added = [self._look(addition) for addition in self._added()]
            waiting = read_waiting(self.directory)
            said = [stamp, *(one for one, _, _ in added), repr(waiting)]
            rows = [rows_stamp, *(one for _, one, _ in added)]
            seen = Seen(
                overview,
                tuple(one for _, _, one in added),
                waiting,
                content_digest(said, length=16),
                content_digest(rows, length=16),
            )
            at_rest = overview.state == "finished" and not added and waiting is None
            self._rest = (times, seen) if at_rest and times is not None else None
            self._rested = time.monotonic()
            return seen

    def _times(self) -> tuple[int, ...] | None:
        """When the folders of a run on a disk last changed; None where that tells nothing.

        Every file is replaced by renaming, which changes its folder. A change of just now may be followed by another
        one in the same tick of the disk's clock.
        """
        root = self.directory.place.root
        if root is None:
            return None
        found = []
        for folder in (root, root / "parts", root / "attempts"):
            try:
                found.append(folder.stat().st_mtime_ns)
            except OSError:
                found.append(0)
        return tuple(found) if max(found) < time.time_ns() - _SETTLED_NANOSECONDS else None

    def _added(self) -> list[RunDirectory]:
        names = self.directory.place.below(FOLDER).folders()
        if set(names) != self._additions.keys():
            found = additions_of(self.directory)
            self._additions = {one.manifest.run_id: one for one in found}
        return list(self._additions.values())

    def _look(self, run: RunDirectory) -> tuple[str, str, Overview]:
        progress = run.parts.look()
        rows = [run.plan_stamp(), len(progress.done), sorted(progress.failed), progress.last_commit]
        attempts = [(entry.name, entry.stamp) for entry in run.place.below("attempts").entries()]
        rows_stamp = content_digest(rows, length=16)
        stamp = content_digest(
            [rows_stamp, list(run.control()), is_driven(run.location), attempts], length=16
        )
        known = self._looks.get(run.location)
        if known is None or known[0] != stamp:
            known = (stamp, look_at(run))
            self._looks[run.location] = known
        return stamp, rows_stamp, known[1]


@dataclass(frozen=True, slots=True)
class Listing:
    """All runs at one moment."""

    runs: dict[str, tuple[LiveRun, Seen]]  # by id, the newest first
    left_out: dict[str, str]  # id -> why it cannot be read
    stamp: str


class Runs:
    """The runs in one place.

    Args:
        runs_dir: a folder, or the URL of an object store.
        fresh_seconds: a listing that is younger is not made again.
    """

    def __init__(self, runs_dir: Path | str, *, fresh_seconds: float = 0.4) -> None:
        self.runs_dir = runs_dir
        self._fresh = fresh_seconds
        self._known: dict[str, LiveRun] = {}
        self._listing: Listing | None = None
        self._listed = -math.inf
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_THREADS if is_url(runs_dir) else 1, thread_name_prefix="runs")

    def listing(self, *, fresh: bool = False) -> Listing:
        """Look at all runs; an answer of a moment ago will do, unless a `fresh` one is asked for.

        Raises:
            StorageError: the store cannot be reached.
        """
        with self._lock:
            if self._listing is None or fresh or time.monotonic() - self._listed > self._fresh:
                self._listing = self._list()
                self._listed = time.monotonic()
            return self._listing

    def changed(self) -> None:
        """Have the next listing made anew: something was written by this server."""
        self._listed = -math.inf

    def find(self, name: str) -> LiveRun:
        """Return the run of an id.

        Raises:
            RunError: there is none.
        """
        run = self._one(name)
        if run is None:
            with self._lock:
                run = next((one for one in self._known.values() if one.run_id == name), None)
        if run is None:
            raise NoRun(f"run {name[:100]!r}: there is none of this id")
        return run

    def is_there(self, name: str) -> bool:
        """Whether there is a run of this id, be it readable now or not.

        Raises:
            StorageError: the store cannot be reached.
        """
        return RunDirectory.exists(inside(self.runs_dir, name))

    def by_run_id(self, run_id: str) -> LiveRun | None:
        """Return the run that was made of this content, wherever it is among the runs."""
        found = self.listing(fresh=True).runs
        return next((run for run, _ in found.values() if run.run_id == run_id), None)

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, name: str) -> LiveRun | None:
        """Open one run, or return it as it was opened, where it is still the same."""
        if (
            not name
            or len(name) > _MOST_NAME
            or name.startswith(".")
            or "/" in name
            or "\\" in name
            or "\0" in name
        ):
            return None
        place = open_place(inside(self.runs_dir, name))
        entry = place.entry("manifest.json")
        if entry is None:
            self._known.pop(name, None)
            return None
        known = self._known.get(name)
        if known is None or known.opened != entry.stamp:
            known = LiveRun(name, RunDirectory.open(inside(self.runs_dir, name)), entry.stamp)
            self._known[name] = known
        return known

    def _list(self) -> Listing:
        found: dict[str, tuple[LiveRun, Seen]] = {}
        left_out: dict[str, str] = {}
        names = open_place(self.runs_dir).folders()

        def look(name: str) -> tuple[LiveRun, Seen] | str | None:
            try:
                run = self._one(name)
                return None if run is None else (run, run.see())
            except NeuroscanError as error:
                return str(error)

        answers: Iterator[tuple[LiveRun, Seen] | str | None]
        answers = self._pool.map(look, names) if is_url(self.runs_dir) else map(look, names)
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, str):
                left_out[name] = answer
            elif answer is not None:
                found[name] = answer
        for name in self._known.keys() - found.keys() - left_out.keys():
            del self._known[name]
        ordered = dict(
            sorted(found.items(), key=lambda item: (item[1][1].overview.created, item[0]), reverse=True)
        )
        stamps = [(name, seen.stamp) for name, (_, seen) in ordered.items()]
        return Listing(ordered, left_out, content_digest([stamps, sorted(left_out)], length=16))
