"""A child that makes no progress for longer than its order allows is killed, and its death is reported with the reason.

The watch is kept in the worker's main process: it knows what its child was given, also when the child is frozen and its
claim has long been taken over. Progress is what the child's record on the broker says; how long there was none is
measured by this process's own monotonic clock, so that a clock that jumps kills nobody.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.errors import BrokerError
from workers.presence import claims_of

log = logging.getLogger(__name__)

_DYING_SECONDS = 5.0


class InHand(NamedTuple):
    """An order that a child of this worker carries out."""

    order: ShardOrder
    pid: int


class HungWatch:
    """Looks after the progress of this worker's child."""

    def __init__(
        self,
        broker: Broker,
        *,
        name: str,
        host: str,
        in_hand: Callable[[], Iterable[InHand]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._name = name
        self._host = host
        self._in_hand = in_hand
        self._clock = clock
        self._marks: dict[InHand, tuple[object, float]] = {}  # what was last seen of it, and since when

    def look(self) -> None:
        """Kill the child if it has made no progress for too long.

        Raises:
            BrokerError: the broker is out of reach, so that nobody can say whether there was progress.
        """
        try:
            claims = claims_of(self._broker, name=self._name, host=self._host)
        except BrokerError:
            self._marks.clear()
            raise
        records = {(run_id, record.shard_id, record.pid): record for run_id, record in claims}
        marks: dict[InHand, tuple[object, float]] = {}
        for item in self._in_hand():
            record = records.get((item.order.run_id, item.order.shard_id, item.pid))
            seen = None if record is None else (record.token, record.task_id, record.progressed)
            before, since = self._marks.get(item, (seen, self._clock()))
            if seen != before:
                since = self._clock()
            # Whoever has lost its claim is not loading for this order any more.
            limit = item.order.limit_seconds if record is None else item.order.limit_at(record.task_id)
            if self._clock() - since > limit:
                self._kill(item, limit)
            else:
                marks[item] = seen, since
        self._marks = marks

    def _kill(self, item: InHand, limit: float) -> None:
        why = f"hung: no progress for {limit:g} s"
        log.warning(
            "worker %s: its child %d in shard %s is killed: %s",
            self._name,
            item.pid,
            item.order.shard_id,
            why,
        )
        with contextlib.suppress(ProcessLookupError):
            os.kill(item.pid, signal.SIGKILL)
        until = time.monotonic() + _DYING_SECONDS
        while not is_gone(item.pid) and time.monotonic() < until:
            time.sleep(0.02)
        for run_id, record in claims_of(self._broker, name=self._name, host=self._host):
            if record.pid == item.pid:
                self._broker.bury(run_id, record, witnessed=True, error=why)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, also if nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return True
    except OSError:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
