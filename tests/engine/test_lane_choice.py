"""Which lane a run goes through: the fused one where it is proven, and what only it does is refused elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuroscan_farm.engine.lanes.fused import FusedLane
from neuroscan_farm.engine.shard import execute_shard
from neuroscan_farm.engine.warm import WarmModel
from neuroscan_farm.errors import ModelError
from neuroscan_farm.store.schema import CIRCUMSTANCES
from tests.conftest import MakeRun
from tests.tiny_models import make_tiny


def test_the_fused_lane_serves_a_model_of_the_common_shape_and_rows_say_so(
    make_run: MakeRun, warm: Any
) -> None:
    run = make_run(parameters={"blocks": ["2,4"]})
    for shard in run.shards():
        execute_shard(run, shard.shard_id, 1, worker="test", warm=warm)
    rows = run.parts.read().to_pylist()
    assert {(row["lane"], row["attention"], row["residual_dtype"], row["placement"]) for row in rows} == {
        ("fused", "sdpa", "float32", "cpu")
    }


def test_streamed_layers_are_in_the_rows_and_change_nothing_else(
    make_run: MakeRun, warm: Any, own_settings: Path
) -> None:
    streaming = WarmModel(threads=1, cache_dir=own_settings / "other", cache_bytes=10**9, stream=True)
    tables = []
    for name, holder in (("resident", warm), ("streamed", streaming)):
        run = make_run(name, parameters={"blocks": ["2,4", "1,5"]})
        for shard in run.shards():
            execute_shard(run, shard.shard_id, 1, worker="test", warm=holder)
        rows = run.parts.read()
        tables.append(rows.drop_columns([*CIRCUMSTANCES, "run_id"]))
        (placement,) = set(rows["placement"].to_pylist())
        assert placement == ("cpu" if name == "resident" else "cpu, layers streamed")
    assert tables[0].equals(tables[1])


def test_both_lanes_agree_on_every_score(make_run: MakeRun, warm: Any) -> None:
    found = {}
    for lane in ("general", "fused"):
        run = make_run(lane, engine={"lane": lane}, parameters={"max_block": 2})
        for shard in run.shards():
            execute_shard(run, shard.shard_id, 1, worker="test", warm=warm)
        rows = run.parts.read().to_pylist()
        assert {row["lane"] for row in rows} == {lane}
        found[lane] = {(row["task_id"], row["sample_id"]): row["answer_probabilities"] for row in rows}
    assert found["general"].keys() == found["fused"].keys()
    for key, probabilities in found["general"].items():
        assert found["fused"][key] == pytest.approx(probabilities, abs=1e-5)


def test_a_model_of_another_shape_runs_in_the_general_lane(
    make_run: MakeRun, warm: Any, tmp_path: Path
) -> None:
    run = make_run(model=str(make_tiny("mixtral", tmp_path / "m")), parameters={"blocks": ["2,4"]})
    execute_shard(run, run.shards()[0].shard_id, 1, worker="test", warm=warm)
    assert {row["lane"] for row in run.parts.read().to_pylist()} == {"general"}


@pytest.mark.parametrize("engine", [{"lane": "fused"}, {"residual": "float32"}])
def test_what_only_the_fused_lane_does_is_refused_where_it_does_not_serve(
    engine: dict[str, str], make_run: MakeRun, warm: Any, tmp_path: Path
) -> None:
    run = make_run(model=str(make_tiny("mixtral", tmp_path / "m")), engine=engine)
    with pytest.raises(ModelError, match="the fused lane does not serve this model"):
        warm.ready_for(run)


def test_a_float32_residual_under_bfloat16_is_in_the_rows(make_run: MakeRun, warm: Any) -> None:
    run = make_run(engine={"dtype": "bfloat16", "residual": "float32"}, parameters={"blocks": ["2,4"]})
    execute_shard(run, run.shards()[0].shard_id, 1, worker="test", warm=warm)
    rows = run.parts.read().to_pylist()
    assert {(row["dtype"], row["residual_dtype"]) for row in rows} == {("bfloat16", "float32")}


def test_a_lane_that_fails_its_proof_is_not_used(
    make_run: MakeRun, warm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FusedLane, "prove", lambda self, prompts, **rest: "layer 3 differs")
    executor, _ = warm.ready_for(make_run())
    assert executor.lane.name == "general"
