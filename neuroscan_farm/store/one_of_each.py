"""Each row once: of rows of the same task, probe and sample, ok before failed, then the earliest attempt."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from neuroscan_farm.store.part_file import OUTCOME_RANK

_KEYS = ["task_id", "probe", "sample_id"]


def one_of_each(table: pa.Table) -> pa.Table:
    """Return the table without the second and further rows of the same task, probe and sample."""
    ranks = pc.index_in(table["outcome"], value_set=pa.array(OUTCOME_RANK))
    order = table.select([*_KEYS, "attempt", "shard_id"]).append_column("rank", pc.fill_null(ranks, 99))
    order = order.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    best = order.sort_by(
        [*((key, "ascending") for key in [*_KEYS, "rank", "attempt", "shard_id"]), ("row", "ascending")]
    )
    first = best.group_by(_KEYS, use_threads=False).aggregate([("row", "first")])["row_first"]
    if len(first) == table.num_rows:
        return table
    return table.take(first.combine_chunks().sort())
