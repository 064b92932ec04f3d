"""The Arrow schemas of the tables on disk, versioned in each file's metadata and pinned by a test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import pyarrow as pa

from neuroscan_farm.domain.measurements import Measurement, Score
from neuroscan_farm.domain.paths import Block, LayerPath
from neuroscan_farm.domain.tasks import Shard, Task

MEASUREMENTS_VERSION = "2"
PLAN_VERSION = "1"

_LAYERS = pa.list_(pa.int16())
_SCORES = tuple(field.name for field in fields(Score))  # each is a column of the same name

MEASUREMENTS = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("shard_id", pa.string(), nullable=False),
        pa.field("analysis", pa.string(), nullable=False),
        pa.field("path", _LAYERS, nullable=False),
        pa.field("i", pa.int16()),  # null where the path is no single block
        pa.field("j", pa.int16()),
        pa.field("skipped", _LAYERS, nullable=False),
        pa.field("n_layers_run", pa.int16(), nullable=False),
        pa.field("probe", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("log_odds", pa.float64()),
        pa.field("log_p_correct", pa.float64()),
        pa.field("correct", pa.bool_()),
        pa.field("expected_score", pa.float64()),
        pa.field("uncertainty", pa.float64()),
        pa.field("coverage", pa.float64()),
        pa.field("entropy", pa.float64()),
        pa.field("top_token", pa.string()),
        pa.field("answer_probabilities", pa.list_(pa.float32())),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("attempt", pa.int16(), nullable=False),
        pa.field("worker", pa.string(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
        pa.field("backend", pa.string(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("residual_dtype", pa.string(), nullable=False),
        pa.field("attention", pa.string(), nullable=False),
        pa.field("lane", pa.string(), nullable=False),
        pa.field("placement", pa.string(), nullable=False),
        pa.field("engine_version", pa.string(), nullable=False),
        pa.field("scoring_version", pa.string(), nullable=False),
    ],
    metadata={"neuroscan.table": "measurements", "neuroscan.schema_version": MEASUREMENTS_VERSION},
)

# Columns that say when and where a row was made; all others are the same in every attempt.
CIRCUMSTANCES = ("seconds", "attempt", "worker", "placement")

PLAN = pa.schema(
    [
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("shard_id", pa.string(), nullable=False),
        pa.field("stage", pa.int16(), nullable=False),
        pa.field("path", _LAYERS, nullable=False),
        pa.field("i", pa.int16()),
        pa.field("j", pa.int16()),
        pa.field("n_layers_run", pa.int16(), nullable=False),
        pa.field(
            "evaluations", pa.int32(), nullable=False
        ),  # layer visits left after the baseline's boundary
    ],
    metadata={"neuroscan.table": "plan", "neuroscan.schema_version": PLAN_VERSION},
)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What all rows of one part share: whose they are, and who made them with what."""

    run_id: str
    shard_id: str
    analysis: str
    depth: int
    attempt: int
    worker: str
    device: str
    backend: str
    dtype: str
    residual_dtype: str
    attention: str
    lane: str
    placement: str
    engine_version: str
    scoring_version: str


def measurement_table(
    measurements: Iterable[Measurement], tasks: Sequence[Task], provenance: Provenance
) -> pa.Table:
    """Return the part's table: one row per measurement, in their order."""
    by_id = {task.task_id: task for task in tasks}
    rows = []
    for measurement in measurements:
        task = by_id[measurement.task_id]
        score = measurement.score
        rows.append(
            {
                "run_id": provenance.run_id,
                "task_id": task.task_id,
                "shard_id": provenance.shard_id,
                "analysis": provenance.analysis,
                "path": task.path.layers,
                "i": task.block.i if task.block else None,
                "j": task.block.j if task.block else None,
                "skipped": task.path.skipped(provenance.depth),
                "n_layers_run": len(task.path),
                "probe": measurement.probe,
                "sample_id": measurement.sample_id,
                "outcome": measurement.outcome.value,
                "detail": measurement.detail,
                **{name: getattr(score, name, None) for name in _SCORES},  # null without a score
                "seconds": measurement.seconds,
                "attempt": provenance.attempt,
                "worker": provenance.worker,
                "device": provenance.device,
                "backend": provenance.backend,
                "dtype": provenance.dtype,
                "residual_dtype": provenance.residual_dtype,
                "attention": provenance.attention,
                "lane": provenance.lane,
                "placement": provenance.placement,
                "engine_version": provenance.engine_version,
                "scoring_version": provenance.scoring_version,
            }
        )
    metadata = {
        **MEASUREMENTS.metadata,
        b"neuroscan.run_id": provenance.run_id.encode(),
        b"neuroscan.shard_id": provenance.shard_id.encode(),
    }
    return pa.Table.from_pylist(rows, schema=MEASUREMENTS).replace_schema_metadata(metadata)


def plan_table(shards: Iterable[Shard], *, complete: bool) -> pa.Table:
    """Return the plan's table: one row for each task, in the order of the shards; `complete` if no stage follows."""
    rows = [
        {
            "task_id": task.task_id,
            "shard_id": shard.shard_id,
            "stage": task.stage,
            "path": task.path.layers,
            "i": task.block.i if task.block else None,
            "j": task.block.j if task.block else None,
            "n_layers_run": len(task.path),
            "evaluations": task.path.evaluations(),
        }
        for shard in shards
        for task in shard.tasks
    ]
    metadata = {**PLAN.metadata, b"neuroscan.complete": b"yes" if complete else b"no"}
    return pa.Table.from_pylist(rows, schema=PLAN).replace_schema_metadata(metadata)


def shards_of(table: pa.Table) -> list[Shard]:
    """Read the shards back from a plan's table, in their order."""
    tasks: dict[str, list[Task]] = {}
    for row in table.to_pylist():
        block = Block(row["i"], row["j"]) if row["i"] is not None else None
        task = Task(row["task_id"], LayerPath(tuple(row["path"])), block, row["stage"])
        tasks.setdefault(row["shard_id"], []).append(task)
    return [Shard(shard_id, tuple(members)) for shard_id, members in tasks.items()]
