"""Joining parts, and taking tasks out of them, while others read and write.

A joined file is written and read back before the first of its parts goes. Its name is made of its content, so that two
that join the same parts write the same file. A compactor that is killed leaves rows twice at worst: readers take each
once, and the next compactor joins them again.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from neuroscan_farm.errors import StorageError
from neuroscan_farm.store.one_of_each import one_of_each
from neuroscan_farm.store.parsed import MAKES_NO_SENSE
from neuroscan_farm.store.part_file import (
    JOINED,
    SUFFIX,
    Footer,
    NotWhole,
    ShardTiming,
    encoded,
    read_footer,
    read_rows,
)
from neuroscan_farm.store.part_folder import PartFolder, overlapping
from neuroscan_farm.store.places import Entry

log = logging.getLogger(__name__)

MOST_ROWS = 100_000  # of one joined file: they are held in memory
_LEFT_BEHIND_SECONDS = 3600.0  # what a writer that was killed left aside


@dataclass(frozen=True, slots=True)
class _Source:
    entry: Entry
    footer: Footer


def compact(folder: PartFolder) -> int:
    """Join the parts of a folder; see `Parts.compact`."""
    files = {name: _Source(*found) for name, found in folder.whole().items()}
    twice = overlapping(source.footer for source in files.values())
    if not twice and all(source.footer.shard_id is None for source in files.values()):
        return 0
    _sweep(folder)
    wanted = [
        source
        for source in files.values()
        if source.footer.shard_id is not None
        or source.footer.rows < MOST_ROWS // 2
        or not twice.isdisjoint(source.footer.tasks)
    ]
    return sum(_join(folder, group) for group in _groups(wanted))


def forget(folder: PartFolder, task_ids: Collection[str]) -> int:
    """Take tasks out of the parts of a folder; see `Parts.forget`."""
    unwanted = frozenset(task_ids)
    forgotten: set[str] = set()
    while True:  # until no file holds one: a compactor may put one in place meanwhile
        holders = [
            _Source(*found) for found in folder.whole().values() if not unwanted.isdisjoint(found[1].tasks)
        ]
        if not holders:
            return len(forgotten)
        for source in holders:
            forgotten |= unwanted.intersection(source.footer.tasks)
            _take_out(folder, source, unwanted)


def _groups(sources: Sequence[_Source]) -> Iterator[list[_Source]]:
    """Cut sources into groups that fit in memory; files that share a task need not be in one group."""
    group: list[_Source] = []
    rows = 0
    # Joined ones first: they grow, and of those that are full already few are read again.
    for source in sorted(sources, key=lambda s: (s.footer.shard_id is not None, s.entry.name)):
        if group and rows + source.footer.rows > MOST_ROWS:
            yield group
            group, rows = [], 0
        group.append(source)
        rows += source.footer.rows
    if group:
        yield group


def _join(folder: PartFolder, group: Sequence[_Source]) -> int:
    if len(group) == 1 and group[0].footer.shard_id is None:
        return 0
    tables, sources = [], []
    for source, table in zip(
        group, folder.each(lambda e: _rows(folder, e), (s.entry for s in group)), strict=True
    ):
        if table is not None:
            tables.append(table)
            sources.append(source)
    if not sources:
        return 0
    table = pa.concat_tables(tables)
    if overlapping(source.footer for source in sources):
        table = one_of_each(table)
    name = _write_joined(folder, table, sources)
    if name is None:
        return 0
    _drop_what_was_forgotten(folder, name, sources)
    folder.before_removal()
    now = {entry.name: entry.stamp for entry in folder.place.entries()}
    for source in sources:
        if source.entry.name != name and now.get(source.entry.name) == source.entry.stamp:
            folder.place.remove(source.entry.name)
    return sum(source.footer.shard_id is not None for source in sources)


def _rows(folder: PartFolder, entry: Entry) -> pa.Table | None:
    try:
        return folder.rows(entry)
    except NotWhole as why:
        log.warning("%s", folder.set_aside(entry.name, str(why)))
        return None


def _write_joined(folder: PartFolder, table: pa.Table, sources: Sequence[_Source]) -> str | None:
    """Write the rows of the sources into one file, read it back, and return its name; None where another is there."""
    timings: dict[ShardTiming, None] = {}
    for source in sources:
        timings |= dict.fromkeys(source.footer.timings)
    data = encoded(
        table,
        run_id=folder.run_id,
        shard_id=None,
        tasks=pc.unique(table["task_id"]).to_pylist(),
        timings=timings,
        committed=max(_committed(source) for source in sources),
    )
    name = f"{JOINED}{hashlib.blake2b(data).hexdigest()[:16]}{SUFFIX}"
    if folder.place.entry(name) is None:
        folder.place.write(name, data)
    try:
        with folder.place.open_file(name) as file:
            read_footer(file, run_id=folder.run_id, rows_per_task=folder.rows_per_task)
            written = read_rows(file)
    except FileNotFoundError:  # another compactor has joined it with more
        return None
    except (NotWhole, *MAKES_NO_SENSE) as error:
        folder.place.remove(name)
        raise StorageError(
            f"{folder.place.where(name)}: what was written does not read back ({error}); no part was removed: "
            "check the disk, then try again"
        ) from error
    if (
        written.num_rows != table.num_rows
    ):  # tasks were forgotten in a file that another compactor made of the same
        return None
    if not _equal(written, table):
        folder.place.remove(name)
        raise StorageError(
            f"{folder.place.where(name)}: other rows come back than were written; no part was removed: "
            "check the disk, then try again"
        )
    return name


def _equal(left: pa.Table, right: pa.Table) -> bool:
    """Whether two tables are the same; NaN, which only a stranger's part can hold, equals itself."""
    return all(
        a.equals(b) or [repr(value) for value in a.to_pylist()] == [repr(value) for value in b.to_pylist()]
        for a, b in zip(left.columns, right.columns, strict=True)
    )


def _drop_what_was_forgotten(folder: PartFolder, name: str, sources: Sequence[_Source]) -> None:
    """Take tasks out of a joined file that were taken out of its sources since these were read."""
    now = folder.whole()
    gone = {
        task
        for source in sources
        if source.entry.name in now and now[source.entry.name][0].stamp != source.entry.stamp
        for task in set(source.footer.tasks).difference(now[source.entry.name][1].tasks)
    }
    if gone and name in now:
        _take_out(folder, _Source(*now[name]), frozenset(gone))


def _take_out(folder: PartFolder, source: _Source, unwanted: frozenset[str]) -> None:
    """Write a part anew, under its name, without some tasks; where it has vanished, whoever joined it has its rows."""
    table = _rows(folder, source.entry)
    if table is None:
        return
    footer = source.footer
    data = encoded(
        table.filter(pc.invert(pc.is_in(table["task_id"], value_set=pa.array(sorted(unwanted))))),
        run_id=folder.run_id,
        shard_id=footer.shard_id,
        tasks=[task for task in footer.tasks if task not in unwanted],
        timings=footer.timings,
        committed=None if footer.shard_id is not None else _committed(source),
    )
    folder.place.write(source.entry.name, data)


def _committed(source: _Source) -> float:
    return source.entry.modified if source.footer.committed is None else source.footer.committed


def _sweep(folder: PartFolder) -> None:
    """Remove what writers that were killed long ago left aside."""
    oldest = time.time() - _LEFT_BEHIND_SECONDS
    for entry in folder.place.entries():
        if entry.name.startswith(".tmp-") and entry.modified < oldest:
            folder.place.remove(entry.name)
