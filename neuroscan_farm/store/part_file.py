"""One part file: rows, and in the file's metadata whose they are, which tasks they hold, and how long they took.

The metadata alone tells what is done: nobody needs to read rows for that.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.store.schema import MEASUREMENTS, MEASUREMENTS_VERSION

SUFFIX = ".parquet"
JOINED = "joined-"  # the name of a file of several parts begins so, a shard's part with the shard's id
_MANY_ROWS = 1000

OUTCOME_RANK: dict[str, int] = {outcome.value: rank for rank, outcome in enumerate(Outcome)}  # ok first


@dataclass(frozen=True, slots=True)
class ShardTiming:
    """How long a worker took for the tasks of one part."""

    shard_id: str
    worker: str
    device: str
    attempt: int
    started: float  # seconds since 1970, by the worker's clock
    seconds: float  # of measuring, without loading the model
    tasks: int
    evaluations: int  # layer evaluations of the tasks, each path from the baseline's boundary on its own


@dataclass(frozen=True, slots=True)
class Footer:
    """What a part's metadata says."""

    shard_id: str | None  # None where several parts were joined
    tasks: tuple[str, ...]
    failed: Mapping[str, Mapping[str, int]]  # rows by outcome, of the tasks that have others than ok
    timings: tuple[ShardTiming, ...]
    committed: float | None  # when the last of the joined parts was committed; None in a shard's own part
    rows: int


class NotWhole(Exception):
    """This file is no whole part of this run; the message says why."""


def part_name(shard_id: str, tasks: Sequence[str]) -> str:
    """Return the file name of a part: the shard's id, and where it holds a piece of the shard, what piece."""
    digest = content_digest(list(tasks))
    return f"{shard_id}{SUFFIX}" if shard_id == f"s{digest}" else f"{shard_id}-{digest[:8]}{SUFFIX}"


def tasks_of(table: pa.Table) -> list[str]:
    """Return the tasks that a table has rows of, in the order that its maker gave them."""
    found: list[str] = pc.unique(table["task_id"]).to_pylist()
    said = json.loads((table.schema.metadata or {}).get(b"neuroscan.tasks", b"[]"))
    return said if len(said) == len(found) and set(said) == set(found) else found


def encoded(
    table: pa.Table,
    *,
    run_id: str,
    shard_id: str | None,
    tasks: Sequence[str],
    timings: Iterable[ShardTiming],
    committed: float | None = None,
) -> pa.Buffer:
    """Return the bytes of a part file."""
    timed = list(timings)
    metadata = {
        "neuroscan.run_id": run_id,
        "neuroscan.tasks": json.dumps(list(tasks)),
        "neuroscan.failed": json.dumps(_failed(table)),
        # Column by column: the names of the fields once, and not once for each of thousands.
        "neuroscan.timings": json.dumps(
            {field.name: [getattr(timing, field.name) for timing in timed] for field in fields(ShardTiming)}
        ),
    }
    if committed is not None:
        metadata["neuroscan.committed"] = repr(committed)
    schema = MEASUREMENTS
    if (
        shard_id is not None
    ):  # in the schema too, where any reader of Parquet shows it; of joined parts it is too much
        metadata["neuroscan.shard_id"] = shard_id
        schema = MEASUREMENTS.with_metadata({**MEASUREMENTS.metadata, **metadata})
    sink = pa.BufferOutputStream()
    large = (
        table.num_rows > _MANY_ROWS
    )  # what serves a reader of many rows is a burden in thousands of small files
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=large,
        write_statistics=large,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table.replace_schema_metadata(schema.metadata))
        if shard_id is None:
            writer.add_key_value_metadata(metadata)
    return sink.getvalue()


def read_footer(file: pa.NativeFile, *, run_id: str, rows_per_task: int) -> Footer:
    """Return what a part's metadata says.

    Raises:
        NotWhole: this is no part of the run, or a damaged one.
        MAKES_NO_SENSE: it makes none, or the store failed.
    """
    found = pq.read_metadata(file)
    footer = _footer(found, run_id=run_id)
    if found.num_rows != len(footer.tasks) * rows_per_task:
        raise NotWhole(f"{found.num_rows} rows instead of {len(footer.tasks) * rows_per_task}")
    return footer


def read_rows(file: pa.NativeFile, columns: list[str] | None = None) -> pa.Table:
    """Return rows of a part whose footer is good.

    Raises:
        NotWhole: a column is not what the footer says.
        MAKES_NO_SENSE: they are damaged, or the store failed.
    """
    with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        table = parquet.read(columns=columns, use_threads=False)
    for name in columns or MEASUREMENTS.names:  # they have names of their own in several places of a file
        if name not in table.column_names or not table.field(name).equals(MEASUREMENTS.field(name)):
            raise NotWhole(f"its column {name} is not that of the measurements table")
    expected = rows_schema(columns)
    if table.column_names != expected.names:
        if set(table.column_names) != set(expected.names):
            raise ValueError("other columns than its metadata says")
        table = table.select(expected.names)
    if not table.schema.equals(expected):
        raise ValueError("columns of other types than its metadata says")
    return table.replace_schema_metadata(MEASUREMENTS.metadata)


def rows_schema(columns: list[str] | None) -> pa.Schema:
    """Return the schema of some columns of the measurements, or of all."""
    if columns is None:
        return MEASUREMENTS
    return pa.schema([MEASUREMENTS.field(name) for name in columns], metadata=MEASUREMENTS.metadata)


def _footer(found: pq.FileMetaData, *, run_id: str) -> Footer:
    said: Mapping[bytes, bytes] = found.metadata or {}
    version = said.get(b"neuroscan.schema_version", b"none").decode(errors="replace")
    if version != MEASUREMENTS_VERSION:
        raise NotWhole(f"schema version {version}, this program reads {MEASUREMENTS_VERSION}")
    if not found.schema.equals(_columns()):
        raise NotWhole("its columns are not those of the measurements table")
    owner = said.get(b"neuroscan.run_id", b"?")
    if owner != run_id.encode():
        raise NotWhole(f"it belongs to run {owner.decode(errors='replace')}")
    try:
        tasks = tuple(map(str, json.loads(said[b"neuroscan.tasks"])))
        failed: dict[str, dict[str, int]] = json.loads(said[b"neuroscan.failed"])
        columns = json.loads(said[b"neuroscan.timings"])
        rows = zip(*(columns[field.name] for field in fields(ShardTiming)), strict=True)
        timings = tuple(ShardTiming(*row) for row in rows)
        committed = float(said[b"neuroscan.committed"]) if b"neuroscan.committed" in said else None
        worst = [max(OUTCOME_RANK[outcome] for outcome in counts) for counts in failed.values()]
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise NotWhole(f"its metadata does not tell what it holds ({error!r})") from None
    if len(set(tasks)) != len(tasks) or not set(failed) <= set(tasks) or 0 in worst:
        raise NotWhole("its metadata contradicts itself about its tasks")
    shard_id = said.get(b"neuroscan.shard_id")
    return Footer(
        None if shard_id is None else shard_id.decode(errors="replace"),
        tasks,
        failed,
        timings,
        committed,
        found.num_rows,
    )


def _failed(table: pa.Table) -> dict[str, dict[str, int]]:
    """Count the rows, by outcome, of each task that has rows of another outcome than ok."""
    not_ok = table.filter(pc.not_equal(table["outcome"], Outcome.OK.value))
    if not not_ok.num_rows:
        return {}
    tasks = pc.unique(not_ok["task_id"])
    theirs = table.filter(pc.is_in(table["task_id"], value_set=tasks))
    failed: dict[str, Counter[str]] = {task: Counter() for task in tasks.to_pylist()}
    for task, outcome in zip(theirs["task_id"].to_pylist(), theirs["outcome"].to_pylist(), strict=True):
        failed[task][outcome] += 1
    return {task: dict(counts) for task, counts in failed.items()}


_PARQUET_SCHEMA: list[pq.ParquetSchema] = []


def _columns() -> pq.ParquetSchema:
    """The columns as Parquet sees them: to compare these takes a fraction of the time of Arrow's."""
    if not _PARQUET_SCHEMA:
        sink = pa.BufferOutputStream()
        pq.ParquetWriter(
            sink, MEASUREMENTS
        ).close()  # a table would bring pandas with it, a quarter of a second
        _PARQUET_SCHEMA.append(pq.read_metadata(pa.BufferReader(sink.getvalue())).schema)
    return _PARQUET_SCHEMA[0]
