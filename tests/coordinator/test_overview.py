"""How a run stands is read off its directory alone, and looking changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuroscan_farm.coordinator.overview import find_run, is_driven, lock_of, look_at, runs_in
from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.errors import RunError
from neuroscan_farm.store.attempts import Attempt
from neuroscan_farm.store.run_directory import RunDirectory
from tests.paper_models import finish, paper_plan

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
    ]


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
