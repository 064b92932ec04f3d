"""How a run stands, from its directory alone: for `status`, `watch` and `ls`. Nothing is changed by looking."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from neuroscan_farm.coordinator.decide import cannot_load
from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.errors import NeuroscanError, RunError
from neuroscan_farm.store.attempts import deaths_while_loading, refusal_of
from neuroscan_farm.store.run_directory import RunDirectory

_PARTS_FOR_RATE = 20


@dataclass(frozen=True, slots=True)
class Overview:
    """How a run stands."""

    run_id: str
    directory: str
    state: str  # "finished", "running", "queued", "stopped", "cancelled" or "refused"
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

    def to_json_dict(self) -> dict[str, object]:
        """Return the overview as plain data."""
        return {"schema_version": 1, **asdict(self)}


def look_at(run: RunDirectory) -> Overview:
    """Return how a run stands now."""
    shards = run.shards()
    finished = run.parts.finished(run.rows_expected(shards))
    sizes = {shard.shard_id: len(shard.tasks) for shard in shards}
    rows = run.parts.read(["task_id", "outcome"])
    failed = {
        task_id
        for task_id, outcome in zip(rows["task_id"].to_pylist(), rows["outcome"].to_pylist(), strict=True)
        if outcome != Outcome.OK
    }
    attempts = run.attempts.all()
    # Deaths before the last commit say nothing of loading: it worked after them.
    deaths = deaths_while_loading(attempts, since=run.parts.last_commit(finished))
    refusal = refusal_of(attempts) or cannot_load(deaths)
    plan_complete = run.plan_complete()
    tasks_finished = sum(sizes[shard_id] for shard_id in finished)
    tasks = sum(sizes.values())
    rate = _tasks_per_second(run, finished, sizes)
    if len(finished) == len(shards) and plan_complete:
        state = "finished"
    elif run.wanted() == "cancelled":
        state = "cancelled"
    elif refusal is not None:
        state = "refused"
    elif is_driven(run.root):
        state = "running"
    else:
        state = "queued" if run.executor() == "celery" else "stopped"
    return Overview(
        run_id=run.manifest.run_id,
        directory=str(run.root),
        state=state,
        model=run.manifest.model_name,
        probes=list(run.manifest.probes),
        created=run.manifest.created,
        tasks=tasks,
        tasks_finished=tasks_finished,
        tasks_failed=len(failed),
        shards=len(shards),
        shards_finished=len(finished),
        plan_complete=plan_complete,
        deaths=sum(attempt.kind == "died" for attempt in attempts),
        refusal=refusal,
        outcomes=dict(Counter(rows["outcome"].to_pylist())),
        tasks_per_minute=None if rate is None else rate * 60,
        eta_seconds=None if rate is None or state == "finished" else (tasks - tasks_finished) / rate,
    )


def lock_of(root: Path) -> FileLock:
    """The lock that a process holds while it drives the run at `root`; the kernel frees it when that process dies."""
    return FileLock(root / ".lock", timeout=0)


def is_driven(root: Path) -> bool:
    """Whether a process of this machine drives the run now."""
    if not (root / ".lock").exists():
        return False
    try:
        with lock_of(root):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def find_run(name: str, runs_dir: Path) -> RunDirectory:
    """Open a run by its directory, its id, or the beginning of its id.

    Raises:
        RunError: there is none, or several begin so.
    """
    for root in (Path(name), runs_dir / name):
        if RunDirectory.exists(root):
            return RunDirectory.open(root)
    found = [run for run in runs_in(runs_dir) if run.manifest.run_id.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise RunError(f"run {name!r} is not clear: {', '.join(run.manifest.run_id for run in found)}")
    raise RunError(
        f"run {name!r}: neither a run directory nor an id in {runs_dir}/; `neuroscan-farm ls` lists the runs"
    )


def runs_in(runs_dir: Path) -> Iterator[RunDirectory]:
    """Every run below `runs_dir`; a directory that is no run, or a damaged one, is left out."""
    for path in sorted(runs_dir.glob("*/manifest.json")):
        try:
            yield RunDirectory.open(path.parent)
        except NeuroscanError:
            continue


def _tasks_per_second(run: RunDirectory, finished: set[str], sizes: dict[str, int]) -> float | None:
    """The rate of the last parts, by their times of commit; the pause before a resume counts only if it is among them."""
    commits = sorted((run.parts.path(shard_id).stat().st_mtime, sizes[shard_id]) for shard_id in finished)
    recent = commits[-_PARTS_FOR_RATE:]
    if len(recent) < 2 or recent[-1][0] <= recent[0][0]:
        return None
    until = time.time() if len(finished) < len(sizes) else recent[-1][0]
    return sum(size for _, size in recent[1:]) / max(until - recent[0][0], 1e-3)
