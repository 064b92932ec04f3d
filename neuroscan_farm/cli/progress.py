"""What a person sees on stderr while a run goes on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from neuroscan_farm.dispatch.base import Event, WorkerDied

if TYPE_CHECKING:
    from neuroscan_farm.coordinator.drive import Driver

_SECONDS_BETWEEN_LINES = 10.0


class RunProgress:
    """Shows how far a driven run is. Use it as a context manager and call it after each step."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True)
        self._bar = self._console.is_terminal and not quiet
        self._quiet = quiet
        self._next_line = 0.0
        self._known = -1
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._bar,
        )
        self._line = self._progress.add_task("loading the model", total=None, rate="")
        self._started = time.monotonic()
        self._at_start: int | None = None
        self._paused = False

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, driver: Driver, events: list[Event]) -> None:
        """Show the state after a step of the driver."""
        for event in events:
            if isinstance(event, WorkerDied):
                last = event.error.strip().splitlines()[-1]
                self.say(
                    f"worker {event.worker} died ({last}); another one takes over shard {event.shard_id}"
                )
        done, total = driver.tasks_done, driver.tasks
        if self._at_start is None:
            self._at_start = done
            for notice in driver.notices:
                self.say(notice)
            if done:
                self.say(f"resuming: {done} of {total} tasks are finished")
        elapsed = time.monotonic() - self._started
        paused, self._paused = self._paused, driver.paused
        if driver.paused and not paused:
            self.say(f"paused; go on with: neuroscan-farm resume {driver.run.location}")
        working = total > 0 and (done > 0 or bool(events))
        self._progress.update(
            self._line,
            description="paused" if driver.paused else "scanning" if working else "loading the model",
            total=total,
            completed=done,
            rate=f"{done / elapsed:.1f} tasks/s" if done and not self._at_start else "tasks",
        )
        due = time.monotonic() >= self._next_line or done == total
        if not self._bar and not self._quiet and done != self._known and due:
            self._known, self._next_line = done, time.monotonic() + _SECONDS_BETWEEN_LINES
            self.say(f"{done} of {total} tasks finished")

    def say(self, text: str) -> None:
        """Print a line of plain text above the bar."""
        if not self._quiet:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a plain line for the person, on stderr."""
    print(text, file=sys.stderr)
