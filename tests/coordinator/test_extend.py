"""Probes are added to a run that is there: its paths are measured on them, and nothing twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neuroscan_farm.coordinator.extend import plan_addition
from neuroscan_farm.coordinator.overview import find_run, runs_in
from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.errors import ModelError, ProbeError, RequestError, RunError
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.heatmap import heatmap
from neuroscan_farm.report.summary import notices, summary_text
from neuroscan_farm.report.write import write_report
from neuroscan_farm.store.additions import additions_of, first_of, place_of_addition
from neuroscan_farm.store.attempts import Attempt
from neuroscan_farm.store.run_directory import RunDirectory
from tests.paper_models import finish, paper_model, paper_plan, paper_probe


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return paper_model(tmp_path / "model")


@pytest.fixture
def run(model: Path, tmp_path: Path) -> RunDirectory:
    plan = paper_plan(model, paper_probe(tmp_path / "sums.json"))
    return prepare(plan, tmp_path / "runs" / "first", executor="local")


def _differences(tmp_path: Path) -> str:
    return str(paper_probe(tmp_path / "differences.json", name="differences", samples=5))


def _add(run: RunDirectory, *probes: str) -> RunDirectory:
    plan = plan_addition(run, probes)
    return prepare(plan, place_of_addition(run, plan.run_id), executor="local")


def test_an_addition_has_the_paths_of_the_run_and_the_new_probes_alone(
    run: RunDirectory, tmp_path: Path
) -> None:
    addition = _add(run, _differences(tmp_path))
    paths = {task.path for shard in run.shards() for task in shard.tasks}
    assert {task.path for shard in addition.shards() for task in shard.tasks} == paths
    assert list(addition.manifest.probes) == ["differences"]
    assert addition.plan_complete()
    assert addition.manifest.run_id != run.manifest.run_id
    assert [found.location for found in additions_of(run)] == [addition.location]
    assert first_of(addition).location == run.location


def test_the_same_probes_again_are_the_same_addition(run: RunDirectory, tmp_path: Path) -> None:
    first, second = _add(run, _differences(tmp_path)), _add(run, _differences(tmp_path))
    assert first.location == second.location
    assert len(additions_of(run)) == 1


def test_findings_hold_the_probes_of_the_run_and_of_its_additions(run: RunDirectory, tmp_path: Path) -> None:
    finish(run)
    before = read_findings(run)
    addition = _add(run, _differences(tmp_path))
    waiting = read_findings(run)
    assert waiting.probes == ("sums", "differences")
    assert [note for note in notices(waiting) if "differences" in note and "resume" in note]
    assert {c.results[None].unranked for c in waiting.configurations} == {"not measured on differences yet"}
    assert all(c.results["sums"].rank is not None for c in waiting.configurations)
    finish(addition)
    findings = read_findings(run)
    assert findings.probes == ("sums", "differences")
    assert findings.manifest.n_samples == {"sums": 3, "differences": 5}
    assert not findings.unfinished
    for c, earlier in zip(findings.configurations, before.configurations, strict=True):
        assert c.task_id == earlier.task_id
        assert c.results["sums"].effects == earlier.results["sums"].effects
        assert c.results["differences"].n_ok == 5
        assert c.results[None].n_ok == 8


def test_what_was_added_is_among_the_runs_so_that_a_coordinator_finds_it(
    run: RunDirectory, tmp_path: Path
) -> None:
    addition = _add(run, _differences(tmp_path))
    assert [found.location for found in runs_in(tmp_path / "runs")] == [run.location, addition.location]


def test_a_probe_that_is_there_already_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"sums is in the run .* already; .*resume"):
        plan_addition(run, [str(tmp_path / "sums.json")])
    other = paper_probe(tmp_path / "other.json", samples=4)
    with pytest.raises(RequestError, match=r"with other questions; give this one another name"):
        plan_addition(run, [str(other)])
    _add(run, _differences(tmp_path))
    with pytest.raises(RequestError, match="named twice"):
        plan_addition(run, [_differences(tmp_path)] * 2)
    with_more = [_differences(tmp_path), str(paper_probe(tmp_path / "more.json", name="more"))]
    with pytest.raises(RequestError, match="differences is in the run"):
        plan_addition(run, with_more)


def test_an_addition_is_not_added_to(run: RunDirectory, tmp_path: Path) -> None:
    addition = _add(run, _differences(tmp_path))
    with pytest.raises(RunError, match="was itself added to"):
        plan_addition(addition, [str(paper_probe(tmp_path / "more.json", name="more"))])


def test_a_probe_without_answers_cannot_be_added_to_a_run_that_ranks_by_them(
    run: RunDirectory, tmp_path: Path
) -> None:
    silent = paper_probe(tmp_path / "silent.json", name="silent", labelled=False)
    with pytest.raises(ProbeError, match="no right answer"):
        plan_addition(run, [str(silent)])


def test_a_model_that_was_changed_since_is_refused(run: RunDirectory, model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ModelError, match="not that of the run"):
        plan_addition(run, [_differences(tmp_path)])


def test_a_run_with_stages_to_come_must_finish_first(model: Path, tmp_path: Path) -> None:
    plan = paper_plan(
        model, paper_probe(tmp_path / "sums.json"), parameters={"sparse_first": True, "sparse_step": 2}
    )
    run = prepare(plan, tmp_path / "sparse", executor="local")
    with pytest.raises(RunError, match="a further stage"):
        plan_addition(run, [_differences(tmp_path)])


def test_the_same_output_with_one_probe_more_says_how_to_add_it(
    run: RunDirectory, model: Path, tmp_path: Path
) -> None:
    plan = paper_plan(model, tmp_path / "sums.json", _differences(tmp_path))
    with pytest.raises(RunError, match=r"neuroscan-farm extend .* --probe differences"):
        prepare(plan, run.location, executor="local")
    other = replace(plan, probes=plan.probes[1:])
    with pytest.raises(RunError) as refused:
        prepare(other, run.location, executor="local")
    assert "extend" not in str(refused.value)


def test_the_beginning_of_an_id_means_the_run_and_not_what_was_added_to_it(
    run: RunDirectory, tmp_path: Path
) -> None:
    addition = _add(run, _differences(tmp_path))
    beginning = run.manifest.run_id.rpartition("-")[0]
    assert addition.manifest.run_id.startswith(beginning)
    assert find_run(beginning, tmp_path / "runs").location == run.location
    assert find_run(addition.manifest.run_id, tmp_path / "runs").location == addition.location


def test_no_similarity_is_measured_where_no_stage_will_ask_for_it(model: Path, tmp_path: Path) -> None:
    plan = paper_plan(
        model, paper_probe(tmp_path / "sums.json"), analysis="circuits", parameters={"strategy": "thorough"}
    )
    run = prepare(plan, tmp_path / "pairs", executor="local")
    assert run.needs_similarity()
    run.write_plan(run.shards(), complete=True)
    assert not run.needs_similarity()
    assert not _add(run, _differences(tmp_path)).needs_similarity()


def test_probes_are_added_to_a_run_in_an_object_store(bucket: str, model: Path, tmp_path: Path) -> None:
    run = prepare(paper_plan(model, paper_probe(tmp_path / "sums.json")), f"{bucket}/first", executor="local")
    finish(run)
    assert read_findings(run).probes == ("sums",)
    addition = _add(run, _differences(tmp_path))
    assert first_of(addition).location == run.location
    finish(addition)
    assert read_findings(run).probes == ("sums", "differences")
    assert [found.location for found in runs_in(bucket)] == [run.location, addition.location]


def test_what_went_wrong_in_an_addition_is_in_the_report(run: RunDirectory, tmp_path: Path) -> None:
    finish(run)
    addition = _add(run, _differences(tmp_path))
    shard_id = addition.shards()[0].shard_id
    ended = "2026-11-20T08:00:00+00:00"
    addition.attempts.record(Attempt(shard_id, 1, "died", None, "w", "killed by signal 9", ended))
    assert "died: killed by signal 9" in write_report(run).summary


def test_a_half_done_run_stays_half_done_when_a_probe_is_added_and_finished(
    run: RunDirectory, tmp_path: Path
) -> None:
    baseline = next(shard for shard in run.shards() if any(task.is_baseline(6) for task in shard.tasks))
    finish(run, [baseline])
    finish(_add(run, _differences(tmp_path)))
    findings = read_findings(run)
    half = len(baseline.tasks)
    assert (findings.n_measured, findings.n_planned) == (half, 22)
    assert findings.n_measured_on("sums") == half
    assert findings.n_measured_on("differences") == 22
    assert findings.share == half / 22
    said = summary_text(findings, failures=[])
    assert f"{half} of 22 planned tasks are measured on every probe" in said
    assert "The baseline" not in "".join(notices(findings))
    waiting = [c for c in findings.configurations if not c.is_measured]
    assert {c.results[None].unranked for c in waiting} == {"not measured on sums yet"}
    assert {c.results["differences"].unranked for c in waiting} == {None}
    states = heatmap(findings, probe=None).data[0]
    assert states.name == "without a change"
    assert set(states.z[np.isfinite(states.z)]) == {0}  # waiting, and not measured without a baseline
