"""How a run stands is read off its directory alone, and looking changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import Timeout

from neuroscan_farm.coordinator.overview import find_run, look_at, runs_in
from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.coordinator.run_lock import is_driven, lock_of
from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.errors import RunError
from neuroscan_farm.store.attempts import Attempt
from neuroscan_farm.store.places import open_place
from neuroscan_farm.store.run_directory import RunDirectory
from tests.paper_models import finish, paper_plan, paper_table, paper_timing

NOW = "2026-11-20T08:00:00+00:00"


@pytest.fixture
def run(model: Path, probe: Path, tmp_path: Path) -> RunDirectory:
    return prepare(paper_plan(model, probe), tmp_path / "runs" / "one", executor="local")


def test_a_run_that_nobody_works_on_is_stopped_here_and_queued_on_the_farm(
    run: RunDirectory, model: Path, probe: Path, tmp_path: Path
) -> None:
    assert look_at(run).state == "stopped"
    queued = prepare(paper_plan(model, probe), tmp_path / "queued", executor="celery")
    assert look_at(queued).state == "queued"


def test_a_run_is_running_while_a_process_holds_its_lock(run: RunDirectory) -> None:
    assert not is_driven(run.root)
    with lock_of(run.root):
        assert look_at(run).state == "running"
    assert look_at(run).state == "stopped"


def test_progress_counts_tasks_and_shards(run: RunDirectory) -> None:
    first, *others = run.shards()
    finish(run, [first])
    overview = look_at(run)
    assert (overview.tasks_finished, overview.tasks) == (len(first.tasks), 22)
    assert (overview.shards_finished, overview.shards) == (1, 1 + len(others))
    assert overview.outcomes == {"ok": len(first.tasks) * 3}
    finish(run, others)
    assert look_at(run).state == "finished"
    assert look_at(run).eta_seconds is None


def test_a_task_with_one_row_that_is_not_ok_has_failed(run: RunDirectory) -> None:
    first, *others = run.shards()
    finish(run, others)
    finish(run, [first], outcome=Outcome.NON_FINITE)
    overview = look_at(run)
    assert overview.state == "finished"
    assert overview.tasks_failed == len(first.tasks)


def test_a_run_whose_next_stage_is_not_planned_yet_is_not_finished(
    model: Path, probe: Path, tmp_path: Path
) -> None:
    plan = paper_plan(model, probe, parameters={"sparse_first": True})
    run = prepare(plan, tmp_path / "sparse", executor="local")
    finish(run)
    assert look_at(run).state == "stopped"
    assert not look_at(run).plan_complete


def test_a_refusal_and_a_cancellation_are_told_unless_all_is_finished(run: RunDirectory) -> None:
    shard = run.shards()[0].shard_id
    run.attempts.record(Attempt(shard, 1, "refused", None, "w", "device is cuda, but there is none", NOW))
    run.attempts.record(Attempt(shard, 2, "died", "t1", "w", "killed", NOW))
    overview = look_at(run)
    assert (overview.state, overview.refusal) == ("refused", "device is cuda, but there is none")
    assert overview.deaths == 1
    run.set_wanted("cancelled")
    assert look_at(run).state == "cancelled"
    finish(run)
    assert look_at(run).state == "finished"


def test_looking_changes_nothing(run: RunDirectory) -> None:
    finish(run, run.shards()[:2])
    run.parts.path(run.shards()[0].shard_id).write_bytes(b"half")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.root.rglob("*")}
    assert look_at(run).shards_finished == 1
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.root.rglob("*")} == before


def test_the_overview_as_json_is_versioned_and_plain(run: RunDirectory) -> None:
    finish(run, run.shards()[:2])
    data = json.loads(json.dumps(look_at(run).to_json_dict(), allow_nan=False))
    assert data["schema_version"] == 1
    assert list(data) == [
        "schema_version",
        "run_id",
        "directory",
        "state",
        "model",
        "probes",
        "created",
        "tasks",
        "tasks_finished",
        "tasks_failed",
        "shards",
        "shards_finished",
        "plan_complete",
        "deaths",
        "refusal",
        "outcomes",
        "tasks_per_minute",
        "eta_seconds",
        "priority",
        "executor",
        "evaluations",
        "evaluations_left",
        "evaluations_per_second",
        "side_by_side",
        "loose_parts",
    ]
    timed = json.loads(json.dumps(look_at(run).to_json_dict(timings=True), allow_nan=False))["timings"]
    assert [timing["shard_id"] for timing in timed] == sorted(shard.shard_id for shard in run.shards()[:2])


def test_a_run_is_found_by_its_directory_its_id_and_the_beginning_of_its_id(
    model: Path, probe: Path, tmp_path: Path
) -> None:
    plan = paper_plan(model, probe)
    runs = tmp_path / "runs"
    made = prepare(plan, runs / plan.run_id, executor="local")
    for name in (str(made.root), plan.run_id, plan.run_id[:-3], "duplication"):
        assert find_run(name, runs).manifest == made.manifest


def test_a_name_that_fits_no_run_or_several_is_refused(model: Path, probe: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(
        RunError, match=r"neither a run directory nor an id in .*`neuroscan-farm ls` lists the runs"
    ):
        find_run("nothing", runs)
    ids = []
    for size in (4, 5):
        plan = paper_plan(model, probe, shard_size=size)
        prepare(plan, runs / plan.run_id, executor="local")
        ids.append(plan.run_id)
    with pytest.raises(RunError, match="is not clear") as caught:
        find_run("duplication-tiny", runs)
    assert all(run_id in str(caught.value) for run_id in ids)


def test_listing_leaves_out_what_is_no_run(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "manifest.json").write_text("{")
    assert [found.manifest.run_id for found in runs_in(tmp_path / "runs")] == [run.manifest.run_id]
    assert list(runs_in(tmp_path / "nowhere")) == []


def test_a_paused_run_says_so_unless_it_is_finished(run: RunDirectory) -> None:
    run.set_wanted("paused", priority=7)
    assert (look_at(run).state, look_at(run).priority) == ("paused", 7)
    with lock_of(run.location):
        assert look_at(run).state == "paused"
    finish(run)
    assert look_at(run).state == "finished"


def test_the_rest_is_foretold_by_the_layer_evaluations_that_are_left(run: RunDirectory) -> None:
    shards = run.shards()
    assert look_at(run).eta_seconds is None, "nothing was timed yet"
    for shard in shards[:3]:  # one worker, ten evaluations a second
        work = sum(task.path.evaluations() for task in shard.tasks)
        timing = paper_timing(shard, started=1000.0, seconds=work / 10)
        run.parts.write(shard.shard_id, paper_table(run, shard), timing)
    left = sum(task.path.evaluations() for shard in shards[3:] for task in shard.tasks)
    overview = look_at(run)
    assert overview.evaluations_left == left
    assert overview.evaluations == sum(task.path.evaluations() for shard in shards for task in shard.tasks)
    assert overview.evaluations_per_second == pytest.approx(10)
    assert overview.eta_seconds == pytest.approx(left / 10)


def test_looking_reads_no_rows(run: RunDirectory) -> None:
    finish(run)
    before = look_at(run)
    for path in (run.root / "parts").iterdir():
        data = bytearray(path.read_bytes())
        data[8:200] = bytes(192)  # rows
        path.write_bytes(data)
    assert replace(look_at(RunDirectory.open(run.root)), timings=()) == replace(before, timings=())


def test_a_run_stands_the_same_after_its_parts_are_joined(run: RunDirectory) -> None:
    first, *others = run.shards()
    finish(run, others)
    finish(run, [first], outcome=Outcome.ERROR)
    before = look_at(run)
    run.parts.compact()
    assert replace(look_at(run), loose_parts=before.loose_parts) == before


@pytest.fixture
def remote(model: Path, probe: Path, bucket: str) -> RunDirectory:
    plan = paper_plan(model, probe)
    return prepare(plan, f"{bucket}/{plan.run_id}", executor="local")


def test_a_run_in_an_object_store_is_found_listed_and_looked_at(remote: RunDirectory, bucket: str) -> None:
    run_id = remote.manifest.run_id
    open_place(bucket).below("notes").write("a.txt", b"no run")
    for name in (remote.location, run_id, run_id[:-3]):
        assert find_run(name, bucket).location == f"{bucket}/{run_id}"
    assert [run.location for run in runs_in(bucket)] == [remote.location]
    assert list(runs_in(f"{bucket}/nowhere")) == []
    with pytest.raises(RunError, match="no run here"):
        find_run(f"{bucket}/notes", bucket)
    finish(remote, remote.shards()[:1])
    overview = look_at(find_run(run_id, bucket))
    assert (overview.state, overview.shards_finished) == ("stopped", 1)
    assert overview.directory == remote.location


def test_a_run_in_an_object_store_has_its_lock_on_this_machine(remote: RunDirectory, bucket: str) -> None:
    assert not is_driven(remote.location)
    with lock_of(remote.location):
        assert look_at(remote).state == "running"
        assert not is_driven(f"{bucket}/another")
        with pytest.raises(Timeout):
            lock_of(remote.location).acquire()
    assert look_at(remote).state == "stopped"
    assert not (Path.cwd() / "s3:").exists()
