"""Parts: the rows of finished tasks. A task is done if and only if a whole part of the run holds it.

Workers add parts; `compact` joins them. A part that cannot be read, or is somebody else's, is moved aside, so that
its tasks count as missing again and are measured anew. The same task may be in several parts: readers take each of
its rows once.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.errors import StorageError
from neuroscan_farm.store.compaction import compact, forget
from neuroscan_farm.store.one_of_each import one_of_each
from neuroscan_farm.store.part_file import (
    OUTCOME_RANK,
    SUFFIX,
    Footer,
    NotWhole,
    ShardTiming,
    encoded,
    part_name,
    rows_schema,
    tasks_of,
)
from neuroscan_farm.store.part_folder import PartFolder, overlapping, stamps
from neuroscan_farm.store.places import Entry, Place

__all__ = ["Parts", "Progress", "ShardTiming"]

log = logging.getLogger(__name__)

_KEYS = ("task_id", "probe", "sample_id", "outcome", "attempt", "shard_id")
_MOST_LOOKS = 100


@dataclass(frozen=True, slots=True)
class Progress:
    """What is done of a run, from its parts' metadata."""

    done: frozenset[str]  # tasks
    failed: Mapping[str, str]  # those of them with a row that is not ok -> the worst outcome
    outcomes: Counter[str]  # rows
    timings: tuple[ShardTiming, ...]  # of all parts, in the order of their start
    loose: int  # parts that are not joined with others
    last_commit: float  # seconds since 1970, by the store's clock; 0 before the first


class Parts:
    """The parts of one run."""

    def __init__(self, place: Place, *, run_id: str, rows_per_task: int) -> None:
        self._folder = PartFolder(place, run_id=run_id, rows_per_task=rows_per_task)
        self._seen: dict[str, str] | None = None
        self._progress = Progress(frozenset(), {}, Counter(), (), 0, 0.0)

    def path(self, shard_id: str) -> Path:
        """Where the part of a whole shard lies until it is joined with others, in a run on a disk."""
        assert self._folder.place.root is not None
        return self._folder.place.root / f"{shard_id}{SUFFIX}"

    def write(self, shard_id: str, table: pa.Table, timing: ShardTiming) -> None:
        """Commit rows of a shard, of all its tasks or of some; the same tasks again replace equal rows by equal rows.

        Raises:
            StorageError: the disk or the store refused.
        """
        tasks = tasks_of(table)
        data = encoded(table, run_id=self._folder.run_id, shard_id=shard_id, tasks=tasks, timings=[timing])
        self._folder.place.write(part_name(shard_id, tasks), data)

    def look(self) -> Progress:
        """Say what is done. Only files that are new or changed are opened; where nothing is, the answer is the same object.

        Raises:
            StorageError: the disk or the store failed.
        """
        files = self._folder.whole()
        seen = stamps(files)
        if seen != self._seen:
            self._progress = _progress(files.values(), self._folder.rows_per_task, self._progress)
            self._seen = seen
        return self._progress

    def set_bad_aside(self, *, thorough: bool = False) -> list[str]:
        """Move parts that are not whole or not ours out of the way; return why, one line each.

        Args:
            thorough: read all rows too, for a byte that changed on the disk shows there alone.

        Raises:
            StorageError: the disk or the store refused.
        """
        if thorough:  # whoever reads a damaged part knows from then on that it is
            entries = [entry for entry, _ in self._folder.whole().values()]
            list(self._folder.each(lambda entry: self._rows(entry, None) and None, entries))
        return [
            self._folder.set_aside(name, judged)
            for name, (_, judged) in self._folder.look().items()
            if isinstance(judged, str)
        ]

    def compact(self) -> int:
        """Join the parts into few files, while others read and write; return how many parts were joined.

        Raises:
            StorageError: the disk or the store refused; every row is still there.
        """
        return compact(self._folder)

    def forget(self, task_ids: Collection[str]) -> int:
        """Write parts anew without the rows of some tasks, so that these are missing; return how many were there.

        Raises:
            StorageError: the disk or the store refused.
        """
        return forget(self._folder, task_ids)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of all parts, each (task, probe, sample) once: ok before failed, then the earliest attempt.

        A part that cannot be read, or is another run's, is left out with a warning: one bad file must not hide the
        others, nor mix into them.

        Raises:
            StorageError: the disk or the store failed.
        """
        wanted = None if columns is None else [*columns, *(key for key in _KEYS if key not in columns)]
        tables: dict[tuple[str, str], pa.Table] = {}
        warned: set[str] = set()
        for _ in range(_MOST_LOOKS):
            files = self._folder.look()
            for name, (_, judged) in files.items():
                if isinstance(judged, str) and name not in warned:
                    warned.add(name)
                    log.warning("part %s is left out: %s", self._folder.place.where(name), judged)
            whole = {n: (entry, judged) for n, (entry, judged) in files.items() if isinstance(judged, Footer)}
            wanting = [entry for entry, _ in whole.values() if (entry.name, entry.stamp) not in tables]
            found = list(self._folder.each(lambda entry: self._rows(entry, wanted), wanting))
            tables |= {
                (entry.name, entry.stamp): table
                for entry, table in zip(wanting, found, strict=True)
                if table is not None
            }
            if all(table is not None for table in found):
                break  # nothing vanished, nothing was found to be damaged
        else:
            raise StorageError(f"{self._folder.place.location}: the folder does not come to rest; try again")
        rows = [tables[entry.name, entry.stamp] for entry, _ in whole.values()]
        table = pa.concat_tables(rows) if rows else rows_schema(wanted).empty_table()
        if overlapping(footer for _, footer in whole.values()):
            table = one_of_each(table)
        return table if columns is None else table.select(columns)

    def _rows(self, entry: Entry, columns: list[str] | None) -> pa.Table | None:
        try:
            return self._folder.rows(entry, columns)
        except NotWhole:
            return None  # the next look leaves it out, and says so


def _progress(files: Iterable[tuple[Entry, Footer]], rows_per_task: int, before: Progress) -> Progress:
    well: set[str] = set()
    failed: dict[
        str, tuple[int, Mapping[str, int]]
    ] = {}  # by its worst outcome; of several, the best of these
    timings: dict[ShardTiming, None] = {}
    loose, last_commit = 0, 0.0
    for entry, footer in files:
        well.update(
            task for task in footer.tasks if task not in footer.failed
        ) if footer.failed else well.update(footer.tasks)
        for task, counts in footer.failed.items():
            worst = max(OUTCOME_RANK[outcome] for outcome in counts)
            if task not in failed or worst < failed[task][0]:
                failed[task] = (worst, counts)
        timings |= dict.fromkeys(footer.timings)
        loose += footer.shard_id is not None
        last_commit = max(last_commit, entry.modified if footer.committed is None else footer.committed)
    for task in well.intersection(failed):
        del failed[task]
    outcomes = Counter({Outcome.OK.value: len(well) * rows_per_task})
    for _, counts in failed.values():
        outcomes.update(counts)
    names = [outcome.value for outcome in Outcome]
    done = frozenset(well.union(failed))
    return Progress(
        done=before.done if done == before.done else done,
        failed={task: names[worst] for task, (worst, _) in failed.items()},
        outcomes=+outcomes,
        timings=tuple(sorted(timings, key=lambda timing: (timing.started, timing.shard_id, timing.worker))),
        loose=loose,
        last_commit=last_commit,
    )
