"""Parts: a task is done exactly if a whole part of the run holds it; what is no part is set aside and measured again."""

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
from neuroscan_farm.domain.tasks import Shard
from neuroscan_farm.errors import StorageError
from neuroscan_farm.store.parts import Parts
from neuroscan_farm.store.places import open_place
from neuroscan_farm.store.run_directory import RunDirectory
from neuroscan_farm.store.schema import MEASUREMENTS
from tests.paper_models import finish, paper_plan, paper_probe, paper_table, paper_timing


def finished(run: RunDirectory) -> set[str]:
    """The shards all of whose tasks are done, to somebody who looks for the first time."""
    done = RunDirectory.open(run.root).parts.look().done
    return {shard.shard_id for shard in run.shards() if done.issuperset(task.task_id for task in shard.tasks)}


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

    (notice,) = run.parts.set_bad_aside()
    assert DAMAGES[how] in notice
    assert f"moved aside to .bad-{first}.parquet, its tasks will be measured again" in notice
    assert not run.parts.path(first).exists()
    assert run.parts.path(first).with_name(f".bad-{first}.parquet").exists(), "nothing is thrown away"
    assert run.parts.set_bad_aside() == []

    finish(run, run.shards()[:1])
    assert finished(run) == {first, *others}


def test_a_part_under_another_name_is_set_aside(run: RunDirectory) -> None:
    finish(run)
    first = run.shards()[0].shard_id
    for name in ("results-final2", "s000000000000", "joined-0123456789abcdef"):
        shutil.copy(run.parts.path(first), run.root / "parts" / f"{name}.parquet")
    notices = run.parts.set_bad_aside()
    assert len(notices) == 3
    assert all(f"it holds shard {first}" in notice for notice in notices)
    assert len(finished(run)) == len(run.shards())


def test_a_part_that_is_repaired_in_place_counts_again_without_a_new_start(run: RunDirectory) -> None:
    finish(run)
    first = run.shards()[0]
    whole = run.parts.path(first.shard_id).read_bytes()
    damage(run, first.shard_id, "truncated")
    assert first.tasks[0].task_id not in run.parts.look().done
    run.parts.path(first.shard_id).write_bytes(whole)
    assert first.tasks[0].task_id in run.parts.look().done


def test_a_part_that_vanishes_is_simply_not_done(run: RunDirectory) -> None:
    finish(run)
    first = run.shards()[0]
    assert first.tasks[0].task_id in run.parts.look().done
    run.parts.path(first.shard_id).unlink()
    assert first.tasks[0].task_id not in run.parts.look().done


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
            run.parts.write(name, paper_table(run, shard, **copies[name]), paper_timing(shard))
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
    run.parts.write("a", paper_table(run, shard, attempt=1, outcome=Outcome.ERROR), paper_timing(shard))
    run.parts.write("b", paper_table(run, shard, attempt=2, log_odds=1.5), paper_timing(shard))
    rows = run.parts.read(["log_odds"])
    assert rows.column_names == ["log_odds"]
    assert rows["log_odds"].to_pylist() == [1.5] * len(shard.tasks) * 3


def test_plain_pandas_reads_the_folder_of_parts_also_beside_those_set_aside(run: RunDirectory) -> None:
    finish(run)
    damage(run, run.shards()[0].shard_id, "truncated")
    run.parts.set_bad_aside()
    (run.root / "parts" / ".tmp-0123-s.parquet").write_bytes(b"half")
    finish(run, run.shards()[:1])
    frame = pd.read_parquet(run.root / "parts")
    assert list(frame.columns) == MEASUREMENTS.names
    assert len(frame) == 22 * 3
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
from neuroscan_farm.store.parts import Parts, ShardTiming
from neuroscan_farm.store.places import open_place

table = pq.read_table(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    parts = Parts(open_place(sys.argv[2]), run_id="r", rows_per_task=3)
    parts.write("s0", table, ShardTiming("s0", "w", "cpu", 1, 0.0, 1.0, 1, 1))
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
    parts = Parts(open_place("/proc/neuroscan/parts"), run_id="r", rows_per_task=3)
    with pytest.raises(StorageError, match="/proc/neuroscan"):
        parts.write("s0", table, paper_timing(run.shards()[0]))


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


def test_progress_is_told_by_tasks_and_survives_another_cut_of_the_plan(any_run: RunDirectory) -> None:
    run = any_run
    shards = run.shards()
    finish(run, shards[:2])
    measured = {task.task_id for shard in shards[:2] for task in shard.tasks}
    assert run.parts.look().done == measured
    tasks = [task for shard in shards for task in shard.tasks]
    run.write_plan([Shard.of(tasks[k : k + 5]) for k in range(0, len(tasks), 5)], complete=True)
    again = RunDirectory.open(run.location)
    assert again.parts.look().done == measured
    assert [task.planned_shard for shard in again.shards() for task in shard.tasks] == [
        task.planned_shard for task in tasks
    ]


def test_rows_name_the_shard_of_the_first_cut(run: RunDirectory) -> None:
    tasks = [task for shard in run.shards() for task in shard.tasks]
    run.write_plan([Shard.of([task]) for task in tasks], complete=True)
    finish(run)
    rows = run.parts.read(["task_id", "shard_id"])
    told = dict(zip(rows["task_id"].to_pylist(), rows["shard_id"].to_pylist(), strict=True))
    assert told == {task.task_id: task.planned_shard for task in tasks}
    assert len(set(told.values())) == 6


def test_pieces_of_a_shard_are_files_of_their_own_and_the_same_piece_is_the_same_file(
    run: RunDirectory,
) -> None:
    shard = run.shards()[0]
    pieces = [Shard(shard.shard_id, shard.tasks[:1]), Shard(shard.shard_id, shard.tasks[1:])]
    for piece in [*pieces, *pieces]:
        finish(run, [piece])
    assert len(list((run.root / "parts").iterdir())) == 2
    assert finished(run) == {shard.shard_id}
    finish(run, [shard])
    assert run.parts.path(shard.shard_id).exists()
    assert run.parts.read().num_rows == len(shard.tasks) * 3
    assert run.parts.look().outcomes == {"ok": len(shard.tasks) * 3}
    assert run.parts.look().loose == 3


def test_looking_again_gives_the_same_answer_and_the_same_object_until_something_changes(
    any_run: RunDirectory,
) -> None:
    parts, shards = any_run.parts, any_run.shards()
    assert parts.look() is parts.look()
    assert (parts.look().done, parts.look().last_commit) == (frozenset(), 0.0)
    finish(any_run, shards[:1])
    one = parts.look()
    assert parts.look() is one
    finish(any_run, shards[1:])
    assert parts.look().done > one.done
    assert parts.look().last_commit >= one.last_commit > 0


def test_what_failed_is_told_with_its_worst_outcome_unless_it_went_well_elsewhere(
    any_run: RunDirectory,
) -> None:
    run = any_run
    first, second, third, *_ = run.shards()
    finish(run, [first, second])
    finish(run, [third], outcome=Outcome.NON_FINITE)
    progress = run.parts.look()
    bad = {task.task_id for task in third.tasks}
    assert progress.failed == dict.fromkeys(bad, "non_finite")
    good = len(first.tasks) + len(second.tasks)
    assert progress.outcomes == {"ok": 3 * good, "non_finite": 3 * len(bad)}

    piece = Shard.of(third.tasks[:1])
    finish(run, [piece], outcome=Outcome.ERROR)
    assert run.parts.look().failed == progress.failed, "of two failures, the better one"
    finish(run, [piece])
    assert run.parts.look().failed == dict.fromkeys(bad - {third.tasks[0].task_id}, "non_finite")
    assert run.parts.look().done == progress.done
    assert run.parts.look().outcomes == {"ok": 3 * good + 3, "non_finite": 3 * len(bad) - 3}


def test_timings_are_kept_with_the_parts(any_run: RunDirectory) -> None:
    shards = any_run.shards()
    for number, shard in enumerate(reversed(shards)):
        timing = paper_timing(shard, started=100.0 + number, seconds=0.1 + number, worker=f"w{number}")
        any_run.parts.write(shard.shard_id, paper_table(any_run, shard), timing)
    timings = any_run.parts.look().timings
    assert [timing.worker for timing in timings] == [f"w{k}" for k in range(len(shards))]
    assert timings[0] == paper_timing(shards[-1], started=100.0, seconds=0.1, worker="w0")
    assert RunDirectory.open(any_run.location).parts.look().timings == timings


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def test_no_flipped_byte_gets_into_the_rows_or_raises_anything_but_errors_of_ours(run: RunDirectory) -> None:
    finish(run)
    before = sorted(map(str, run.parts.read().to_pylist()))
    shard = run.shards()[1]
    path = run.parts.path(shard.shard_id)
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 300)):
        path.write_bytes(flipped(whole, at))
        fresh = RunDirectory.open(run.root).parts
        fresh.look()
        rows = sorted(map(str, fresh.read().to_pylist()))
        assert len(rows) in {len(before), len(before) - len(shard.tasks) * 3}, at
        assert set(rows) <= set(before), at
        assert fresh.look().outcomes["ok"] == len(rows), "what cannot be read is not done"


@pytest.mark.parametrize(
    "name", ["neuroscan.tasks", "neuroscan.failed", "neuroscan.timings", "neuroscan.committed"]
)
@pytest.mark.parametrize("text", ["", "{", "null", "3", "[]", "[3]", '{"a": 1}', '["t1", "t1"]', "\udcff"])
def test_metadata_that_makes_no_sense_is_a_bad_part_and_no_traceback(
    run: RunDirectory, name: str, text: str
) -> None:
    finish(run)
    first, *others = run.shards()
    path = run.parts.path(first.shard_id)
    table = pq.read_table(path)
    odd = {name.encode(): text.encode("utf-8", "surrogateescape")}
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | odd), path)
    still = name == "neuroscan.failed" and text == "{}"
    assert finished(run) == {shard.shard_id for shard in others} | ({first.shard_id} if still else set()) or (
        name == "neuroscan.committed" and text == "3"
    )
    fresh = RunDirectory.open(run.root).parts
    assert fresh.read().num_rows == fresh.look().outcomes["ok"]
