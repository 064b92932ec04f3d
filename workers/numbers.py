"""The numbers that workers and coordinators show to Prometheus: what there are, and how they come of what was seen.

What nobody knows is left out, and never 0. A run that is over leaves no label behind, because nothing is kept here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from workers.farm_watch import FarmSeen


class Number(NamedTuple):
    """One line of the reference: a metric, who shows it, and what it means."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    shown_by: Literal["worker", "both"]
    meaning: str


NUMBERS = (
    Number("neuroscan_info", "gauge", ("name", "host", "version"), "both", "1; who shows these numbers"),
    Number("neuroscan_shards_finished_total", "counter", (), "worker", "shards that this worker finished"),
    Number(
        "neuroscan_shards_failed_total",
        "counter",
        (),
        "worker",
        "shards that this worker gave up with an error or a refusal",
    ),
    Number(
        "neuroscan_shards_left_total",
        "counter",
        (),
        "worker",
        "shards that it handed back unfinished: it was asked to leave, the run was cancelled or paused, "
        "or another worker had them",
    ),
    Number("neuroscan_tasks_finished_total", "counter", (), "worker", "tasks whose rows this worker wrote"),
    Number(
        "neuroscan_layer_evaluations_total",
        "counter",
        (),
        "worker",
        "layer evaluations of those tasks, each path counted from the baseline's boundary on",
    ),
    Number(
        "neuroscan_busy_seconds_total",
        "counter",
        (),
        "worker",
        "seconds that it measured, without loading models; grows when a part is written",
    ),
    Number("neuroscan_child_deaths_total", "counter", (), "worker", "deaths of the process that measures"),
    Number(
        "neuroscan_child_resident_memory_bytes",
        "gauge",
        (),
        "worker",
        "memory of the process that measures; absent while there is none",
    ),
    Number("neuroscan_worker_model", "gauge", ("model",), "worker", "1 for the model that this worker holds"),
    Number("neuroscan_worker_busy", "gauge", (), "worker", "1 while a shard is in its hands"),
    Number(
        "neuroscan_heartbeat_age_seconds",
        "gauge",
        (),
        "worker",
        "since this worker last told the broker that it lives; absent before the first time",
    ),
    Number("neuroscan_broker_up", "gauge", (), "both", "whether the broker answered at the last look"),
    Number("neuroscan_workers", "gauge", (), "both", "workers alive; absent while the broker is away"),
    Number(
        "neuroscan_orders_queued",
        "gauge",
        (),
        "both",
        "orders that wait in the queue; absent while the broker is away",
    ),
    Number("neuroscan_runs", "gauge", (), "both", "runs in the farm's care"),
    Number(
        "neuroscan_shards_missing",
        "gauge",
        (),
        "both",
        "planned shards that are not finished, of all runs that are wanted running; those in workers' hands are "
        "among them",
    ),
    Number(
        "neuroscan_shards_running",
        "gauge",
        (),
        "both",
        "shards in workers' hands, of all runs; absent while the broker is away",
    ),
    Number("neuroscan_run_state", "gauge", ("run", "state"), "both", "1 for the state that a run is in"),
    Number("neuroscan_run_tasks", "gauge", ("run",), "both", "tasks of a run's plan"),
    Number("neuroscan_run_tasks_finished", "gauge", ("run",), "both", "tasks whose rows are there"),
    Number(
        "neuroscan_run_tasks_failed", "gauge", ("run",), "both", "those of them with rows that are not ok"
    ),
    Number("neuroscan_run_shards_missing", "gauge", ("run",), "both", "planned shards that are not finished"),
    Number("neuroscan_run_worker_deaths", "gauge", ("run",), "both", "workers that died on a run so far"),
)

Sample = tuple[Mapping[str, str], float]


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """What a worker's main process knows of itself."""

    counts: Mapping[str, float]  # of its `Tally`
    child_deaths: int
    model: str | None
    busy: bool
    said_at: float | None  # when it last told the broker that it lives, by this process's monotonic clock
    child_memory_mb: int | None  # resident, of the process that measures


def numbers_of_worker(seen: WorkerSeen) -> dict[str, list[Sample]]:
    """The samples of a worker."""
    memory = seen.child_memory_mb
    return {
        "neuroscan_shards_finished_total": [({}, seen.counts["shards_finished"])],
        "neuroscan_shards_failed_total": [({}, seen.counts["shards_failed"])],
        "neuroscan_shards_left_total": [({}, seen.counts["shards_left"])],
        "neuroscan_tasks_finished_total": [({}, seen.counts["tasks"])],
        "neuroscan_layer_evaluations_total": [({}, seen.counts["evaluations"])],
        "neuroscan_busy_seconds_total": [({}, seen.counts["busy_seconds"])],
        "neuroscan_child_deaths_total": [({}, seen.child_deaths)],
        "neuroscan_child_resident_memory_bytes": _known(None if memory is None else memory * 10**6),
        "neuroscan_worker_model": [({"model": seen.model}, 1)] if seen.model else [],
        "neuroscan_worker_busy": [({}, int(seen.busy))],
        "neuroscan_heartbeat_age_seconds": _known(
            None if seen.said_at is None else time.monotonic() - seen.said_at
        ),
    }


def numbers_of_farm(seen: FarmSeen) -> dict[str, list[Sample]]:
    """The samples of a farm and its runs."""
    runs = seen.runs
    return {
        "neuroscan_broker_up": [({}, int(seen.reachable))],
        "neuroscan_workers": _known(seen.workers),
        "neuroscan_orders_queued": _known(seen.queued),
        "neuroscan_runs": [({}, seen.registered)],
        "neuroscan_shards_missing": [
            ({}, sum(run.shards_missing for run in runs if run.wanted == "running"))
        ],
        "neuroscan_shards_running": _known(seen.running),
        "neuroscan_run_state": [({"run": run.run_id, "state": run.state}, 1) for run in runs],
        "neuroscan_run_tasks": [({"run": run.run_id}, run.tasks) for run in runs],
        "neuroscan_run_tasks_finished": [({"run": run.run_id}, run.tasks_finished) for run in runs],
        "neuroscan_run_tasks_failed": [({"run": run.run_id}, run.tasks_failed) for run in runs],
        "neuroscan_run_shards_missing": [({"run": run.run_id}, run.shards_missing) for run in runs],
        "neuroscan_run_worker_deaths": [({"run": run.run_id}, run.deaths) for run in runs],
    }


def _known(value: float | None) -> list[Sample]:
    return [] if value is None else [({}, value)]
