"""How a run stands, from its directory alone: for `status`, `watch` and `ls`. Nothing is changed by looking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from neuroscan_farm.coordinator.decide import cannot_load
from neuroscan_farm.coordinator.run_lock import is_driven
from neuroscan_farm.errors import NeuroscanError, RunError
from neuroscan_farm.planning.rate import measured_rate
from neuroscan_farm.store.additions import additions_of, first_of
from neuroscan_farm.store.attempts import deaths_while_loading, refusal_of
from neuroscan_farm.store.control import Control
from neuroscan_farm.store.part_file import ShardTiming
from neuroscan_farm.store.places import inside, is_url, open_place
from neuroscan_farm.store.run_directory import RunDirectory


@dataclass(frozen=True, slots=True)
class Overview:
    """How a run stands."""

    run_id: str
    directory: str  # or its URL
    state: str  # "finished", "running", "queued", "paused", "stopped", "cancelled" or "refused"
    model: str
    probes: list[str]
    created: str
    tasks: int
    tasks_finished: int
    tasks_failed: int  # finished, but with rows whose outcome is not ok
    shards: int
    shards_finished: int
    plan_complete: bool
    deaths: int  # of workers, so far
    refusal: str | None
    outcomes: dict[str, int]  # rows by outcome
    tasks_per_minute: float | None
    eta_seconds: float | None
    priority: int  # 0 to 9; 9 goes first
    executor: str  # "local" or "celery"
    evaluations: int  # layer evaluations of all tasks, each from the baseline's boundary
    evaluations_left: int
    evaluations_per_second: float | None  # of all workers together, as of late
    side_by_side: float | None  # how many shards were measured at a time, as of late
    loose_parts: int  # that are not joined with others
    timings: tuple[ShardTiming, ...]  # of all parts, in the order of their start

    def to_json_dict(self, *, timings: bool = False) -> dict[str, object]:
        """Return the overview as plain data, with the timing of every shard where asked for."""
        data: dict[str, object] = {"schema_version": 1, **asdict(self)}
        if not timings:
            del data["timings"]
        return data


def look_at(run: RunDirectory) -> Overview:
    """Return how a run stands now.

    Raises:
        RunError: the plan is missing or damaged.
        StorageError: the disk or the store failed.
    """
    plan, progress = run.planned(), run.parts.look()
    done = progress.done
    left = [number for number, task in enumerate(plan.task_ids) if task not in done]
    unfinished = {plan.shard_ids[number] for number in left}
    evaluations = sum(plan.evaluations)
    evaluations_left = sum(plan.evaluations[number] for number in left)
    attempts = run.attempts.all()
    # Deaths before the last commit say nothing of loading: it worked after them.
    deaths = deaths_while_loading(attempts, since=progress.last_commit)
    refusal = refusal_of(attempts) or cannot_load(deaths)
    plan_complete, control = run.plan_complete(), run.control()
    state = _state(run, control, finished=not left and plan_complete, refusal=refusal)
    rate = measured_rate(progress.timings)
    eta = None
    if rate is not None and state != "finished":
        eta = rate.seconds_for(evaluations=evaluations_left, tasks=len(left))
    shards = len(set(plan.shard_ids))
    planned = frozenset(plan.task_ids)
    return Overview(
        run_id=run.manifest.run_id,
        directory=run.location,
        state=state,
        model=run.manifest.model_name,
        probes=list(run.manifest.probes),
        created=run.manifest.created,
        tasks=len(plan.task_ids),
        tasks_finished=len(plan.task_ids) - len(left),
        tasks_failed=sum(task in planned for task in progress.failed),
        shards=shards,
        shards_finished=shards - len(unfinished),
        plan_complete=plan_complete,
        deaths=sum(attempt.kind == "died" for attempt in attempts),
        refusal=refusal,
        outcomes=dict(progress.outcomes),
        tasks_per_minute=None if rate is None else rate.tasks_per_second * 60,
        eta_seconds=eta,
        priority=control.priority,
        executor=control.executor,
        evaluations=evaluations,
        evaluations_left=evaluations_left,
        evaluations_per_second=None if rate is None else rate.evaluations_per_second,
        side_by_side=None if rate is None else rate.side_by_side,
        loose_parts=progress.loose,
        timings=progress.timings,
    )


def _state(run: RunDirectory, control: Control, *, finished: bool, refusal: str | None) -> str:
    if finished:
        return "finished"
    if control.wanted == "cancelled":
        return "cancelled"
    if refusal is not None:
        return "refused"
    if control.wanted == "paused":
        return "paused"
    if is_driven(run.location):
        return "running"
    return "queued" if control.executor == "celery" else "stopped"


def find_run(name: str, runs_dir: str | Path) -> RunDirectory:
    """Open a run by its directory or URL, its id, or the beginning of its id; what was added to a run comes after it.

    Raises:
        RunError: there is none, or several begin so.
        StorageError: the disk or the store failed.
    """
    if is_url(name):
        return RunDirectory.open(name)
    for location in (name, inside(runs_dir, name)):
        if RunDirectory.exists(location):
            return RunDirectory.open(location)
    found = [run for run in runs_in(runs_dir) if run.manifest.run_id.startswith(name)]
    if len(found) > 1:
        found = [run for run in found if run.manifest.run_id == name or first_of(run) is run] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise RunError(
            f"run {name!r} is not clear: {', '.join(run.location for run in found)}; name one of these"
        )
    raise RunError(
        f"run {name!r}: neither a run directory nor an id in {runs_dir}/; `neuroscan-farm ls` lists the runs"
    )


def runs_in(runs_dir: str | Path) -> Iterator[RunDirectory]:
    """Every run below `runs_dir`, and what was added to each; a directory that is no run, or a damaged one, is left out.

    Raises:
        StorageError: the store cannot be reached.
    """
    for name in open_place(runs_dir).folders():
        try:
            run = RunDirectory.open(inside(runs_dir, name))
            yield run
            yield from additions_of(run)
        except NeuroscanError:
            continue
