"""What a worker's child has done, counted in a small file that its parent reads: it survives the child, and costs nothing.

One process adds at a time (the pool's one child, or the one after it), others read. The file is a row of doubles.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from neuroscan_farm.errors import NeuroscanError
from neuroscan_farm.store.run_directory import RunDirectory

COUNTS = ("shards_finished", "shards_failed", "shards_left", "tasks", "evaluations", "busy_seconds")

_ROW = struct.Struct(f"={len(COUNTS)}d")


class Tally:
    """The counts of one worker, since its start."""

    def __init__(self, path: Path) -> None:
        """Open the file that `create` made.

        Raises:
            OSError: it is not there.
        """
        self.path = path
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _ROW.size)

    @classmethod
    def create(cls) -> Tally:
        """Make a new one, in the machine's folder for temporary files."""
        handle, name = tempfile.mkstemp(prefix="neuroscan-tally-")
        with os.fdopen(handle, "wb") as file:
            file.write(_ROW.pack(*[0.0] * len(COUNTS)))
        return cls(Path(name))

    def add(self, **amounts: float) -> None:
        """Add to counts of `COUNTS`."""
        row = dict(zip(COUNTS, _ROW.unpack(self._memory[:]), strict=True))
        for name, amount in amounts.items():
            row[name] += amount
        self._memory[:] = _ROW.pack(*row.values())

    def read(self) -> dict[str, float]:
        """Return all counts."""
        return dict(zip(COUNTS, _ROW.unpack(self._memory[:]), strict=True))

    def remove(self) -> None:
        """Take the file away; what is open stays usable."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def counted(tally: Tally | None, run: RunDirectory, *, worker: str, shard_id: str) -> Iterator[None]:
    """Count the parts that this worker writes of a shard inside, also of a shard that is not finished."""
    started = time.time()
    whole = False
    try:
        yield
        whole = True
    finally:
        if tally is not None:
            with contextlib.suppress(NeuroscanError):  # numbers are not worth a shard
                _count_parts(tally, run, worker=worker, shard_id=shard_id, since=started, whole=whole)


def _count_parts(
    tally: Tally, run: RunDirectory, *, worker: str, shard_id: str, since: float, whole: bool
) -> None:
    ours = [
        timing
        for timing in run.parts.look().timings
        if (timing.worker, timing.shard_id) == (worker, shard_id) and timing.started >= since
    ]
    tally.add(
        shards_finished=float(whole and bool(ours)),
        tasks=sum(timing.tasks for timing in ours),
        evaluations=sum(timing.evaluations for timing in ours),
        busy_seconds=sum(timing.seconds for timing in ours),
    )
