"""Parts: a shard is finished exactly if its part is whole and ours; everything else is set aside and measured again."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.errors import StorageError
from neuroscan_farm.store.parts import Parts
from neuroscan_farm.store.run_directory import RunDirectory
from neuroscan_farm.store.schema import MEASUREMENTS
from tests.paper_models import finish, paper_plan, paper_probe, paper_table


def finished(run: RunDirectory) -> set[str]:
    return RunDirectory.open(run.root).parts.finished(run.rows_expected(run.shards()))


def damage(run: RunDirectory, shard_id: str, how: str) -> None:
    """Make a whole part into something that is none."""
    path = run.parts.path(shard_id)
    table = pq.read_table(path)
    match how:
        case "truncated":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "empty":
            path.write_bytes(b"")
        case "no parquet":
            path.write_text("task_id,probe\n")
        case "of another run":
            pq.write_table(
                table.replace_schema_metadata(table.schema.metadata | {b"neuroscan.run_id": b"other"}), path
            )
        case "of another shard":
            pq.write_table(
                table.replace_schema_metadata(table.schema.metadata | {b"neuroscan.shard_id": b"s1"}), path
            )
        case "of another schema version":
            pq.write_table(
                table.replace_schema_metadata(table.schema.metadata | {b"neuroscan.schema_version": b"0"}),
                path,
            )
        case "without metadata":
            pq.write_table(table.replace_schema_metadata(None), path)
        case "with a column less":
            pq.write_table(table.drop_columns(["entropy"]), path)
        case "with a column of another type":
            column = table["log_odds"].cast(pa.float32())
            pq.write_table(table.set_column(table.column_names.index("log_odds"), "log_odds", column), path)
        case "with a row less":
            pq.write_table(table.slice(1), path)
        case "with rows twice":
            pq.write_table(pa.concat_tables([table, table]), path)
        case _:
            raise AssertionError(how)


DAMAGES = {
    "truncated": "not a whole Parquet file",
    "empty": "not a whole Parquet file",
    "no parquet": "not a whole Parquet file",
    "of another run": "it belongs to run other",
    "of another shard": "it holds shard s1",
    "of another schema version": "schema version 0, this program reads 2",
    "without metadata": "schema version none",
    "with a column less": "its columns are not those of the measurements table",
    "with a column of another type": "its columns are not those of the measurements table",
    "with a row less": "rows instead of",
    "with rows twice": "rows instead of",
}


def test_a_shard_is_finished_as_soon_as_its_part_is_there(run: RunDirectory) -> None:
    first, *_ = run.shards()
    assert finished(run) == set()
    finish(run, [first])
    assert finished(run) == {first.shard_id}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_part_that_is_damaged_or_foreign_is_set_aside_and_its_shard_is_missing_again(
    run: RunDirectory, how: str
) -> None:
    finish(run)
    first, *others = [shard.shard_id for shard in run.shards()]
    damage(run, first, how)
    assert finished(run) == set(others)

    (notice,) = run.parts.set_bad_aside(run.rows_expected(run.shards()))
    assert DAMAGES[how] in notice
    assert f"moved aside to .bad-{first}.parquet, its tasks will be measured again" in notice
    assert not run.parts.path(first).exists()
    assert run.parts.path(first).with_name(f".bad-{first}.parquet").exists(), "nothing is thrown away"
    assert run.parts.set_bad_aside(run.rows_expected(run.shards())) == []

    finish(run, run.shards()[:1])
    assert finished(run) == {first, *others}


def test_a_part_that_no_shard_of_the_plan_names_is_set_aside(run: RunDirectory) -> None:
    finish(run)
    first = run.shards()[0].shard_id
    shutil.copy(run.parts.path(first), run.root / "parts" / "results-final2.parquet")
    shutil.copy(run.parts.path(first), run.root / "parts" / "s000000000000.parquet")
    notices = run.parts.set_bad_aside(run.rows_expected(run.shards()))
    assert len(notices) == 2
    assert all("no shard of this run's plan has this name" in notice for notice in notices)
    assert len(finished(run)) == len(run.shards())


def test_a_part_that_is_repaired_in_place_counts_again_without_a_new_start(run: RunDirectory) -> None:
    finish(run)
    first = run.shards()[0].shard_id
    whole = run.parts.path(first).read_bytes()
    expected = run.rows_expected(run.shards())
    damage(run, first, "truncated")
    assert first not in run.parts.finished(expected)
    run.parts.path(first).write_bytes(whole)
    assert first in run.parts.finished(expected)


def test_a_part_that_vanishes_is_simply_not_finished(run: RunDirectory) -> None:
    finish(run)
    expected = run.rows_expected(run.shards())
    gone = run.shards()[0].shard_id
    assert gone in run.parts.finished(expected)
    run.parts.path(gone).unlink()
    assert gone not in run.parts.finished(expected)


def test_a_run_without_a_parts_folder_has_no_rows_and_every_column(run: RunDirectory) -> None:
    assert run.parts.read().schema.names == MEASUREMENTS.names
    assert run.parts.read(["task_id"]).num_rows == 0


@pytest.mark.parametrize("how", [how for how in DAMAGES if "row" not in how and how != "of another shard"])
@pytest.mark.parametrize("columns", [None, ["log_odds", "task_id"]])
def test_reading_leaves_out_a_bad_part_with_a_warning_and_keeps_the_others(
    run: RunDirectory, caplog: pytest.LogCaptureFixture, how: str, columns: list[str] | None
) -> None:
    finish(run)
    first, *others = run.shards()
    damage(run, first.shard_id, how)
    with caplog.at_level(logging.WARNING):
        rows = run.parts.read(columns)
    assert "is left out" in caplog.text
    assert first.shard_id in caplog.text
    assert rows.num_rows == sum(len(shard.tasks) for shard in others) * 3


def test_rows_come_once_however_often_they_were_measured_ok_before_failed_before_later(
    run: RunDirectory,
) -> None:
    shard = run.shards()[0]
    copies = {
        "a": {"attempt": 3, "outcome": Outcome.OK, "log_odds": 3.0},
        "b": {"attempt": 1, "outcome": Outcome.QUARANTINED},
        "c": {"attempt": 2, "outcome": Outcome.OK, "log_odds": 2.0},
        "d": {"attempt": 1, "outcome": Outcome.ERROR},
        "e": {"attempt": 1, "outcome": Outcome.NON_FINITE},
    }

    def read(names: str) -> tuple[int, set[tuple[str, int]]]:
        shutil.rmtree(run.root / "parts", ignore_errors=True)
        for name in names:  # as a zombie or a merge of two copies of a run might leave them
            run.parts.write(name, paper_table(run, shard, **copies[name]))
        rows = run.parts.read()
        kept = zip(rows["outcome"].to_pylist(), rows["attempt"].to_pylist(), strict=True)
        return rows.num_rows, set(kept)

    once = len(shard.tasks) * 3
    assert read("abcde") == (once, {("ok", 2)})
    assert read("abde") == (once, {("ok", 3)})
    assert read("bde") == (once, {("non_finite", 1)})
    assert read("bd") == (once, {("error", 1)})
    assert read("b") == (once, {("quarantined", 1)})


def test_selected_columns_are_deduplicated_by_what_was_not_selected(run: RunDirectory) -> None:
    shard = run.shards()[0]
    run.parts.write("a", paper_table(run, shard, attempt=1, outcome=Outcome.ERROR))
    run.parts.write("b", paper_table(run, shard, attempt=2, log_odds=1.5))
    rows = run.parts.read(["log_odds"])
    assert rows.column_names == ["log_odds"]
    assert rows["log_odds"].to_pylist() == [1.5] * len(shard.tasks) * 3


def test_plain_pandas_reads_the_folder_of_parts_also_beside_those_set_aside(run: RunDirectory) -> None:
    finish(run)
    damage(run, run.shards()[0].shard_id, "truncated")
    run.parts.set_bad_aside(run.rows_expected(run.shards()))
    (run.root / "parts" / ".tmp-0123-s.parquet").write_bytes(b"half")
    finish(run, run.shards()[:1])
    frame = pd.read_parquet(run.root / "parts")
    assert list(frame.columns) == MEASUREMENTS.names
    assert len(frame) == sum(run.rows_expected(run.shards()).values())
    paths = {tuple(task.path) for shard in run.shards() for task in shard.tasks}
    assert {tuple(path) for path in frame["path"]} == paths


def test_absent_scores_are_null_and_never_nan_or_zero(run: RunDirectory) -> None:
    table = paper_table(run, run.shards()[0], outcome=Outcome.NON_FINITE)
    for name in (
        "log_odds",
        "log_p_correct",
        "correct",
        "expected_score",
        "uncertainty",
        "coverage",
        "entropy",
    ):
        assert table[name].null_count == table.num_rows
    assert table["answer_probabilities"].null_count == table.num_rows
    assert set(table["detail"].to_pylist()) == {"made up"}


def test_a_second_commit_of_a_shard_replaces_the_first_and_leaves_nothing_beside_it(
    run: RunDirectory,
) -> None:
    shard = run.shards()[0]
    finish(run, [shard])
    finish(run, [shard], attempt=2)
    assert [path.name for path in (run.root / "parts").iterdir()] == [f"{shard.shard_id}.parquet"]
    assert set(run.parts.read()["attempt"].to_pylist()) == {2}


FILL_THE_DISK = """
import resource, signal, sys
from pathlib import Path
import pyarrow.parquet as pq
from neuroscan_farm.errors import StorageError
from neuroscan_farm.store.parts import Parts

table = pq.read_table(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    Parts(Path(sys.argv[2]), run_id="r").write("s0", table)
except StorageError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_disk_that_fills_up_while_a_part_is_written_leaves_no_part_and_says_so(
    run: RunDirectory, tmp_path: Path
) -> None:
    shard = run.shards()[0]
    tables = [paper_table(run, shard, worker=os.urandom(16).hex(), log_odds=float(k)) for k in range(200)]
    large = tmp_path / "large.parquet"
    pq.write_table(pa.concat_tables(tables), large)
    assert large.stat().st_size > 8192, "larger than the limit"
    parts = tmp_path / "full" / "parts"
    command = [sys.executable, "-c", FILL_THE_DISK, str(large), str(parts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "the disk is full" in done.stdout
    assert "nothing finished is lost: free some space, then give the same command again" in done.stdout
    assert list(parts.iterdir()) == [], "neither a part nor what was written aside"


def test_a_file_in_the_way_of_the_parts_is_an_error_that_names_it(run: RunDirectory) -> None:
    (run.root / "parts").write_text("not a folder")
    with pytest.raises(StorageError, match="a file is in the way"):
        finish(run, run.shards()[:1])


def test_a_place_that_takes_no_files_is_an_error_that_names_it(run: RunDirectory) -> None:
    table = paper_table(run, run.shards()[0])
    with pytest.raises(StorageError, match="/proc/neuroscan"):
        Parts(Path("/proc/neuroscan/parts"), run_id="r").write("s0", table)


def test_the_rows_of_another_run_with_the_same_shards_are_not_taken_for_ours(
    run: RunDirectory, tmp_path: Path
) -> None:
    plan = paper_plan(tmp_path / "tiny", paper_probe(tmp_path / "sums.json"), metric="correct")
    other = prepare(plan, tmp_path / "other", executor="local")
    assert [s.shard_id for s in other.shards()] == [s.shard_id for s in run.shards()], (
        "ids are made of the same tasks"
    )
    finish(other)
    shutil.copytree(other.root / "parts", run.root / "parts")
    assert finished(run) == set()
    assert run.parts.read().num_rows == 0


def test_rows_say_where_they_come_from(run: RunDirectory) -> None:
    finish(run)
    frame = run.parts.read().to_pandas()
    assert set(frame["run_id"]) == {run.manifest.run_id}
    assert set(frame["shard_id"]) == {shard.shard_id for shard in run.shards()}
    assert set(frame["probe"]) == {"sums"}
