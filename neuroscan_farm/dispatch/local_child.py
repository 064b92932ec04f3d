"""What a child of the local executor runs. It is pinned before torch is imported, and never outlives its parent."""

from __future__ import annotations

import json
import signal
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscan_farm.dispatch.devices import DeviceSet, pin
from neuroscan_farm.dispatch.parent_death import die_with_parent
from neuroscan_farm.dispatch.places_here import PlacesHere
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.errors import CancelledRun, NeuroscanError
from neuroscan_farm.logs import LogFormat, log_bugs, log_context, log_ids, set_up_logs
from neuroscan_farm.store.last_run import LastRun

if TYPE_CHECKING:
    from neuroscan_farm.engine.warm import WarmModel


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """What a child needs to know from its start."""

    name: str
    device_set: DeviceSet
    cache_dir: Path
    cache_bytes: int
    log_level: str
    log_format: LogFormat = "text"
    places: PlacesHere = field(default_factory=PlacesHere)


def child_main(pipe: Connection, settings: ChildSettings) -> None:
    """Carry out orders from the pipe until it ends.

    Says, as JSON, ["task", id] before each task, ["progress"] while it loads, and after each order ["done"],
    ["dropped"] for a run that was cancelled or paused, ["refused", message, exit code], or ["failed", traceback]
    for what is our own bug.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    die_with_parent()
    pin(settings.device_set)
    set_up_logs(settings.log_level, settings.log_format, worker=settings.name)
    log_bugs()
    worker = _Worker(pipe, settings)
    signal.signal(signal.SIGTERM, worker.leave)
    while True:
        try:
            order = ShardOrder.model_validate_json(pipe.recv_bytes())
            say(pipe, *worker.carry_out(order))
        except (EOFError, OSError):  # the parent is gone
            return


def say(pipe: Connection, *words: str) -> None:
    """Say something as JSON; a pipe that would unpickle what it reads could run code.

    Raises:
        OSError: nobody listens any more.
    """
    pipe.send_bytes(json.dumps(words).encode())


def hear(pipe: Connection) -> list[str]:
    """What was said next.

    Raises:
        EOFError: the other side is gone.
        OSError: the same.
        ValueError: this is not what `say` writes.
    """
    words: Any = json.loads(pipe.recv_bytes())
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"a list of words was expected, not {str(words)[:80]}")
    return words


class _Worker:
    """Carries out orders with a model that stays warm between them."""

    def __init__(self, pipe: Connection, settings: ChildSettings) -> None:
        self._pipe = pipe
        self._settings = settings
        self._warm: WarmModel | None = None
        self._leaving = False
        self._last_run = LastRun()

    def carry_out(self, order: ShardOrder) -> tuple[str, ...]:
        """Carry out one order and return what to say of it."""
        try:
            with log_context(run=order.run_id, shard=order.shard_id, attempt=order.attempt):
                self._execute(order)
        except CancelledRun:
            return ("dropped",)
        except NeuroscanError as error:
            return ("refused", str(error), str(error.exit_code))
        except Exception:  # our bug, or the machine's: recorded as this attempt's death, and tried again
            return ("failed", traceback.format_exc())
        return ("done",)

    def _execute(self, order: ShardOrder) -> None:
        # Imported late: torch must not be loaded before the process is pinned, nor in the parent.
        from neuroscan_farm.engine.shard import execute_shard
        from neuroscan_farm.engine.warm import WarmModel

        if self._warm is None:
            self._warm = WarmModel(
                memory_mb=self._settings.device_set.memory_mb,
                memory_limit_mb=self._settings.device_set.memory_limit_mb,
                stream=self._settings.device_set.stream,
                threads=self._settings.device_set.threads,
                cache_dir=self._settings.cache_dir,
                cache_bytes=self._settings.cache_bytes,
                folder_here=self._settings.places.model_folder,
                on_progress=self._progress,
            )
        execute_shard(
            self._last_run.open(order.location),
            order.shard_id,
            order.attempt,
            worker=self._settings.name,
            warm=self._warm,
            on_task=self._begin,
        )

    def leave(self, *_: object) -> None:
        """Hand the present order back at its next task; what is finished of it is committed."""
        self._leaving = True

    def _begin(self, task_id: str) -> None:
        self._stay()
        log_ids(task=task_id)
        say(self._pipe, "task", task_id)

    def _progress(self) -> None:
        self._stay()
        say(self._pipe, "progress")

    def _stay(self) -> None:
        if self._leaving:
            raise CancelledRun("this worker was asked to leave")
