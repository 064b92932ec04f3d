"""The files in a run's `parts/`: which are whole, and their rows, while others add, replace and join files.

Nobody locks anything. What holds instead: files are replaced as a whole; a file of joined parts is there before the
first of its parts goes; and before the first of them goes, a fresh `.joined` is written, so that a listing that
missed both (a folder is not listed in one moment) is known to be one, and is made again.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import pyarrow as pa

from neuroscan_farm.errors import StorageError
from neuroscan_farm.store.parsed import NoSense, parsed
from neuroscan_farm.store.part_file import (
    JOINED,
    SUFFIX,
    Footer,
    NotWhole,
    read_footer,
    read_rows,
)
from neuroscan_farm.store.places import Entry, Place

log = logging.getLogger(__name__)

_MARK = ".joined"
_THREADS = 16  # for stores where a request takes milliseconds
_MOST_LOOKS = 100
T = TypeVar("T")


class PartFolder:
    """The part files of one run. It keeps what it read of a file's metadata as long as the file does not change."""

    def __init__(self, place: Place, *, run_id: str, rows_per_task: int) -> None:
        self.place = place
        self.run_id = run_id
        self.rows_per_task = rows_per_task
        self._known: dict[
            str, tuple[str, Footer | str]
        ] = {}  # name -> stamp, and the footer or why it is bad

    def look(self) -> dict[str, tuple[Entry, Footer | str]]:
        """Return every part file with its footer, or with the reason why it is none of this run's whole parts.

        Raises:
            StorageError: the disk or the store failed.
        """
        for _ in range(_MOST_LOOKS):
            entries = self._listing()
            fresh = [entry for entry in entries if self._stale(entry)]
            found = list(self.each(self._judge, fresh))
            if None not in found:  # one has vanished: it was joined with others
                for entry, judged in zip(fresh, found, strict=True):
                    assert judged is not None
                    self._known[entry.name] = (entry.stamp, judged)
                self._known = {entry.name: self._known[entry.name] for entry in entries}
                return {entry.name: (entry, self._known[entry.name][1]) for entry in entries}
        raise StorageError(f"{self.place.location}: files are listed that cannot be found; mend the folder")

    def whole(self) -> dict[str, tuple[Entry, Footer]]:
        """Return the whole parts, and log nothing of the others."""
        return {
            name: (entry, judged)
            for name, (entry, judged) in self.look().items()
            if isinstance(judged, Footer)
        }

    def rows(self, entry: Entry, columns: list[str] | None = None) -> pa.Table | None:
        """Return the rows of a whole part; None where it has vanished. A part that is damaged is known to be so from now on.

        Raises:
            NotWhole: its rows are damaged.
            StorageError: the store failed.
        """
        try:
            return self._parsed(entry.name, lambda file: read_rows(file, columns))
        except NotWhole as why:
            self._known[entry.name] = (entry.stamp, f"its rows are damaged ({why})")
            raise

    def set_aside(self, name: str, why: str) -> str:
        """Move a file out of the way and return what to tell; somebody else may have done so.

        Raises:
            StorageError: the store refused.
        """
        with suppress(FileNotFoundError):
            self.place.move(name, f".bad-{name}")
        return f"{name}: {why}; moved aside to .bad-{name}, its tasks will be measured again"

    def before_removal(self) -> None:
        """Say that files whose rows are in another file by now are about to go.

        Raises:
            StorageError: the store refused.
        """
        self.place.write(_MARK, uuid.uuid4().hex.encode())

    def each(self, work: Callable[[Entry], T], entries: Iterable[Entry]) -> Iterator[T]:
        """Do something with every entry, side by side where waiting is most of the work; on a disk, Python's work is."""
        if self.place.root is not None:
            yield from map(work, entries)
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                yield from pool.map(work, entries)

    def _listing(self) -> list[Entry]:
        for _ in range(_MOST_LOOKS):
            mark = self._mark()
            entries = self.place.entries()
            if self._mark() == mark:
                return [e for e in entries if e.name.endswith(SUFFIX) and not e.name.startswith(".")]
        raise StorageError(f"{self.place.location}: the folder does not come to rest; try again")

    def _mark(self) -> bytes:
        try:
            return self.place.read(_MARK)
        except FileNotFoundError:
            return b""

    def _stale(self, entry: Entry) -> bool:
        return self._known.get(entry.name, ("",))[0] != entry.stamp

    def _judge(self, entry: Entry) -> Footer | str | None:
        try:
            footer = self._parsed(
                entry.name,
                lambda file: read_footer(file, run_id=self.run_id, rows_per_task=self.rows_per_task),
            )
        except NotWhole as why:
            return str(why)
        if footer is None:
            return None
        stem = entry.name.removesuffix(SUFFIX)
        if footer.shard_id is None:
            return footer if stem.startswith(JOINED) else "it holds joined parts"
        return footer if stem.split("-")[0] == footer.shard_id else f"it holds shard {footer.shard_id}"

    def _parsed(self, name: str, parse: Callable[[pa.NativeFile], T]) -> T | None:
        """Make something of a file; None where it has vanished.

        Raises:
            NotWhole: the file makes no sense.
            StorageError: the store failed.
        """
        try:
            return parsed(self.place, name, parse)
        except FileNotFoundError:
            return None
        except NoSense as why:
            raise NotWhole(f"not a whole Parquet file ({why})") from None


def overlapping(footers: Iterable[Footer]) -> set[str]:
    """Return the tasks that more than one of the files holds."""
    seen: set[str] = set()
    twice: set[str] = set()
    for footer in footers:
        twice.update(seen.intersection(footer.tasks))
        seen.update(footer.tasks)
    return twice


def stamps(files: Mapping[str, tuple[Entry, object]]) -> dict[str, str]:
    """Return what would differ if any of the files did."""
    return {name: entry.stamp for name, (entry, _) in files.items()}
