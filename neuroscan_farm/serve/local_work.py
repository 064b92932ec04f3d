"""Runs that this machine carries out itself, where no farm does: one at a time, each by a process of its own.

The queue lies in the run directories (`serve.json`), so a server that is killed and started again goes on with it. A
process that outlives its server drives its run to the end all the same; the next server waits for it.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroscan_farm.errors import NeuroscanError
from neuroscan_farm.logs import without_secrets
from neuroscan_farm.serve.runs import LiveRun, Runs, Seen
from neuroscan_farm.serve.waiting import Waiting, write_waiting

log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.5  # at a process in hand
_IDLE_SECONDS = 5.0  # for runs that an earlier server put into the queue
_STOP_SECONDS = 20.0
_DONE = {0, 3}  # exit codes of a run that is finished, some of whose tasks may have failed
PROGRAM = (sys.executable, "-P", "-m", "neuroscan_farm")


@dataclass(slots=True)
class _InHand:
    run: LiveRun
    process: subprocess.Popen[bytes]
    told: Path  # what the process says


class LocalWork:
    """The queue of this machine, and the run in hand.

    Args:
        runs: all runs.
        folder: where what the processes say is kept.
    """

    def __init__(self, runs: Runs, folder: Path) -> None:
        self._runs, self._folder = runs, folder
        self._in_hand: _InHand | None = None
        self._stop = threading.Event()
        self._look_now = threading.Event()
        self._thread = threading.Thread(target=self._work, name="local-work", daemon=True)

    def start(self) -> None:
        """Work from now on."""
        self._thread.start()

    def close(self) -> None:
        """Stop the run in hand in order: what it has finished stays, and the next server goes on with it."""
        self._stop.set()
        self._look_now.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_STOP_SECONDS)
        if self._in_hand is not None:
            _end(self._in_hand.process)

    def enqueue(self, run: LiveRun) -> None:
        """Have a run carried out when its turn comes; one that waits already keeps its place.

        Raises:
            StorageError: the disk or the store refused.
        """
        waiting = run.see().waiting
        if waiting is None or waiting.error is not None:
            write_waiting(run.directory, Waiting(time.time()))
        self._runs.changed()
        self._look_now.set()

    def dequeue(self, run: LiveRun) -> None:
        """Have a run wait no more.

        Raises:
            StorageError: the disk or the store refused.
        """
        write_waiting(run.directory, None)
        self._runs.changed()
        self._look_now.set()

    def holds(self, run: LiveRun) -> bool:
        """Whether a process of this server drives the run."""
        in_hand = self._in_hand
        return in_hand is not None and in_hand.run.id == run.id

    def queue(self) -> list[str]:
        """The ids of the runs that wait, the next first."""
        return [run.id for run, _ in self._queued()]

    def running(self) -> str | None:
        """The id of the run in hand, of this server's or of one before."""
        for run, seen in self._runs.listing().runs.values():
            if seen.waiting is not None and seen.overview.state == "running":
                return run.id
        return None

    def _queued(self) -> Sequence[tuple[LiveRun, Seen]]:
        found = [
            (run, seen)
            for run, seen in self._runs.listing().runs.values()
            if seen.waiting is not None and seen.waiting.error is None and is_waiting(seen)
        ]
        return sorted(found, key=lambda one: (one[1].waiting.queued if one[1].waiting else 0.0, one[0].id))

    def _work(self) -> None:
        while not self._stop.is_set():
            self._look_now.clear()
            try:
                self._step()
            except NeuroscanError as error:
                log.warning("local runs: %s", error)
            except Exception:  # one bad run must not stop the others
                log.exception("local runs")
            self._look_now.wait(_IDLE_SECONDS if self._in_hand is None else _LOOK_SECONDS)

    def _step(self) -> None:
        if self._in_hand is not None:
            if self._in_hand.process.poll() is None:
                self._give_way(self._in_hand)
                return
            self._settle(self._in_hand)
            self._in_hand = None
        self._clear_finished()
        queued = self._queued()
        if queued and self.running() is None and not self._stop.is_set():
            self._begin(queued[0][0])

    def _begin(self, run: LiveRun) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        told = self._folder / f"{run.run_id}.log"
        command = [*PROGRAM, "resume", run.directory.location]
        with told.open("wb") as sink:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=sink,
                start_new_session=True,  # Ctrl-C reaches the server alone, which ends it in order
            )
        log.info("run %s is carried out here by process %d", run.run_id, process.pid)
        self._in_hand = _InHand(run, process, told)

    def _give_way(self, in_hand: _InHand) -> None:
        """A paused run keeps its process, and its memory, only while nobody else waits."""
        if in_hand.run.directory.wanted() == "paused" and self._queued():
            in_hand.process.terminate()

    def _settle(self, in_hand: _InHand) -> None:
        code, run = in_hand.process.returncode, in_hand.run
        seen = run.see()
        if code in _DONE or seen.overview.state in {"finished", "cancelled", "paused"}:
            write_waiting(run.directory, None)
        else:
            said = _last_error(in_hand.told) or f"its process ended with exit code {code}"
            log.warning("run %s: %s", run.run_id, said)
            if seen.waiting is not None:
                write_waiting(run.directory, Waiting(seen.waiting.queued, said))

    def _clear_finished(self) -> None:
        """Take out what an earlier server's process finished."""
        for run, seen in self._runs.listing().runs.values():
            if (
                seen.waiting is not None
                and seen.overview.state in {"finished", "cancelled"}
                and not _added(seen)
            ):
                write_waiting(run.directory, None)


def is_waiting(seen: Seen) -> bool:
    """Whether a run, or what was added to it, could go on and nobody carries it out."""
    state = seen.overview.state
    if seen.overview.executor != "local":
        return False
    return state == "stopped" or (state == "finished" and _added(seen))


def _added(seen: Seen) -> bool:
    return any(one.state == "stopped" and one.executor == "local" for one in seen.additions)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_error(told: Path) -> str | None:
    """The error that a process ended with, as it said it."""
    try:
        text = told.read_bytes()[-20_000:].decode("utf-8", "replace")
    except OSError:
        return None
    _, found, rest = text.rpartition("error: ")
    return without_secrets(rest.strip())[:2000] if found else None
