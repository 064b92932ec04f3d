"""`extend`, `cancel`, `pause`, `resume`, `retry` and `compact`: what a person may want of a run that is there already."""

from __future__ import annotations

from typing import Annotated

import typer

from neuroscan_farm.cli.progress import note
from neuroscan_farm.cli.run_commands import (
    BrokerOption,
    JsonOption,
    LimitOption,
    PriorityOption,
    RunArgument,
    SplitOption,
    StreamOption,
    TopOption,
    WorkersOption,
    carry_out,
    device_sets_of,
    farm_at,
    hand_over,
)
from neuroscan_farm.coordinator.extend import plan_addition
from neuroscan_farm.coordinator.overview import find_run, look_at
from neuroscan_farm.coordinator.prepare import forget_failures, prepare, wake
from neuroscan_farm.coordinator.run_lock import is_driven
from neuroscan_farm.errors import BrokerError, RunError
from neuroscan_farm.settings import load_settings
from neuroscan_farm.store.additions import place_of_addition, with_additions
from neuroscan_farm.store.run_directory import RunDirectory


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (extend, cancel, pause, resume, retry, compact):
        app.command(command.__name__)(command)


def extend(
    run: RunArgument,
    probes: Annotated[
        list[str], typer.Option("--probe", "-p", help="A built-in probe or a JSON/YAML file; repeatable.")
    ],
    workers: WorkersOption = None,
    gpu_split: SplitOption = None,
    memory_limit: LimitOption = None,
    stream: StreamOption = False,
    top_k: TopOption = 10,
    as_json: JsonOption = False,
    priority: PriorityOption = None,
    broker: BrokerOption = None,
) -> None:
    """Add probes to a run: its configurations are measured on them, and nothing twice; the run's report then has them all.

    They are measured where the run was: here, or on the farm. The same command again goes on.
    """
    settings = load_settings()
    directory = find_run(run, settings.runs_dir)
    made = plan_addition(directory, probes)
    executor = directory.executor()
    farm = farm_at(broker, settings) if executor == "celery" else None
    addition = prepare(made, place_of_addition(directory, made.run_id), executor=executor)
    note(f"{len(addition.planned().task_ids)} tasks on {', '.join(addition.manifest.probes)} are added")
    if farm is not None:
        hand_over(addition, farm, priority=priority)
    else:
        sets = device_sets_of(workers, gpu_split, memory_limit, stream=stream)
        carry_out(addition, settings, sets, top_k=top_k, as_json=as_json)


def cancel(run: RunArgument, broker: BrokerOption = None) -> None:
    """Cancel a run, and what is being added to it: workers stop between two tasks; what is finished stays.

    `resume` goes on. A run whose directory is not to be found here is taken out of the farm's care by its whole id.
    """
    try:
        unfinished = _unfinished(run)
    except RunError:
        if not _taken_out(run, broker):
            raise
        note(f"run {run} is not to be found here; it is in the farm's care no more")
        return
    for directory in unfinished:
        directory.set_wanted("cancelled")
        overview = look_at(directory)
        note(f"cancelled with {overview.tasks_finished} of {overview.tasks} tasks finished")


def pause(run: RunArgument) -> None:
    """Pause a run, and what is being added to it: shards in hand are finished, no other is begun; `resume` goes on."""
    for directory in _unfinished(run):
        directory.set_wanted("paused")
        note(f"paused; go on with: neuroscan-farm resume {directory.location}")


def resume(
    run: RunArgument,
    workers: WorkersOption = None,
    gpu_split: SplitOption = None,
    memory_limit: LimitOption = None,
    stream: StreamOption = False,
    top_k: TopOption = 10,
    as_json: JsonOption = False,
    priority: PriorityOption = None,
    broker: BrokerOption = None,
) -> None:
    """Go on with a run that was stopped, paused or cancelled, in the way it was started: here, or on the farm.

    A run that is finished itself goes on with the probes that were added to it.
    """
    settings = load_settings()
    first = find_run(run, settings.runs_dir)
    unfinished = [one for one in with_additions(first) if look_at(one).state != "finished"]
    failed = False
    for directory in unfinished or [first]:
        directory.check_versions()
        if directory.executor() == "celery":
            hand_over(directory, farm_at(broker, settings), priority=priority)
        elif is_driven(directory.location):
            wake(directory, priority=priority)
            note("the process that works on this run goes on")
        else:
            sets = device_sets_of(workers, gpu_split, memory_limit, stream=stream)
            try:
                carry_out(directory, settings, sets, top_k=top_k, as_json=as_json)
            except typer.Exit:  # some of its tasks failed; what was added waits all the same
                failed = True
    if failed:
        raise typer.Exit(3)


def retry(
    run: RunArgument,
    failed: Annotated[
        bool, typer.Option("--failed", help="Measure the tasks that failed or were quarantined again.")
    ] = False,
    workers: WorkersOption = None,
    gpu_split: SplitOption = None,
    memory_limit: LimitOption = None,
    stream: StreamOption = False,
    top_k: TopOption = 10,
    as_json: JsonOption = False,
    broker: BrokerOption = None,
) -> None:
    """Try the failed tasks of a run, and of what was added to it, again, after their cause was mended.

    Every other row stays as it is.
    """
    if not failed:
        raise typer.BadParameter(
            "say what to try again; accepted is --failed, the tasks whose rows are not ok"
        )
    first = find_run(run, load_settings().runs_dir)
    first.check_versions()
    many = sum(forget_failures(one) for one in with_additions(first))
    if not many:
        note("no task of this run has failed; nothing to try again")
        return
    note(f"{many} tasks are tried again")
    resume(run, workers, gpu_split, memory_limit, stream, top_k, as_json, None, broker)


def compact(run: RunArgument) -> None:
    """Join a run's part files into one; every row stays readable meanwhile. Runs do it by themselves at their end."""
    joined = sum(one.parts.compact() for one in with_additions(find_run(run, load_settings().runs_dir)))
    note(f"{joined} part files joined" if joined else "nothing to join")


def _taken_out(run_id: str, broker: str | None) -> bool:
    """Take a run out of the farm's care; False where the farm does not know it, or cannot be asked."""
    from neuroscan_farm.dispatch.farm_records import Ended

    try:
        farm = farm_at(broker, load_settings())
        if farm.entry(run_id) is None:
            return False
        farm.unregister(run_id, Ended("cancelled", None, 1))
        farm.close()
    except BrokerError:
        return False
    return True


def _unfinished(run: str) -> list[RunDirectory]:
    """The run and what was added to it, without what is finished."""
    first = find_run(run, load_settings().runs_dir)
    found = [one for one in with_additions(first) if look_at(one).state != "finished"]
    if not found:
        note("the run is finished already")
    return found
