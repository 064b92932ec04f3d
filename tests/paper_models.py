"""Models on paper: folders that a plan can be made from, without a network behind them, and rows without a pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from neuroscan_farm.analyses import read_request
from neuroscan_farm.coordinator.prepare import Plan, make_plan
from neuroscan_farm.demo import MODEL_DIR
from neuroscan_farm.domain.measurements import ENGINE_VERSION, SCORING_VERSION, Measurement, Outcome, Score
from neuroscan_farm.domain.tasks import Shard
from neuroscan_farm.store.parts import ShardTiming
from neuroscan_farm.store.run_directory import RunDirectory
from neuroscan_farm.store.schema import Provenance, measurement_table

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 6,
    "hidden_size": 32,
    "max_position_embeddings": 128,
    "dtype": "float32",
}


def paper_model(folder: Path, *, weights: bytes = b"no weights", **config: Any) -> Path:
    """Write a model's folder; a keyword of None takes a line out of its config."""
    folder.mkdir(parents=True)
    said = {name: value for name, value in {**LLAMA, **config}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "model.safetensors").write_bytes(weights)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL_DIR / name, folder)
    return folder


def paper_probe(path: Path, *, name: str = "sums", samples: int = 3, labelled: bool = True) -> Path:
    """Write a probe of one-digit sums."""
    answers = [{"answer": str((k + 1) % 10)} if labelled else {} for k in range(samples)]
    asked = [{"prompt": f"{k}+1=", **answer} for k, answer in enumerate(answers)]
    path.write_text(json.dumps({"name": name, "samples": asked}))
    return path


def paper_plan(model: Path | str, *probes: Path | str, **changes: Any) -> Plan:
    """Plan a duplication of the model on the probes; keywords change the request."""
    data = {
        "analysis": "duplication",
        "model": str(model),
        "probes": [str(probe) for probe in probes],
        "shard_size": 4,
    }
    return make_plan(read_request(data | changes, where="test"))


def paper_table(
    run: RunDirectory,
    shard: Shard,
    *,
    attempt: int = 1,
    outcome: Outcome = Outcome.OK,
    log_odds: float = 0.5,
    worker: str = "w",
) -> pa.Table:
    """Return a part's table in which every row has the same score or, for another outcome, none."""
    score = (
        Score(4.5, 1.25, 0.9, 2.0, "7", (0.1,) * 10, log_odds, -1.0, True) if outcome is Outcome.OK else None
    )
    detail = None if outcome is Outcome.OK else "made up"
    measurements = [
        Measurement(task.task_id, probe.name, sample.sample_id, outcome, detail, score, 0.01)
        for task in shard.tasks
        for probe in run.probes()
        for sample in probe.samples
    ]
    provenance = Provenance(
        run_id=run.manifest.run_id,
        shard_id=shard.shard_id,
        analysis=run.manifest.analysis,
        depth=run.manifest.depth,
        attempt=attempt,
        worker=worker,
        device="cpu",
        backend="transformers",
        dtype="float32",
        residual_dtype="float32",
        attention="sdpa",
        lane="general",
        placement="cpu",
        engine_version=ENGINE_VERSION,
        scoring_version=SCORING_VERSION,
    )
    return measurement_table(measurements, shard.tasks, provenance)


def finish(run: RunDirectory, shards: Sequence[Shard] | None = None, **row: Any) -> None:
    """Commit a part for each of the shards, or for all of the plan."""
    for shard in run.shards() if shards is None else shards:
        table = paper_table(run, shard, **row)
        run.parts.write(shard.shard_id, table, paper_timing(shard, seconds=0.01 * table.num_rows))


def paper_timing(
    shard: Shard, *, started: float = 1000.0, seconds: float = 2.0, worker: str = "w"
) -> ShardTiming:
    """Return how long a worker would have taken for a shard."""
    evaluations = sum(task.path.evaluations() for task in shard.tasks)
    return ShardTiming(shard.shard_id, worker, "cpu", 1, started, seconds, len(shard.tasks), evaluations)
