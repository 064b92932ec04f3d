"""Making a run: the same request resumes, another is refused by what differs, and ids are made of content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from neuroscan_farm.coordinator.prepare import prepare, wake
from neuroscan_farm.errors import ModelError, ProbeError, RequestError, RunError
from neuroscan_farm.store.attempts import Attempt
from neuroscan_farm.store.run_directory import RunDirectory
from tests.paper_models import finish, paper_plan, paper_probe


def test_the_same_request_resumes_and_keeps_what_is_finished(
    model: Path, probe: Path, tmp_path: Path
) -> None:
    run = prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    finish(run, run.shards()[:1])
    made = (tmp_path / "run" / "manifest.json").read_bytes()
    again = prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    assert (tmp_path / "run" / "manifest.json").read_bytes() == made
    assert again.parts.look().done == {task.task_id for task in run.shards()[0].tasks}


def test_the_same_request_takes_back_a_cancellation_and_tries_again_what_was_refused(
    model: Path, probe: Path, tmp_path: Path
) -> None:
    run = prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    run.set_wanted("cancelled")
    for number, kind in enumerate(("refused", "died", "died", "died"), start=1):
        run.attempts.record(
            Attempt(run.shards()[0].shard_id, number, kind, None, "w", "out of memory", "2026-01-01T00:00:00")
        )
    again = prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    assert again.wanted() == "cancelled", "nothing is taken back before somebody is there to go on"
    wake(again, executor="celery")
    assert (again.wanted(), again.executor()) == ("running", "celery")
    assert again.attempts.all() == []


def test_a_run_that_was_refined_resumes_with_its_refinement(model: Path, probe: Path, tmp_path: Path) -> None:
    sparse = {"parameters": {"sparse_first": True}}
    run = prepare(paper_plan(model, probe, **sparse), tmp_path / "run", executor="local")
    assert not run.plan_complete()
    longer = paper_plan(model, probe).shards
    run.write_plan(longer, complete=True)
    again = prepare(paper_plan(model, probe, **sparse), tmp_path / "run", executor="local")
    assert again.plan_complete()
    assert again.shards() == list(longer)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parameters": {"min_block": 2}}, "its parameters.min_block is 1, not 2"),
        ({"parameters": {"blocks": ["1,3"]}}, "its parameters.blocks is [], not ['1,3']"),
        ({"engine": {"dtype": "bfloat16"}}, "its engine.dtype is auto, not bfloat16"),
        ({"engine": {"batch_size": 3}}, "its engine.batch_size is 16, not 3"),
        ({"metric": "correct"}, "its metric is log_odds, not correct"),
        ({"shard_size": 9}, "its shard_size is 4, not 9"),
    ],
)
def test_another_request_in_the_same_place_is_refused_by_what_differs(
    model: Path, probe: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    with pytest.raises(RunError) as caught:
        prepare(paper_plan(model, probe, **change), tmp_path / "run", executor="local")
    assert said in str(caught.value)
    assert "of another request" in str(caught.value)
    assert "give another --output" in str(caught.value)


def test_another_content_of_the_model_is_another_run(model: Path, probe: Path, tmp_path: Path) -> None:
    run = prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    (model / "model.safetensors").write_bytes(b"fine-tuned")
    changed = paper_plan(model, probe)
    assert changed.run_id != run.manifest.run_id
    with pytest.raises(RunError, match="its model is tiny, with another content"):
        prepare(changed, tmp_path / "run", executor="local")


def test_another_question_in_a_probe_is_another_run(model: Path, probe: Path, tmp_path: Path) -> None:
    run = prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    paper_probe(probe, samples=4)
    changed = paper_plan(model, probe)
    assert changed.run_id != run.manifest.run_id
    with pytest.raises(RunError, match="its probes are sums, with other questions"):
        prepare(changed, tmp_path / "run", executor="local")


def test_a_damaged_request_beside_a_run_of_another_is_an_error_with_its_place(
    model: Path, probe: Path, tmp_path: Path
) -> None:
    prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    (tmp_path / "run" / "request.yaml").unlink()
    with pytest.raises(RunError, match=r"request\.yaml: cannot be read"):
        prepare(paper_plan(model, probe, shard_size=9), tmp_path / "run", executor="local")


def test_where_a_model_and_its_probes_lie_does_not_make_another_run(
    model: Path, probe: Path, tmp_path: Path
) -> None:
    plan = paper_plan(model, probe)
    (tmp_path / "elsewhere").mkdir()
    moved = paper_plan(
        shutil.copytree(model, tmp_path / "elsewhere" / "tiny"),
        shutil.copy(probe, tmp_path / "elsewhere" / "q.json"),
    )
    assert moved.run_id == plan.run_id
    assert moved.shards == plan.shards


def test_the_order_of_the_probes_changes_no_task(model: Path, probe: Path, tmp_path: Path) -> None:
    other = paper_probe(tmp_path / "other.json", name="other", samples=2)
    assert paper_plan(model, probe, other).shards == paper_plan(model, other, probe).shards
    assert paper_plan(model, probe, other).run_id == paper_plan(model, other, probe).run_id


def test_two_probes_of_one_name_are_refused(model: Path, probe: Path, tmp_path: Path) -> None:
    other = paper_probe(tmp_path / "other.json", name="sums", samples=2)
    for pair in ((probe, probe), (probe, other)):
        with pytest.raises(RequestError, match="probes: sums is named twice; each probe needs its own name"):
            paper_plan(model, *pair)


@pytest.mark.parametrize("metric", ["log_odds", "log_p_correct", "correct"])
def test_a_metric_of_correctness_needs_every_right_answer(model: Path, tmp_path: Path, metric: str) -> None:
    probe = paper_probe(tmp_path / "open.json", name="open", labelled=False)
    with pytest.raises(ProbeError) as caught:
        paper_plan(model, probe, metric=metric)
    assert "probe open: 3 of 3 samples have no right answer" in str(caught.value)
    assert "--metric expected_score" in str(caught.value)


def test_without_right_answers_a_probe_can_be_ranked_by_the_expected_score(
    model: Path, tmp_path: Path
) -> None:
    probe = paper_probe(tmp_path / "open.json", name="open", labelled=False)
    assert paper_plan(model, probe, metric="expected_score").n_samples == 3


def test_a_model_that_is_missing_or_does_not_fit_is_refused_before_anything_is_written(
    probe: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ModelError, match="no such folder"):
        paper_plan(tmp_path / "gone", probe)
    assert sorted(tmp_path.rglob("*")) == before


def test_rows_of_two_engine_versions_are_not_mixed_in_one_run(
    model: Path, probe: Path, tmp_path: Path
) -> None:
    run = prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    path = run.root / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"engine_version": "0"}))
    with pytest.raises(RunError, match="made with engine 0 and scoring 1, this program has"):
        prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    with pytest.raises(RunError, match="start a new run with another --output"):
        RunDirectory.open(run.root).check_versions()


def test_waking_a_run_that_runs_changes_nothing(model: Path, probe: Path, tmp_path: Path) -> None:
    run = prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    wake(run)
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before


def test_the_manifest_says_what_the_run_rests_on(model: Path, probe: Path, tmp_path: Path) -> None:
    run = prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    manifest = run.manifest
    assert manifest.probes == {probe.name: probe.digest for probe in run.probes()}
    assert manifest.model_folder == str(model)
    assert {"torch", "transformers", "neuroscan-farm", "python"} <= set(manifest.versions)


def test_waking_a_run_may_change_its_priority_and_nothing_else(
    model: Path, probe: Path, tmp_path: Path
) -> None:
    run = prepare(paper_plan(model, probe), tmp_path / "run", executor="celery")
    assert run.priority() == 5
    wake(run, priority=9)
    assert (run.priority(), run.wanted(), run.executor()) == (9, "running", "celery")
    run.set_wanted("paused")
    wake(run)
    assert (run.priority(), run.wanted(), run.executor()) == (9, "running", "celery")
