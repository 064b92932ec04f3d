"""Joining parts: no row is lost, doubled or out of sight at any moment, whoever reads, writes, joins or dies meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from neuroscan_farm.coordinator.prepare import Plan, prepare
from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.domain.tasks import Shard
from neuroscan_farm.errors import StorageError
from neuroscan_farm.store import compaction
from neuroscan_farm.store.places import open_place
from neuroscan_farm.store.run_directory import RunDirectory
from tests.paper_models import finish, paper_model, paper_plan, paper_probe, paper_table, paper_timing

KEYS = ["task_id", "probe", "sample_id"]


def rows_of(run: RunDirectory) -> list[str]:
    """All rows, in an order of their own, to somebody who looks for the first time."""
    return sorted(map(str, RunDirectory.open(run.location).parts.read().to_pylist()))


def files(run: RunDirectory) -> list[str]:
    return [e.name for e in run.place.below("parts").entries() if not e.name.startswith(".")]


@pytest.fixture
def single_run(tmp_path: Path) -> RunDirectory:
    """A run of many shards of one task each."""
    model = paper_model(tmp_path / "deep", num_hidden_layers=14)
    plan = paper_plan(model, paper_probe(tmp_path / "two.json", samples=2), shard_size=1)
    run = prepare(plan, tmp_path / "many", executor="local")
    assert len(run.shards()) > 100
    return run


def test_parts_are_joined_into_one_file_that_says_all_that_they_said(any_run: RunDirectory) -> None:
    run = any_run
    first, *others = run.shards()
    finish(run, others)
    finish(run, [first], outcome=Outcome.NON_FINITE)
    before, progress = rows_of(run), run.parts.look()
    assert run.parts.compact() == len(others) + 1
    assert len(files(run)) == 1
    assert rows_of(run) == before
    for parts in (run.parts, RunDirectory.open(run.location).parts):
        after = parts.look()
        assert after.loose == 0
        for field in ("done", "failed", "outcomes", "timings", "last_commit"):
            assert getattr(after, field) == getattr(progress, field), field
    assert run.parts.compact() == 0
    assert run.parts.set_bad_aside() == []


def test_a_run_without_parts_has_nothing_to_join(any_run: RunDirectory) -> None:
    assert any_run.parts.compact() == 0
    assert any_run.parts.forget(["t1"]) == 0


def test_later_parts_join_those_that_are_joined_already(any_run: RunDirectory) -> None:
    run = any_run
    for number, shard in enumerate(run.shards(), start=1):
        finish(run, [shard])
        assert run.parts.compact() == 1
        assert len(files(run)) == 1
        assert run.parts.read().num_rows == sum(len(s.tasks) for s in run.shards()[:number]) * 3
    assert len(run.parts.look().timings) == len(run.shards())


def test_the_same_parts_join_to_the_same_file(plan: Plan, tmp_path: Path) -> None:
    named = []
    for name in ("one", "two"):
        run = prepare(plan, tmp_path / name, executor="local")
        for shard in run.shards():
            finish(run, [shard])
        stamp = 1_700_000_000
        for path in (run.root / "parts").iterdir():
            os.utime(path, (stamp, stamp))
        RunDirectory.open(run.root).parts.compact()
        named.append(files(run))
    assert named[0] == named[1]


def test_a_large_run_joins_into_several_files_none_of_which_is_large(
    any_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MOST_ROWS", 25)
    finish(any_run)
    before = rows_of(any_run)
    any_run.parts.compact()
    assert 3 <= len(files(any_run)) <= 4
    assert rows_of(any_run) == before
    assert any_run.parts.compact() == 0


def test_rows_that_were_measured_twice_are_joined_once(run: RunDirectory) -> None:
    finish(run)
    for shard in run.shards()[:2]:  # as zombies leave them
        again = Shard.of(tuple(reversed(shard.tasks)))
        run.parts.write(again.shard_id, paper_table(run, shard, attempt=2), paper_timing(again))
    before = rows_of(run)
    run.parts.compact()
    (name,) = files(run)
    assert pq.read_metadata(run.root / "parts" / name).num_rows == 22 * 3
    assert rows_of(run) == before


def test_joined_files_that_overlap_are_joined_again(run: RunDirectory) -> None:
    finish(run)
    run.parts.compact()
    (name,) = files(run)
    joined = (run.root / "parts" / name).read_bytes()
    finish(run, run.shards()[:1], attempt=2)
    run.parts.compact()
    (run.root / "parts" / name).write_bytes(joined)  # a compactor that was slow, or a copy that came back
    assert run.parts.read().num_rows == 22 * 3
    assert run.parts.look().outcomes == {"ok": 22 * 3}
    run.parts.compact()
    assert len(files(run)) == 1
    assert run.parts.read().num_rows == 22 * 3


def test_a_joined_file_that_is_damaged_is_set_aside_and_its_tasks_are_missing(run: RunDirectory) -> None:
    shards = run.shards()
    finish(run, shards[:3])
    run.parts.compact()
    finish(run, shards[3:])
    (name,) = (name for name in files(run) if name.startswith("joined-"))
    path = run.root / "parts" / name
    path.write_bytes(path.read_bytes()[:-100])
    rest = {task.task_id for shard in shards[3:] for task in shard.tasks}
    assert run.parts.look().done == rest
    (notice,) = run.parts.set_bad_aside()
    assert f"moved aside to .bad-{name}" in notice
    finish(run, shards[:3])
    assert run.parts.read().num_rows == 22 * 3


def test_a_part_whose_rows_turn_out_to_be_damaged_is_set_aside_and_not_joined(run: RunDirectory) -> None:
    finish(run)
    first, *others = run.shards()
    path = run.parts.path(first.shard_id)
    data = bytearray(path.read_bytes())
    data[20] ^= 0xFF
    path.write_bytes(data)
    assert run.parts.look().done >= {task.task_id for task in first.tasks}, "its metadata is whole"
    assert run.parts.compact() == len(others)
    assert run.parts.look().done.isdisjoint(task.task_id for task in first.tasks)
    assert path.with_name(f".bad-{path.name}").exists()
    finish(run, [first])
    run.parts.compact()
    assert run.parts.read().num_rows == 22 * 3


def test_forgotten_tasks_are_missing_and_all_else_stays(any_run: RunDirectory) -> None:
    run = any_run
    shards = run.shards()
    finish(run, shards[:4])
    run.parts.compact()
    finish(run, shards[4:])
    wanted = {shards[0].tasks[0].task_id, *(task.task_id for task in shards[5].tasks)}
    before = run.parts.look()
    rows = [row for row in run.parts.read().to_pylist() if row["task_id"] not in wanted]
    assert run.parts.forget([*wanted, "t000000000000"]) == len(wanted)
    after = RunDirectory.open(run.location).parts.look()
    assert after.done == before.done - wanted
    assert after.timings == before.timings
    assert rows_of(run) == sorted(map(str, rows))
    assert run.parts.set_bad_aside() == []
    finish(run, [shards[0], shards[5]], attempt=2)
    assert run.parts.look().done == before.done
    run.parts.compact()
    assert run.parts.read().num_rows == 22 * 3


def test_what_a_killed_writer_left_aside_long_ago_is_swept_up(run: RunDirectory) -> None:
    finish(run)
    old, new = (run.root / "parts" / f".tmp-{name}-s.parquet" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1_700_000_000, 1_700_000_000))
    run.parts.compact()
    assert not old.exists()
    assert new.exists(), "its writer may be alive"


# Races. Each reader looks at a directory of its own: what is committed before its look must be in it, once.


class Readers:
    """Threads that read in a loop and note what was wrong."""

    def __init__(self, location: str, committed: set[str], samples: int, count: int = 2) -> None:
        self.wrong: list[str] = []
        self.reads = 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, args=(location, committed, samples, fresh))
            for fresh in [True, False] * (count // 2)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, location: str, committed: set[str], samples: int, fresh: bool) -> None:
        run = RunDirectory.open(location)
        try:
            while not self._stop.is_set():
                if fresh:
                    run = RunDirectory.open(location)
                before = set(committed)
                progress = run.parts.look()
                if not progress.done >= before:
                    self.wrong.append(f"{len(before - progress.done)} tasks are not done any more")
                before = set(committed)
                counts = Counter(run.parts.read(["task_id"])["task_id"].to_pylist())
                if not counts.keys() >= before:
                    self.wrong.append(f"{len(before - counts.keys())} tasks have no rows any more")
                if set(counts.values()) - {samples}:
                    self.wrong.append(f"tasks have {set(counts.values())} rows each")
                self.reads += 1
        except Exception as error:
            self.wrong.append(repr(error))
            raise

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_readers_see_every_committed_row_exactly_once_while_parts_are_added_and_joined(
    single_run: RunDirectory,
) -> None:
    run = single_run
    committed: set[str] = set()
    readers = Readers(run.location, committed, samples=2)
    compactors = [RunDirectory.open(run.location) for _ in range(2)]
    stop = threading.Event()
    failed: list[str] = []

    def join(parts: RunDirectory) -> None:
        try:
            while not stop.is_set():
                parts.parts.compact()
        except Exception as error:
            failed.append(repr(error))

    threads = [threading.Thread(target=join, args=(one,)) for one in compactors]
    for thread in threads:
        thread.start()
    for shard in run.shards():
        finish(run, [shard])
        committed.update(task.task_id for task in shard.tasks)
    stop.set()
    for thread in threads:
        thread.join()
    readers.stop()
    assert (readers.wrong, failed) == ([], [])
    assert readers.reads > 0
    run.parts.compact()
    assert len(files(run)) == 1
    assert run.parts.read().num_rows == 2 * len(run.shards())


JOIN = """
import sys, time
from neuroscan_farm.store.run_directory import RunDirectory
run = RunDirectory.open(sys.argv[1])
print("ready", flush=True)
while True:
    run.parts.compact()
"""


def test_a_compactor_that_is_killed_at_any_moment_loses_and_doubles_nothing(single_run: RunDirectory) -> None:
    run = single_run
    randomly = random.Random(7)
    committed: set[str] = set()
    waiting = list(run.shards())
    readers = Readers(run.location, committed, samples=2)
    while waiting:
        process = subprocess.Popen(
            [sys.executable, "-c", JOIN, run.location], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for shard in waiting[:12]:
            finish(run, [shard])
            committed.update(task.task_id for task in shard.tasks)
        del waiting[:12]
        time.sleep(randomly.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert RunDirectory.open(run.location).parts.look().done >= committed
    readers.stop()
    assert readers.wrong == []
    run.parts.compact()
    assert len(files(run)) == 1
    assert run.parts.read().num_rows == 2 * len(run.shards())
    assert run.parts.look().outcomes == {"ok": 2 * len(run.shards())}


STEPS = ["written", "before removal", "one is removed"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("meanwhile", ["nothing", "another compactor", "a new part", "a forgotten task"])
def test_whatever_happens_at_each_step_of_a_compactor_no_row_is_lost_and_no_forgotten_one_comes_back(
    run: RunDirectory, step: str, meanwhile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = run.shards()
    finish(run, shards[:5])
    forgotten: set[str] = set()
    added: list[Shard] = []
    other = RunDirectory.open(run.location)

    def happens() -> None:
        match meanwhile:
            case "another compactor":
                other.parts.compact()
            case "a new part":
                finish(other, shards[5:])
                added.extend(shards[5:])
            case "a forgotten task":
                forgotten.add(shards[0].tasks[0].task_id)
                other.parts.forget(forgotten)
                assert other.parts.look().done.isdisjoint(forgotten)

    once = iter([happens])
    place = run.parts._folder.place
    names = {"written": "write", "before removal": "write", "one is removed": "remove"}

    def hooked(method: Callable[..., None]) -> Callable[..., None]:
        def call(name: str, *rest: object) -> None:
            at = {"written": name.startswith("joined-"), "before removal": name == ".joined"}.get(step, True)
            method(name, *rest)
            if at:
                next(once, lambda: None)()

        return call

    monkeypatch.setattr(place, names[step], hooked(getattr(place, names[step])))
    run.parts.compact()
    monkeypatch.undo()
    expected = {task.task_id for shard in [*shards[:5], *added] for task in shard.tasks} - forgotten
    for parts in (run.parts, RunDirectory.open(run.location).parts):
        assert parts.look().done == expected
        counts = Counter(parts.read()["task_id"].to_pylist())
        assert counts == dict.fromkeys(expected, 3)
    run.parts.compact()
    assert RunDirectory.open(run.location).parts.look().done == expected


# Disks that refuse.

REFUSED = """
import resource, signal, sys
from neuroscan_farm.errors import StorageError
from neuroscan_farm.store.run_directory import RunDirectory

run = RunDirectory.open(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
for work in (run.parts.compact, lambda: run.parts.forget(list(run.parts.look().done)[:1])):
    try:
        work()
    except StorageError as error:
        print(error)
    else:
        sys.exit("nothing was refused")
"""


def test_a_full_disk_is_an_error_and_every_row_is_still_there(run: RunDirectory) -> None:
    finish(run)
    before = rows_of(run)
    listed = files(run)
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, run.location], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the disk is full") == 2
    assert (rows_of(run), files(run)) == (before, listed)
    assert run.parts.compact() == len(listed)


def test_a_store_that_takes_nothing_more_is_an_error_and_every_row_is_still_there(
    plan: Plan, bucket: str, object_store: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(plan, bucket, executor="local")
    finish(run)
    before = rows_of(run)
    place = open_place(f"{bucket}/parts")
    (victim, *_) = place.entries()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    away = open_place(bucket)
    with pytest.raises(StorageError, match="out of reach"):
        away.entries()
    with pytest.raises(StorageError, match="out of reach"):
        RunDirectory.open(bucket)
    run.parts.compact()
    assert place.entry(victim.name) is None
    assert sorted(map(str, run.parts.read().to_pylist())) == before


READ_ONLY = """
import os, sys
from neuroscan_farm.errors import StorageError
from neuroscan_farm.store.run_directory import RunDirectory

run = RunDirectory.open(sys.argv[1])
rows = run.parts.read()
timing = run.parts.look().timings[0]
if os.geteuid() == 0:  # whom no permission stops
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for work in (
    run.parts.compact,
    lambda: run.parts.forget(list(run.parts.look().done)[:1]),
    lambda: run.parts.write("s0", rows.slice(0, 3), timing),
    lambda: run.set_wanted("paused"),
    lambda: run.write_plan(run.shards(), complete=True),
):
    try:
        work()
    except StorageError as error:
        print(error)
    else:
        sys.exit("nothing was refused")
assert run.parts.read().equals(rows)
assert RunDirectory.open(sys.argv[1]).parts.look().outcomes == {"ok": rows.num_rows}
"""


def test_a_store_that_is_read_only_is_an_error_and_can_be_read(plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as folder:  # where others may look, too
        Path(folder).chmod(0o755)
        run = prepare(plan, f"{folder}/run", executor="local")
        finish(run)
        folders = [run.root, *(path for path in run.root.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, run.location], capture_output=True, text=True, timeout=120
        )
        for path in folders:
            path.chmod(0o755)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count(": not writable (Permission denied)") == 5
