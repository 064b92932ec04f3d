"""The run directory: what is missing, damaged or another's is refused, and the truth is what lies there."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroscan_farm.coordinator.prepare import Plan, prepare
from neuroscan_farm.domain.paths import Block, LayerPath
from neuroscan_farm.domain.tasks import Shard, Task
from neuroscan_farm.errors import NeuroscanError, RequestError, RunError, StorageError
from neuroscan_farm.store.last_run import LastRun
from neuroscan_farm.store.places import DiskPlace
from neuroscan_farm.store.run_directory import RunDirectory, make_run_id
from tests.paper_models import paper_model, paper_plan, paper_probe


def test_a_run_reads_back_as_it_was_made(tmp_path: Path) -> None:
    plan = paper_plan(paper_model(tmp_path / "tiny"), paper_probe(tmp_path / "sums.json"), metric="correct")
    prepare(plan, tmp_path / "run", executor="celery")
    run = RunDirectory.open(tmp_path / "run")
    assert run.request() == plan.request
    assert run.probes() == plan.probes
    assert run.shards() == list(plan.shards)
    assert run.plan_complete()
    assert run.wanted() == "running"
    assert (run.manifest.run_id, run.executor()) == (plan.run_id, "celery")
    assert run.priority() == 5


def test_every_file_of_a_run_is_where_the_design_says(run: RunDirectory) -> None:
    assert {path.name for path in run.root.iterdir()} == {
        "request.yaml",
        "manifest.json",
        "plan.parquet",
        "probes",
        "control.json",
    }


def test_a_folder_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        assert not RunDirectory.exists(root)
        with pytest.raises(
            RunError, match=r"no run here \(manifest.json is missing\); `neuroscan-farm ls` lists the runs"
        ):
            RunDirectory.open(root)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '{"schema_version": 1}', '{"schema_version": 1, "x": 2}', "\udcff"]
)
def test_a_damaged_manifest_is_refused_with_its_place(run: RunDirectory, text: str) -> None:
    (run.root / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=r"manifest\.json: damaged"):
        RunDirectory.open(run.root)


def test_a_run_of_another_program_version_is_refused_and_not_called_damaged(run: RunDirectory) -> None:
    path = run.root / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(
        RunError, match="version 99, this program reads 1; use the program version that made the run"
    ):
        RunDirectory.open(run.root)


def test_a_probe_that_was_changed_after_the_run_was_made_is_refused(run: RunDirectory) -> None:
    path = run.root / "probes" / "sums.json"
    data = json.loads(path.read_text())
    data["samples"][0]["answer"] = "9"
    path.write_text(json.dumps(data))
    with pytest.raises(RunError, match=r"sums\.json was changed after the run was made; restore it"):
        run.probes()


def test_a_probe_that_only_got_another_description_is_the_same(run: RunDirectory) -> None:
    path = run.root / "probes" / "sums.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"description": "more words"}))
    assert len(run.probes()) == 1


def test_a_probe_or_request_that_is_gone_is_an_error_with_its_place(run: RunDirectory) -> None:
    (run.root / "probes" / "sums.json").unlink()
    with pytest.raises(NeuroscanError, match=r"sums\.json: no such file"):
        run.probes()
    (run.root / "request.yaml").unlink()
    with pytest.raises(RunError, match=r"request\.yaml: cannot be read"):
        run.request()


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "just words"])
def test_a_request_that_was_edited_into_something_else_is_refused(run: RunDirectory, text: str) -> None:
    (run.root / "request.yaml").write_text(text)
    with pytest.raises((RunError, RequestError), match=r"request\.yaml"):
        run.request()


@pytest.mark.parametrize("how", ["missing", "truncated", "another version", "another table"])
def test_a_plan_that_cannot_be_trusted_is_refused(run: RunDirectory, how: str) -> None:
    path = run.root / "plan.parquet"
    table = pq.read_table(path)
    match how:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(path.read_bytes()[:100])
        case "another version":
            pq.write_table(table.replace_schema_metadata({"neuroscan.schema_version": "7"}), path)
        case "another table":
            pq.write_table(table.drop_columns(["stage"]), path)
    with pytest.raises(RunError, match=r"plan\.parquet: (cannot be read|schema version)"):
        run.shards()


def test_a_folder_with_something_else_in_it_is_not_made_into_a_run(tmp_path: Path) -> None:
    plan = paper_plan(paper_model(tmp_path / "tiny"), paper_probe(tmp_path / "sums.json"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("")
    with pytest.raises(RunError, match="not empty and holds no run; choose a new one with --output"):
        prepare(plan, tmp_path / "thesis", executor="local")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


@pytest.mark.parametrize("left", ["nothing", "half a file", "the request", "all but the manifest"])
def test_a_run_whose_making_was_interrupted_is_made_by_the_same_command(tmp_path: Path, left: str) -> None:
    plan = paper_plan(paper_model(tmp_path / "tiny"), paper_probe(tmp_path / "sums.json"))
    root = tmp_path / "run"
    prepare(plan, root, executor="local")
    kept = {"nothing": set(), "half a file": set(), "the request": {"request.yaml"}}.get(
        left, {path.name for path in root.iterdir()} - {"manifest.json"}
    )
    for path in root.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if left == "half a file":
        (root / ".tmp-0123-request.yaml").write_text("analy")
    assert prepare(plan, root, executor="local").shards() == list(plan.shards)


def test_a_file_in_the_place_of_the_run_is_named(tmp_path: Path) -> None:
    plan = paper_plan(paper_model(tmp_path / "tiny"), paper_probe(tmp_path / "sums.json"))
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(StorageError, match="a file is in the way"):
            prepare(plan, root, executor="local")


def test_what_is_wanted_is_kept_and_a_lost_word_means_go_on(run: RunDirectory) -> None:
    run.set_wanted("cancelled")
    assert RunDirectory.open(run.root).wanted() == "cancelled"
    for text in ("", "[]", "{}", "7"):
        (run.root / "control.json").write_text(text)
        assert run.wanted() == "running"


def test_the_run_id_says_what_is_scanned_and_is_safe_as_a_file_name_and_on_the_wire(tmp_path: Path) -> None:
    plan = paper_plan(paper_model(tmp_path / "tiny"), paper_probe(tmp_path / "sums.json"))
    ids = {
        name: make_run_id(plan.request, model_name=name, model_fingerprint="f", probes=plan.probes)
        for name in ("acme/tiny", "模型 №5", "a b\n", "x" * 300)
    }
    assert ids["acme/tiny"].startswith("duplication-acme-tiny-")
    for run_id in ids.values():
        assert run_id.isascii()
        assert len(run_id) <= 120
        assert all(c.isalnum() or c in "-._" for c in run_id)


def test_one_shard_of_a_large_plan_is_read_as_it_stands_in_the_whole(run: RunDirectory) -> None:
    tasks = [
        Task.of(LayerPath.duplicating([Block(i, j)], 90), probe_digests=["d"], block=Block(i, j))
        for i in range(90)
        for j in range(i + 1, 91)
    ]
    shards = [Shard.of(tasks[k : k + 7]) for k in range(0, len(tasks), 7)]
    assert len(tasks) > 4000, "more than are written together"
    run.write_plan(shards, complete=False)
    assert run.shards() == shards
    for shard in [*shards[::50], shards[292], shards[293], shards[-1]]:
        assert run.shard(shard.shard_id) == shard
    assert run.shard("s000000000000") is None
    planned = run.planned()
    assert list(planned.task_ids) == [task.task_id for task in tasks]
    assert list(planned.shard_ids) == [shard.shard_id for shard in shards for _ in shard.tasks]
    assert list(planned.evaluations) == [task.path.evaluations() for task in tasks]
    assert not run.plan_complete()


def test_a_new_plan_is_known_by_its_stamp(any_run: RunDirectory) -> None:
    run = any_run
    stamp, shards = run.plan_stamp(), run.shards()
    assert run.plan_complete()
    assert RunDirectory.open(run.location).plan_stamp() == stamp
    run.write_plan([Shard.of([task]) for shard in shards for task in shard.tasks], complete=False)
    assert run.plan_stamp() != stamp
    assert not run.plan_complete()


@pytest.mark.parametrize("how", ["an empty path", "a layer below 0", "no task id"])
def test_a_plan_with_rows_that_make_no_sense_is_refused(run: RunDirectory, how: str) -> None:
    table = pq.read_table(run.root / "plan.parquet")
    paths = table["path"].to_pylist()
    paths[3] = {"an empty path": [], "a layer below 0": [-1, 0, 1], "no task id": paths[3]}[how]
    field = table.schema.field("path")
    table = table.set_column(table.column_names.index("path"), field, pa.array(paths, field.type))
    if how == "no task id":
        table = table.drop_columns(["task_id"])
    pq.write_table(table, run.root / "plan.parquet")
    with pytest.raises(RunError, match=r"plan\.parquet: (damaged|cannot be read|schema version)"):
        run.shards()


def test_a_plan_on_a_store_that_fails_is_not_called_damaged(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(pa.PythonFile):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(io.BytesIO(), "r")

        def size(self) -> int:
            raise OSError("Input/output error")

    def read(place: DiskPlace, name: str) -> bytes:
        raise StorageError("the store is away")

    monkeypatch.setattr(DiskPlace, "open_file", lambda place, name: Failing())
    assert run.shards()
    monkeypatch.setattr(DiskPlace, "read", read)
    for look in (run.shards, run.planned, run.plan_complete, lambda: run.shard("s000000000000")):
        with pytest.raises(StorageError, match="away"):
            look()


def test_the_last_run_is_kept_until_another_one_is_opened(run: RunDirectory, tmp_path: Path) -> None:
    last = LastRun()
    first = last.open(run.location)
    assert last.open(run.location) is first
    other = shutil.copytree(run.root, tmp_path / "other")
    assert last.open(str(other)).location == str(other)
    manifest = json.loads((run.root / "manifest.json").read_text())
    (run.root / "manifest.json").write_text(json.dumps(manifest | {"engine_version": "99"}))
    assert last.open(run.location).manifest.engine_version == "99"


def test_a_run_in_an_object_store_reads_back_as_it_was_made(plan: Plan, bucket: str) -> None:
    made = prepare(plan, f"{bucket}/one", executor="celery")
    run = RunDirectory.open(f"{bucket}/one/")
    assert run.location == made.location == f"{bucket}/one"
    assert (run.manifest, run.request(), run.probes()) == (made.manifest, plan.request, plan.probes)
    assert run.shards() == list(plan.shards)
    assert run.shard(plan.shards[1].shard_id) == plan.shards[1]
    assert not RunDirectory.exists(f"{bucket}/two")
    with pytest.raises(RunError, match=r"no run here \(manifest.json is missing\)"):
        RunDirectory.open(f"{bucket}/two")
    with pytest.raises(RunError, match="this run is in an object store, and has no folder"):
        _ = run.root
    with pytest.raises(RunError, match="not empty and holds no run"):
        prepare(plan, bucket, executor="local")


def test_what_is_wanted_of_a_run_of_whom_and_how_soon_is_changed_one_by_one(any_run: RunDirectory) -> None:
    run = any_run
    assert (run.wanted(), run.executor(), run.priority()) == ("running", "local", 5)
    run.set_wanted("paused")
    run.set_wanted(priority=9)
    run.set_wanted(executor="celery")
    again = RunDirectory.open(run.location)
    assert (again.wanted(), again.executor(), again.priority()) == ("paused", "celery", 9)
    run.set_wanted("running", priority=0)
    assert (again.wanted(), again.executor(), again.priority()) == ("running", "celery", 0)


@pytest.mark.parametrize("priority", [-1, 10, "9", None, 3.5, [5]])
def test_a_priority_that_is_none_is_the_usual_one(run: RunDirectory, priority: object) -> None:
    run.place.write("control.json", json.dumps({"wanted": "paused", "priority": priority}).encode())
    assert (run.wanted(), run.priority()) == ("paused", 5)
