"""What a child of the local executor runs. It is pinned before torch is imported, and never outlives its parent."""

from __future__ import annotations

import logging
import signal
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscan_farm.dispatch.devices import DeviceSet, pin
from neuroscan_farm.dispatch.parent_death import die_with_parent
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.errors import CancelledRun, NeuroscanError
from neuroscan_farm.store.run_directory import RunDirectory

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


def child_main(pipe: Connection, settings: ChildSettings) -> None:
    """Carry out orders from the pipe until it ends.

    Says ("task", id) before each task, and after each order ("done",), ("dropped",) for a cancelled run,
    ("refused", message, exit code), or ("failed", traceback) for what is our own bug.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    die_with_parent()
    pin(settings.device_set)
    logging.basicConfig(
        level=settings.log_level, format=f"%(asctime)s %(levelname)s {settings.name} %(message)s"
    )
    worker = _Worker(pipe, settings)
    while True:
        try:
            order = ShardOrder.model_validate_json(pipe.recv_bytes())
            pipe.send(worker.carry_out(order))
        except (EOFError, OSError):  # the parent is gone
            return


class _Worker:
    """Carries out orders with a model that stays warm between them."""

    def __init__(self, pipe: Connection, settings: ChildSettings) -> None:
        self._pipe = pipe
        self._settings = settings
        self._warm: WarmModel | None = None

    def carry_out(self, order: ShardOrder) -> tuple[str, ...]:
        """Carry out one order and return what to say of it."""
        try:
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
            )
        execute_shard(
            RunDirectory.open(Path(order.run_dir)),
            order.shard_id,
            order.attempt,
            worker=self._settings.name,
            warm=self._warm,
            on_task=lambda task_id: self._pipe.send(("task", task_id)),
        )
