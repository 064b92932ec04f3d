"""`serve.json` of a run: that it waits for this machine, or why it could not be carried out here.

The queue of a server without a farm is these files, and nothing else: it survives the server.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from neuroscan_farm.store.run_directory import RunDirectory

_NAME = "serve.json"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run's place in the queue of this machine."""

    queued: float  # seconds since 1970; the earliest goes first
    error: str | None = None  # why it ended before its time; it waits no more


def read_waiting(run: RunDirectory) -> Waiting | None:
    """Return a run's place in the queue; None where it has none.

    Raises:
        StorageError: the disk or the store failed.
    """
    try:
        written = json.loads(run.place.read(_NAME))
        error = written.get("error")
        return Waiting(float(written["queued"]), None if error is None else str(error))
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def write_waiting(run: RunDirectory, waiting: Waiting | None) -> None:
    """Put a run into the queue, or take it out.

    Raises:
        StorageError: the disk or the store refused.
    """
    if waiting is None:
        run.place.remove(_NAME)
    else:
        run.place.write(_NAME, json.dumps(asdict(waiting)).encode())
