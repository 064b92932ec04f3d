"""The Arrow schemas of the tables on disk, versioned in each file's metadata and pinned by a test."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from neuroscan_farm.domain.measurements import Measurement, Score
from neuroscan_farm.domain.paths import Block, LayerPath
from neuroscan_farm.domain.tasks import Shard, Task

MEASUREMENTS_VERSION = "2"
PLAN_VERSION = "2"

_LAYERS = pa.list_(pa.int16())
_PATHS_TOGETHER = 4096
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
        # layer visits left after the baseline's boundary
        pa.field("evaluations", pa.int32(), nullable=False),
        # the shard of the first cut, which rows keep; `shard_id` is of the present one
        pa.field("planned_shard", pa.string(), nullable=False),
    ],
    metadata={"neuroscan.table": "plan", "neuroscan.schema_version": PLAN_VERSION},
)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What all rows of one part share: whose they are, and who made them with what."""

    run_id: str
    shard_id: str  # for tasks that were never planned
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
    """Return the part's table: one row per measurement, in their order; its metadata names the tasks in theirs."""
    rows = list(measurements)
    by_id = {task.task_id: task for task in tasks}
    theirs = [by_id[row.task_id] for row in rows]
    measured = {row.task_id for row in rows}
    layers = {task_id: by_id[task_id].path.steps for task_id in measured}
    paths = [layers[row.task_id] for row in rows]
    skipped = {task_id: by_id[task_id].path.skipped(provenance.depth) for task_id in measured}
    scores = [row.score for row in rows]
    columns: dict[str, Sequence[object]] = {
        "task_id": [row.task_id for row in rows],
        "shard_id": [task.planned_shard or provenance.shard_id for task in theirs],
        "path": paths,
        "i": [task.block.i if task.block else None for task in theirs],
        "j": [task.block.j if task.block else None for task in theirs],
        "skipped": [skipped[row.task_id] for row in rows],
        "n_layers_run": [len(path) for path in paths],
        "probe": [row.probe for row in rows],
        "sample_id": [row.sample_id for row in rows],
        "outcome": [row.outcome.value for row in rows],
        "detail": [row.detail for row in rows],
        **{
            name: [getattr(score, name, None) for score in scores] for name in _SCORES
        },  # null without a score
        "seconds": [row.seconds for row in rows],
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.repeat(pa.scalar(getattr(provenance, field.name), field.type), len(rows))
        for field in MEASUREMENTS
    ]
    said = json.dumps([task.task_id for task in tasks if task.task_id in measured])
    return pa.Table.from_arrays(
        arrays, schema=MEASUREMENTS.with_metadata({**MEASUREMENTS.metadata, b"neuroscan.tasks": said})
    )


def plan_table(shards: Iterable[Shard], *, complete: bool) -> pa.Table:
    """Return the plan's table: one row for each task, in the order of the shards; `complete` if no stage follows."""
    rows = [(shard.shard_id, task) for shard in shards for task in shard.tasks]
    tasks = [task for _, task in rows]
    columns: dict[str, Sequence[object]] = {
        "task_id": [task.task_id for task in tasks],
        "shard_id": [shard_id for shard_id, _ in rows],
        "stage": [task.stage for task in tasks],
        "i": [task.block.i if task.block else None for task in tasks],
        "j": [task.block.j if task.block else None for task in tasks],
        "n_layers_run": [len(task.path) for task in tasks],
        "evaluations": [task.path.evaluations() for task in tasks],
        "planned_shard": [task.planned_shard or shard_id for shard_id, task in rows],
    }
    arrays = [
        _path_column(tasks) if field.name == "path" else pa.array(columns[field.name], field.type)
        for field in PLAN
    ]
    metadata = {**PLAN.metadata, b"neuroscan.complete": b"yes" if complete else b"no"}
    return pa.Table.from_arrays(arrays, schema=PLAN.with_metadata(metadata))


def _path_column(tasks: Sequence[Task]) -> pa.ChunkedArray:
    """Write paths out from their runs, some thousands at a time: see `_paths_of`, which reads them."""
    pieces = [tasks[first : first + _PATHS_TOGETHER] for first in range(0, len(tasks), _PATHS_TOGETHER)]
    return pa.chunked_array([_paths_written_out(piece) for piece in pieces], _LAYERS)


def _paths_written_out(tasks: Sequence[Task]) -> pa.Array:
    runs = np.array([run for task in tasks for run in task.path.runs()])
    sizes = runs[:, 1] - runs[:, 0]
    ends = np.cumsum(sizes)
    steps = np.arange(ends[-1]) + np.repeat(runs[:, 0] - (ends - sizes), sizes)
    offsets = np.cumsum([0, *(len(task.path) for task in tasks)])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(steps.astype(np.int16)), type=_LAYERS
    )


def shards_of(table: pa.Table) -> list[Shard]:
    """Read the shards back from a plan's table, in their order."""
    tasks: dict[str, list[Task]] = {}
    columns = (
        table[name].to_pylist() for name in ("shard_id", "task_id", "i", "j", "stage", "planned_shard")
    )
    for path, (shard_id, task_id, i, j, stage, planned) in zip(
        _paths_of(table["path"]), zip(*columns, strict=True), strict=True
    ):
        block = Block(i, j) if i is not None else None
        tasks.setdefault(shard_id, []).append(Task(task_id, path, block, stage, planned_shard=planned))
    return [Shard(shard_id, tuple(members)) for shard_id, members in tasks.items()]


def _paths_of(column: pa.ChunkedArray) -> Iterator[LayerPath]:
    """Read paths by their runs: few, where the steps of a hundred thousand paths are tens of millions."""
    for chunk in column.chunks:
        steps = chunk.flatten().to_numpy()
        ends = np.cumsum(chunk.value_lengths().to_numpy(zero_copy_only=False))
        breaks = np.union1d(np.flatnonzero(np.diff(steps) != 1) + 1, ends)
        firsts = np.concatenate([[0], breaks[:-1]]).astype(np.int64)
        layers = steps[firsts].tolist() if len(steps) else []
        runs = [
            (layer, layer + size) for layer, size in zip(layers, (breaks - firsts).tolist(), strict=False)
        ]
        of_path = np.searchsorted(breaks, ends, side="right").tolist()
        for start, end in itertools.pairwise([0, *of_path]):
            yield LayerPath.of_runs(runs[start:end])
