"""A program of ours that is killed (SIGKILL) at named points, once at each. The points are set from outside.

    FAULT_POINTS="claimed,committed" FAULT_MARKS=FOLDER python -m tests.faults.killed_at worker|driver|cli ARGUMENTS...

A point that was reached leaves a file of its name in FAULT_MARKS. Processes that the program spawns import this module
again, so that points in them are set too.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import CeleryDispatcher
from neuroscan_farm.dispatch.local import LocalExecutor
from neuroscan_farm.store.attempts import Attempts
from neuroscan_farm.store.part_folder import PartFolder
from neuroscan_farm.store.parts import Parts
from neuroscan_farm.store.run_directory import RunDirectory
from workers.claims import Claim

# Name -> where: the method, and whether before or after it.
POINTS: dict[str, tuple[type, str, str]] = {
    # a worker
    "before the claim": (Broker, "claim", "before"),
    "claimed": (Broker, "claim", "after"),
    "in a task": (Claim, "working_on", "after"),
    "before the commit": (Parts, "write", "before"),
    "committed": (Parts, "write", "after"),
    "released": (Claim, "release", "after"),
    # a coordinator
    "before an order": (CeleryDispatcher, "send", "before"),
    "order noted": (Broker, "note_sent", "after"),
    "order sent": (CeleryDispatcher, "send", "after"),
    "order given": (LocalExecutor, "send", "after"),
    "death recorded": (Attempts, "record", "after"),
    "before a new plan": (RunDirectory, "write_plan", "before"),
    "new plan": (RunDirectory, "write_plan", "after"),
    "parts joined": (PartFolder, "before_removal", "before"),
    "parts about to go": (PartFolder, "before_removal", "after"),
}
# Between writing a part aside and renaming it: the last moment at which the commit has not happened.
WRITTEN_ASIDE = "written aside"


def set_points(names: list[str], marks: Path) -> None:
    """Set the points in this process."""
    for name in names:
        if name == WRITTEN_ASIDE:
            Path.replace = _wrapped(Path.replace, "before", marks / name, only="parts/.tmp-")  # type: ignore[method-assign]
        else:
            owner, method, when = POINTS[name]
            setattr(owner, method, _wrapped(getattr(owner, method), when, marks / name))


def _wrapped(method: Callable[..., Any], when: str, mark: Path, only: str = "") -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        if when == "before" and only in str(arguments[0] if only else ""):
            _die_once(mark)
        result = method(*arguments, **options)
        if when == "after":
            _die_once(mark)
        return result

    return wrapper


def _die_once(mark: Path) -> None:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def drive_one(location: str, url: str, queue: str) -> None:
    """Drive one run of a farm, with no lease: a second coordinator beside those of the workers."""
    from neuroscan_farm.coordinator.drive import drive
    from neuroscan_farm.dispatch.celery_queue import make_app
    from tests.farm_fixtures import IMPATIENT

    run = RunDirectory.open(location)
    broker = Broker(url, queue=queue, timings=IMPATIENT)
    drive(run, CeleryDispatcher(run, broker, make_app(url, queue)), poll_seconds=0.05)


if "FAULT_POINTS" in os.environ:
    set_points(
        [name for name in os.environ["FAULT_POINTS"].split(",") if name], Path(os.environ["FAULT_MARKS"])
    )

if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    sys.argv[1:] = arguments
    if program == "worker":
        from workers.__main__ import main

        sys.exit(main(arguments))
    elif program == "driver":
        drive_one(*arguments)
    else:
        from neuroscan_farm.__main__ import main as command_line

        command_line()
