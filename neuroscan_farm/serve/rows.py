"""Measured rows, chosen by their columns and written in three forms."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.serve.runs import LiveRun
from neuroscan_farm.store.additions import read_whole
from neuroscan_farm.store.schema import MEASUREMENTS

ARROW, CSV = "application/vnd.apache.arrow.stream", "text/csv"
MOST_AS_JSON = 10_000
_ORDER = [("task_id", "ascending"), ("probe", "ascending"), ("sample_id", "ascending")]


def some_rows(
    run: LiveRun, *, probe: str | None, outcome: Outcome | None, task: str | None, limit: int, offset: int
) -> tuple[pa.Table, int]:
    """Return a page of the rows of a run and its additions that fit, and how many fit.

    Their order does not depend on who measured them, or when.

    Raises:
        NeuroscanError: the run is damaged, or the store failed.
    """
    table = read_whole(run.directory, MEASUREMENTS.names).rows
    fits = None
    for column, wanted in (("probe", probe), ("outcome", outcome and outcome.value), ("task_id", task)):
        if wanted is not None:
            same = pc.equal(table[column], wanted)
            fits = same if fits is None else pc.and_(fits, same)
    if fits is not None:
        table = table.filter(fits)
    page = pc.sort_indices(table, sort_keys=_ORDER).slice(offset, limit)  # the rest need not be put in order
    return table.take(page), table.num_rows


def rows_page(page: pa.Table, *, total: int, limit: int, offset: int, stamp: str) -> bytes:
    """Return a page of rows as JSON (`RowsPage`)."""
    said = {"rows": page.to_pylist(), "total": total, "limit": limit, "offset": offset, "stamp": stamp}
    return json.dumps(said, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def arrow_bytes(table: pa.Table) -> bytes:
    """Return rows as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def csv_bytes(table: pa.Table) -> bytes:
    """Return rows as CSV with a header; lists are written as JSON, an absent value is an empty field."""
    columns = [
        pa.array([None if value is None else json.dumps(value) for value in column.to_pylist()], pa.string())
        if pa.types.is_list(column.type)
        else column
        for column in table.columns
    ]
    sink = pa.BufferOutputStream()
    pacsv.write_csv(pa.table(columns, names=table.column_names), sink)
    return bytes(sink.getvalue())
