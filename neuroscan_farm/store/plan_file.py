"""A run's plan on disk: one row for each task. Large plans are read by the column, or by the shard."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuroscan_farm.domain.tasks import Shard
from neuroscan_farm.errors import RequestError, RunError
from neuroscan_farm.store.parsed import NoSense, parsed
from neuroscan_farm.store.places import Place
from neuroscan_farm.store.schema import PLAN, PLAN_VERSION, plan_table, shards_of

_NAME = "plan.parquet"
T = TypeVar("T")
_ROWS_TOGETHER = 2048  # what is decoded to read one shard


@dataclass(frozen=True, slots=True)
class Planned:
    """The tasks of a plan, as columns."""

    task_ids: Sequence[str]
    shard_ids: Sequence[str]
    evaluations: Sequence[int]  # layer evaluations of each, from the baseline's boundary


class PlanFile:
    """The plan of one run."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._complete: tuple[str, bool] | None = None

    def write(self, shards: Sequence[Shard], *, complete: bool) -> None:
        """Replace the plan.

        Raises:
            StorageError: the disk or the store refused.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(
            plan_table(shards, complete=complete), sink, compression="zstd", row_group_size=_ROWS_TOGETHER
        )
        self._place.write(_NAME, sink.getvalue())

    def stamp(self) -> str:
        """Return something that changes whenever the plan is replaced."""
        entry = self._place.entry(_NAME)
        if entry is None:
            raise RunError(f"{self._place.where(_NAME)}: cannot be read (no such file)")
        return entry.stamp

    def complete(self) -> bool:
        """Whether no further stage follows."""
        stamp = self.stamp()
        if self._complete is None or self._complete[0] != stamp:
            said = self._read(lambda file: (file.metadata.metadata or {}).get(b"neuroscan.complete"))
            self._complete = (stamp, said == b"yes")
        return self._complete[1]

    def shards(self) -> list[Shard]:
        """Read all of it."""
        return self._read(lambda file: shards_of(file.read()))

    def shard(self, shard_id: str) -> Shard | None:
        """Read one shard, or find that there is none of this name."""

        def read(file: pq.ParquetFile) -> Shard | None:
            rows = pc.equal(file.read(columns=["shard_id"])["shard_id"], shard_id)
            first, count = pc.index(rows, True).as_py(), pc.sum(rows).as_py()
            if first < 0:
                return None
            table = file.read_row_groups(_groups(file.metadata, first, first + count))
            (shard,) = shards_of(table.filter(pc.equal(table["shard_id"], shard_id)))
            return shard

        return self._read(read)

    def planned(self) -> Planned:
        """Read the columns that counting takes."""
        columns = ["task_id", "shard_id", "evaluations"]
        table = self._read(lambda file: file.read(columns=columns))
        return Planned(*(column.to_pylist() for column in table.columns))

    def _read(self, read: Callable[[pq.ParquetFile], T]) -> T:
        """Return what `read` takes out of the file.

        Raises:
            RunError: there is no plan, or it is damaged or of another version.
            StorageError: the disk or the store failed.
        """
        where = self._place.where(_NAME)

        def checked(raw: pa.NativeFile) -> T:
            with pq.ParquetFile(raw) as file:
                version = (file.metadata.metadata or {}).get(b"neuroscan.schema_version", b"none").decode()
                if version != PLAN_VERSION or not file.schema_arrow.equals(PLAN, check_metadata=False):
                    raise RunError(f"{where}: schema version {version}, this program reads {PLAN_VERSION}")
                return read(file)

        try:
            return parsed(self._place, _NAME, checked)
        except RequestError as error:
            raise RunError(f"{where}: damaged ({error}); restore it from a copy") from error
        except (FileNotFoundError, NoSense) as error:
            raise RunError(f"{where}: cannot be read ({error})") from error


def _groups(metadata: pq.FileMetaData, first: int, end: int) -> list[int]:
    """Return the row groups that hold the rows `first` to `end - 1`."""
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    starts = [0, *itertools.accumulate(sizes)]
    return [group for group, size in enumerate(sizes) if starts[group] < end and starts[group] + size > first]
