"""Part files. A shard is finished if and only if its part exists and is whole.

Workers add parts; nobody changes one. A part that cannot be read, or is somebody else's, is moved aside, so that
its shard counts as missing again and is measured anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.store.atomic import storage_errors, written_aside
from neuroscan_farm.store.schema import MEASUREMENTS, MEASUREMENTS_VERSION

log = logging.getLogger(__name__)

_OUTCOME_RANK = {Outcome.OK: 0, Outcome.NON_FINITE: 1, Outcome.ERROR: 2, Outcome.QUARANTINED: 3}


class Parts:
    """The part files of one run."""

    def __init__(self, folder: Path, *, run_id: str) -> None:
        self._folder = folder
        self._run_id = run_id
        self._judged: dict[tuple[str, int, int], str | None] = {}  # (name, size, mtime) -> why bad

    def path(self, shard_id: str) -> Path:
        """Where the part of a shard is, or will be."""
        return self._folder / f"{shard_id}.parquet"

    def write(self, shard_id: str, table: pa.Table) -> None:
        """Commit the part of a shard; a second commit of the same shard replaces equal rows by equal rows.

        Raises:
            StorageError: the disk refused.
        """
        with written_aside(self.path(shard_id)) as aside:
            pq.write_table(table, aside, compression="zstd")

    def finished(self, expected_rows: Mapping[str, int]) -> set[str]:
        """Return the shards whose part is whole; `expected_rows` maps shards of the plan to their row counts."""
        return {
            path.stem
            for path in self._files()
            if path.stem in expected_rows and self._why_bad(path, expected_rows) is None
        }

    def last_commit(self, finished: Iterable[str]) -> float:
        """When the last of the finished shards was committed, in seconds since 1970; 0 where there is none."""
        return max((self.path(shard_id).stat().st_mtime for shard_id in finished), default=0.0)

    def set_bad_aside(self, expected_rows: Mapping[str, int]) -> list[str]:
        """Move parts that are not whole, not ours or not in the plan out of the way; return why, one line each."""
        moved = []
        for path in self._files():
            why = self._why_bad(path, expected_rows)
            if why is not None:
                with storage_errors(path):
                    path.replace(path.with_name(f".bad-{path.name}"))
                moved.append(
                    f"{path.name}: {why}; moved aside to .bad-{path.name}, its tasks will be measured again"
                )
        return moved

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of all parts, each (task, probe, sample) once: ok before failed, then the earliest attempt.

        A part that cannot be read, or is another run's, is left out with a warning: one bad file must not hide the
        others, nor mix into them.
        """
        keys = ["task_id", "probe", "sample_id", "outcome", "attempt", "shard_id"]
        wanted = None if columns is None else [*columns, *(key for key in keys if key not in columns)]
        tables = []
        for path in self._files():
            try:
                with pq.ParquetFile(path) as file:
                    why = self._why_foreign(file.schema_arrow)
                    if why is None:
                        table = file.read(columns=wanted).select(_select(wanted).names)
                        tables.append(table.replace_schema_metadata(MEASUREMENTS.metadata))
            except (pa.ArrowException, OSError) as error:
                why = str(error).splitlines()[0]
            if why is not None:
                log.warning("part %s is left out: %s", path, why)
        whole = pa.concat_tables(tables) if tables else _select(wanted).empty_table()
        unique = _deduplicated(whole)
        return unique if columns is None else unique.select(columns)

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.parquet") if not path.name.startswith("."))

    def _why_bad(self, path: Path, expected_rows: Mapping[str, int]) -> str | None:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return "it vanished"
        key = (path.name, stat.st_size, stat.st_mtime_ns)
        if path.stem not in expected_rows:
            return "no shard of this run's plan has this name"
        if key not in self._judged:
            self._judged[key] = self._judge(path, expected_rows[path.stem])
        return self._judged[key]

    def _judge(self, path: Path, expected_rows: int) -> str | None:
        try:
            with pq.ParquetFile(path) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            return f"not a whole Parquet file ({str(error).splitlines()[0]})"
        why = self._why_foreign(schema)
        shard_id = (schema.metadata or {}).get(b"neuroscan.shard_id", b"?").decode()
        if why is None and shard_id != path.stem:
            why = f"it holds shard {shard_id}"
        if why is None and rows != expected_rows:
            why = f"{rows} rows instead of {expected_rows}"
        return why

    def _why_foreign(self, schema: pa.Schema) -> str | None:
        metadata = schema.metadata or {}
        version = metadata.get(b"neuroscan.schema_version", b"none").decode()
        if version != MEASUREMENTS_VERSION:
            return f"schema version {version}, this program reads {MEASUREMENTS_VERSION}"
        if not schema.equals(MEASUREMENTS, check_metadata=False):
            return "its columns are not those of the measurements table"
        if metadata.get(b"neuroscan.run_id") != self._run_id.encode():
            return f"it belongs to run {metadata.get(b'neuroscan.run_id', b'?').decode()}"
        return None


def _select(columns: list[str] | None) -> pa.Schema:
    if columns is None:
        return MEASUREMENTS
    return pa.schema([MEASUREMENTS.field(name) for name in columns], metadata=MEASUREMENTS.metadata)


def _deduplicated(table: pa.Table) -> pa.Table:
    keys = ["task_id", "probe", "sample_id"]
    if table.num_rows == table.group_by(keys).aggregate([]).num_rows:
        return table
    frame = table.select([*keys, "outcome", "attempt", "shard_id"]).to_pandas()
    frame["rank"] = frame["outcome"].map(lambda outcome: _OUTCOME_RANK[Outcome(outcome)])
    first = frame.sort_values(["rank", "attempt", "shard_id"], kind="stable").drop_duplicates(keys)
    return table.take(pa.array(sorted(first.index)))
