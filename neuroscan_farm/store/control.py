"""`control.json` of a run: what its user wants of it now."""

from __future__ import annotations

import json
from typing import NamedTuple

from neuroscan_farm.store.places import Place

_NAME = "control.json"


class Control(NamedTuple):
    """What the user wants of a run now, of whom, and how soon."""

    wanted: str = "running"  # or "paused", or "cancelled"
    executor: str = "local"  # a process of one machine; or "celery", the farm
    priority: int = 5  # 0 to 9: of several runs on a farm, those with 9 go first


def read_control(place: Place) -> Control:
    """Return what is wanted; what is missing or damaged in the file is the default.

    Raises:
        StorageError: the disk or the store failed.
    """
    control = Control()
    try:
        written = json.loads(place.read(_NAME))
    except (FileNotFoundError, ValueError, RecursionError):
        return control
    if isinstance(written, dict):
        for name in ("wanted", "executor"):
            if isinstance(written.get(name), str):
                control = control._replace(**{name: written[name]})
        if written.get("priority") in range(10):
            control = control._replace(priority=int(written["priority"]))
    return control


def write_control(place: Place, control: Control) -> None:
    """Replace what is wanted.

    Raises:
        StorageError: the disk or the store refused.
    """
    place.write(_NAME, json.dumps(control._asdict()).encode())
