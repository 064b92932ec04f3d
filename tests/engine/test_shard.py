"""One shard, measured in this process: rows, outcomes, and nothing done twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from neuroscan_farm.domain.tasks import Shard
from neuroscan_farm.engine.shard import execute_shard
from neuroscan_farm.errors import CancelledRun, ModelError, RunError, StorageError
from neuroscan_farm.store.attempts import Attempt
from neuroscan_farm.store.control import Control
from neuroscan_farm.store.run_directory import RunDirectory
from neuroscan_farm.store.schema import CIRCUMSTANCES
from tests.conftest import MakeRun
from tests.tiny_models import make_overflowing, make_tiny, oracle_logits


def test_the_rows_of_a_shard_equal_an_oracle(make_run: MakeRun, warm: Any, tiny_llama: Path) -> None:
    run = make_run(parameters={"blocks": ["2,4", "1,3;4,5", "0,6", "3,4x3"], "paths": ["0..1,4..5"]})
    for shard in run.shards():
        execute_shard(run, shard.shard_id, 1, worker="test", warm=warm)
    rows = run.parts.read().to_pylist()
    assert len(rows) == 6 * 8
    _, batches = warm.ready_for(run)
    prompts = {s.sample_id: ids for b in batches for s, ids in zip(b.samples, b.token_ids, strict=True)}
    digits = batches[0].answer_ids
    for row in rows:
        logits = oracle_logits(tiny_llama, tuple(row["path"]), prompts[row["sample_id"]][None])[0]
        p = torch.softmax(logits[list(digits)], -1)
        assert row["outcome"] == "ok"
        assert row["answer_probabilities"] == pytest.approx(p.tolist(), abs=1e-4)
        assert row["coverage"] == pytest.approx(
            float(torch.softmax(logits, -1)[list(digits)].sum()), abs=1e-4
        )
        assert row["n_layers_run"] == len(row["path"])
    blocks = {(row["i"], row["j"]) for row in rows}
    assert blocks == {(None, None), (2, 4), (0, 6)}
    assert {tuple(row["skipped"]) for row in rows} == {(), (2, 3)}


def test_a_shard_that_is_finished_is_not_measured_again(make_run: MakeRun, warm: Any) -> None:
    run = make_run(parameters={"blocks": ["2,4"]})
    (shard,) = run.shards()
    execute_shard(run, shard.shard_id, 1, worker="test", warm=warm)
    before = run.parts.path(shard.shard_id).stat().st_mtime_ns
    started: list[str] = []
    execute_shard(run, shard.shard_id, 2, worker="other", warm=warm, on_task=started.append)
    assert started == []
    assert run.parts.path(shard.shard_id).stat().st_mtime_ns == before


def test_rows_do_not_depend_on_how_tasks_are_packed(make_run: MakeRun, warm: Any) -> None:
    tables = []
    for size in (1, 3, 16):
        run = make_run(f"run-{size}", shard_size=size, parameters={"min_block": 4})
        for shard in run.shards():
            execute_shard(run, shard.shard_id, 1, worker="test", warm=warm)
        dropped = [*CIRCUMSTANCES, "run_id", "shard_id"]
        tables.append(
            run.parts.read()
            .drop_columns(dropped)
            .sort_by([("task_id", "ascending"), ("sample_id", "ascending")])
        )
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_non_finite_logits_are_rows_with_an_outcome(make_run: MakeRun, tmp_path: Path, warm: Any) -> None:
    model = str(make_overflowing(tmp_path / "m"))
    run = make_run(model=model, parameters={"blocks": ["1,3", "2,4"]}, engine={"dtype": "float16"})
    for shard in run.shards():
        execute_shard(run, shard.shard_id, 1, worker="test", warm=warm)
    rows = run.parts.read().to_pylist()
    assert {((row["i"], row["j"]), row["outcome"]) for row in rows} == {
        ((None, None), "ok"),
        ((1, 3), "ok"),
        ((2, 4), "non_finite"),
    }
    for row in rows:
        if row["outcome"] == "non_finite":
            assert row["log_odds"] is row["expected_score"] is row["correct"] is row["coverage"] is None
            assert "NaN" in row["detail"]


def test_a_cancelled_run_stops_between_tasks_and_writes_nothing(make_run: MakeRun, warm: Any) -> None:
    run = make_run(parameters={"blocks": ["2,4"]})
    run.set_wanted("cancelled")
    (shard,) = run.shards()
    with pytest.raises(CancelledRun):
        execute_shard(run, shard.shard_id, 1, worker="test", warm=warm)
    assert run.parts.read().num_rows == 0


def test_a_model_that_changed_since_the_run_was_made_is_refused(
    make_run: MakeRun, tmp_path: Path, warm: Any
) -> None:
    folder = make_tiny("llama", tmp_path / "model")
    run = make_run(model=str(folder), parameters={"blocks": ["2,4"]})
    make_tiny("llama", folder, seed=1)
    with pytest.raises(ModelError, match="not that of the run"):
        execute_shard(run, run.shards()[0].shard_id, 1, worker="test", warm=warm)


def test_an_order_for_a_shard_that_was_cut_anew_is_dropped(make_run: MakeRun, warm: Any) -> None:
    run = make_run()
    execute_shard(run, "s000000000000", 1, worker="test", warm=warm)
    assert run.parts.read().num_rows == 0


def test_only_what_is_missing_of_a_shard_is_measured(make_run: MakeRun, warm: Any) -> None:
    run = make_run(shard_size=8)
    shard = run.shards()[0]
    first = Shard.of(shard.tasks[:3])
    run.write_plan([first, *run.shards()], complete=True)
    execute_shard(run, first.shard_id, 1, worker="test", warm=warm)
    started: set[str] = set()
    execute_shard(run, shard.shard_id, 1, worker="other", warm=warm, on_task=started.add)
    assert started.isdisjoint(task.task_id for task in first.tasks)
    rows = run.parts.read()
    assert rows.num_rows == len(shard.tasks) * 8
    assert set(rows["worker"].to_pylist()) == {"test", "other"}


def test_a_worker_that_is_asked_to_leave_commits_the_rounds_that_it_has_finished(
    make_run: MakeRun, warm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Leave(Exception):
        pass

    def leave_at(task_id: str) -> None:
        if task_id == shard.tasks[-1].task_id:
            raise Leave

    monkeypatch.setattr("neuroscan_farm.engine.shard._FIRST_ROUND_TASKS", 2)
    monkeypatch.setattr("neuroscan_farm.engine.shard._ROUND_SECONDS", 0.0)
    run = make_run(shard_size=8)
    shard = run.shards()[0]
    run.attempts.record(Attempt(shard.shard_id, 1, "died", None, "w", "", "2026-01-01T00:00:00+00:00"))
    with pytest.raises(Leave):  # task by task after a death, so that each is told
        execute_shard(run, shard.shard_id, 2, worker="test", warm=warm, on_task=leave_at)
    assert run.parts.look().done == {task.task_id for task in shard.tasks[:-1]}
    execute_shard(run, shard.shard_id, 3, worker="test", warm=warm)
    whole = make_run("whole", shard_size=8)
    execute_shard(whole, shard.shard_id, 1, worker="test", warm=warm)
    keys = [("task_id", "ascending"), ("sample_id", "ascending")]
    left, right = (one.parts.read().drop_columns(list(CIRCUMSTANCES)).sort_by(keys) for one in (run, whole))
    assert left.equals(right)


def test_a_store_that_is_away_while_a_shard_is_measured_costs_nothing(
    make_run: MakeRun, warm: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(self: RunDirectory) -> Control:
        raise StorageError("the mount is gone")

    monkeypatch.setattr("neuroscan_farm.engine.shard._SECONDS_BETWEEN_LOOKS", 0.0)
    run = make_run()
    shard = run.shards()[0]
    begun: list[str] = []

    def on_task(task_id: str) -> None:
        begun.append(task_id)
        monkeypatch.setattr(RunDirectory, "control", away)

    execute_shard(run, shard.shard_id, 1, worker="test", warm=warm, on_task=on_task)
    assert begun
    assert "whether the run is still wanted cannot be seen: the mount is gone" in caplog.text
    assert run.parts.look().done == {task.task_id for task in shard.tasks}


def test_the_time_of_a_shard_is_kept_with_its_rows(make_run: MakeRun, warm: Any) -> None:
    run = make_run()
    shard = run.shards()[0]
    execute_shard(run, shard.shard_id, 2, worker="test", warm=warm)
    (timing,) = run.parts.look().timings
    assert (timing.shard_id, timing.worker, timing.attempt) == (shard.shard_id, "test", 2)
    assert timing.tasks == len(shard.tasks)
    assert timing.evaluations == sum(task.path.evaluations() for task in shard.tasks)
    assert timing.seconds > 0


def test_a_task_that_killed_three_workers_is_quarantined_and_the_others_are_measured(
    make_run: MakeRun, warm: Any
) -> None:
    run = make_run(parameters={"blocks": ["2,4", "1,3"]})
    (shard,) = run.shards()
    poison = shard.tasks[1].task_id
    for attempt in (1, 2, 3):
        run.attempts.record(
            Attempt(shard.shard_id, attempt, "died", poison, "w", "killed", "2026-01-01T00:00:00")
        )
    execute_shard(run, shard.shard_id, 4, worker="test", warm=warm)
    rows = run.parts.read().to_pylist()
    details = {row["detail"] for row in rows if row["task_id"] == poison}
    (detail,) = details
    assert "workers died 3 times" in detail
    assert "killed" in detail
    outcomes = {(row["task_id"], row["outcome"]) for row in rows}
    assert outcomes == {(t.task_id, "quarantined" if t.task_id == poison else "ok") for t in shard.tasks}


def test_a_worker_of_another_version_refuses_the_run_and_writes_nothing(
    make_run: MakeRun, warm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    monkeypatch.setattr("neuroscan_farm.store.run_directory.ENGINE_VERSION", "99")
    with pytest.raises(RunError, match="made with engine"):
        execute_shard(run, run.shards()[0].shard_id, 1, worker="test", warm=warm)
    assert run.parts.read().num_rows == 0
