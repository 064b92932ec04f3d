"""`run`, `submit` and `plan`: from a request to a run and its report."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer
from filelock import Timeout

from neuroscan_farm.analyses import get_analysis
from neuroscan_farm.cli.memory import megabytes_of, memory_of, shared_out
from neuroscan_farm.cli.options import takes_request
from neuroscan_farm.cli.progress import RunProgress, note
from neuroscan_farm.coordinator.overview import look_at, runs_in
from neuroscan_farm.coordinator.prepare import Plan, make_plan, prepare, wake
from neuroscan_farm.coordinator.run_lock import lock_of
from neuroscan_farm.dispatch.devices import DeviceSet, available_cores, device_sets
from neuroscan_farm.domain.requests import AnalysisRequest
from neuroscan_farm.errors import CancelledRun, NeuroscanError, RunError
from neuroscan_farm.settings import Settings, load_settings
from neuroscan_farm.store.additions import first_of
from neuroscan_farm.store.places import absolute, inside
from neuroscan_farm.store.run_directory import RunDirectory

if TYPE_CHECKING:
    from neuroscan_farm.dispatch.broker import Broker
    from neuroscan_farm.dispatch.places_here import PlacesHere

_GRACE_SECONDS = 15.0  # what workers of this machine have to commit what they have finished

OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", help="The run's directory, or its URL (s3://...); default is RUNS_DIR/<run id>."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(help="Worker processes of this machine; default is one, or one per group of --gpu-split."),
]
SplitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gpu-split",
        help="Megabytes per device: 22000,22000 splits one worker's model over two, 22000;22000 is two workers.",
    ),
]
LimitOption = Annotated[
    str | None,
    typer.Option(
        "--memory-limit",
        help="Most memory of each worker's process: 700 (megabytes), 1.5GB. Default is what is free. "
        "A model that does not fit is streamed.",
    ),
]
StreamOption = Annotated[
    bool,
    typer.Option(
        "--stream", help="Stream the layers from disk, at most two in memory, even of a model that fits."
    ),
]
PriorityOption = Annotated[
    int | None,
    typer.Option(min=0, max=9, help="Runs of a higher priority go first on a farm, 0 to 9; default is 5."),
]
BrokerOption = Annotated[str | None, typer.Option(help="Broker URL; default is NEUROSCAN_BROKER_URL.")]
TopOption = Annotated[int, typer.Option("--top-k", min=1, help="How many configurations to list and star.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, the beginning of it, or its directory.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("run")(takes_request(run))
    app.command("submit")(takes_request(submit))
    app.command("plan")(takes_request(plan))


def run(
    request: AnalysisRequest,
    *,
    output: OutputOption = None,
    workers: WorkersOption = None,
    gpu_split: SplitOption = None,
    memory_limit: LimitOption = None,
    stream: StreamOption = False,
    top_k: TopOption = 10,
    as_json: JsonOption = False,
) -> None:
    """Carry out a request on this machine, with no broker; the same command again resumes."""
    settings = load_settings()
    sets = device_sets_of(workers, gpu_split, memory_limit, stream=stream)
    made = make_plan(request)
    directory = prepare(made, _root(made, output, settings), executor="local")
    carry_out(directory, settings, sets, top_k=top_k, as_json=as_json)


def submit(
    request: AnalysisRequest,
    *,
    output: OutputOption = None,
    priority: PriorityOption = None,
    broker: BrokerOption = None,
) -> None:
    """Send a request to the farm's workers through the broker; prints the run id and nothing else on stdout."""
    settings = load_settings()
    made = make_plan(request)
    farm = farm_at(broker, settings)  # before anything is written: a broker out of reach leaves no trace
    root = _root(made, output, settings)
    _confine(root, settings)
    directory = prepare(made, root, executor="celery")
    hand_over(directory, farm, priority=priority)


def plan(
    request: AnalysisRequest,
    *,
    output: OutputOption = None,
    workers: WorkersOption = None,
    gpu_split: SplitOption = None,
    memory_limit: LimitOption = None,
    stream: StreamOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a request comes to, without running it: tasks, shards, layer evaluations, memory and time."""
    from neuroscan_farm.planning.estimate import estimate

    settings = load_settings()
    sets = device_sets_of(workers, gpu_split, memory_limit, stream=stream)
    made = make_plan(request, fetch_weights=False)
    root = _root(made, output, settings)
    here = [RunDirectory.open(root)] if RunDirectory.exists(root) else []
    cost = estimate(request, made.facts, made.probes, made.shards, timed=[*here, *runs_in(settings.runs_dir)])
    memory = memory_of(made.facts, request.engine, sets)
    if as_json:
        head = {"schema_version": 1, "run_id": made.run_id, "directory": str(root)}
        print(json.dumps({**head, **cost.to_json_dict(), **memory.to_json_dict()}))
        return
    tokens = f"{cost.tokens:,}{'' if cost.tokens_exact else ' (estimated from the text)'}"
    saved = cost.evaluations_naive / max(cost.evaluations_shared, 1)
    if cost.seconds is None:
        seconds = "unknown until one shard of this model and device was timed"
    else:
        seconds = f"about {duration(cost.seconds)} of one worker like the one that was timed"
    print(f"run                {made.run_id}")
    print(f"directory          {root}")
    print(f"model              {made.facts.name} ({made.facts.model_type}, {made.facts.depth} layers)")
    print(
        f"probes             {', '.join(probe.name for probe in made.probes)}: {cost.samples} samples, {tokens} tokens"
    )
    more = (
        ""
        if made.complete
        else f", and {get_analysis(request.analysis).further(request.parameters)} when they are finished"
    )
    print(f"tasks              {cost.tasks:,} in {cost.shards:,} shards{more}")
    print(
        f"layer evaluations  {cost.evaluations_naive:,} naive, {cost.evaluations_shared:,} shared ({saved:.2f}x fewer)"
    )
    print(f"boundary cache     {cost.boundary_bytes / 1e6:,.1f} MB")
    print(f"memory             {memory.why}")
    print(f"time               {seconds}")


def farm_at(broker_url: str | None, settings: Settings) -> Broker:
    """Return the farm's broker, which answers.

    Raises:
        BrokerError: it is out of reach.
    """
    from neuroscan_farm.dispatch.broker import Broker

    farm = Broker(broker_url or settings.broker_url, queue=settings.queue)
    farm.ping()
    return farm


def hand_over(directory: RunDirectory, farm: Broker, *, priority: int | None = None) -> None:
    """Put a run into the care of a farm, and say its id on stdout."""
    from neuroscan_farm.dispatch.celery_queue import location_on
    from neuroscan_farm.dispatch.celery_queue import submit as register

    directory.plan_complete()  # a damaged plan is said here, and not by a worker's log
    places = _places(load_settings())
    location = location_on(farm, directory, here=places.run_location)
    wake(directory, executor="celery", priority=priority)
    register(directory, farm, location=location)
    if not farm.workers():
        note("no worker is on this broker yet; start one with: neuroscan-farm worker")
    note(f"`neuroscan-farm watch {directory.location}` shows the progress")
    print(directory.manifest.run_id)


def _confine(location: str, settings: Settings) -> None:
    _places(settings).confine(absolute(location))


def _places(settings: Settings) -> PlacesHere:
    from neuroscan_farm.dispatch.places_here import read_places

    return read_places(roots=settings.roots, path_map=settings.path_map, runs_dir=str(settings.runs_dir))


def _root(made: Plan, output: str | None, settings: Settings) -> str:
    return output if output is not None else inside(settings.runs_dir, made.run_id)


def carry_out(
    directory: RunDirectory,
    settings: Settings,
    sets: list[DeviceSet],
    *,
    top_k: int,
    as_json: bool,
) -> None:
    """Drive a run on this machine to its end, and write its report.

    Raises:
        NeuroscanError: the run cannot go on, or somebody cancelled it.
    """
    from neuroscan_farm.coordinator.drive import drive
    from neuroscan_farm.dispatch.local import LocalExecutor
    from neuroscan_farm.report.write import write_report

    try:
        lock = lock_of(directory.location).acquire()
    except Timeout:
        raise RunError(
            f"{directory.location}: another process of this machine is working on this run; "
            f"`neuroscan-farm watch {directory.location}` shows it"
        ) from None
    with lock:
        wake(directory, executor="local")
        note(f"run {directory.manifest.run_id} in {directory.location}")
        executor = LocalExecutor(
            shared_out(sets, directory),
            cache_dir=settings.cache_dir,
            cache_bytes=int(settings.cache_gb * 1e9),
            log_level=settings.log_level,
            log_format=settings.log_format,
            places=_places(settings),
        )
        try:
            with RunProgress() as progress:
                end = drive(directory, executor, on_step=progress)
        except BaseException as error:
            if not isinstance(error, NeuroscanError):
                note("stopping: finished tasks are being saved (Ctrl-C again stops at once)")
                executor.close(grace_seconds=_GRACE_SECONDS)
                note(
                    f"stopped; what is finished is kept. Go on with: neuroscan-farm resume {directory.location}"
                )
            raise
        finally:
            executor.close(grace_seconds=_GRACE_SECONDS)
    if end.state == "refused":
        raise RunError(str(end.reason))
    if end.state == "cancelled":
        raise CancelledRun(f"the run was cancelled; go on with: neuroscan-farm resume {directory.location}")
    files = write_report(first_of(directory), top_k=top_k)
    overview = look_at(directory)
    if as_json:
        print(json.dumps(overview.to_json_dict()))
    else:
        print(files.summary)
    note(f"report: {files.page}")
    if overview.tasks_failed:
        note(f"{overview.tasks_failed} tasks failed; the report groups them by error")
        raise typer.Exit(3)


def device_sets_of(
    workers: int | None, gpu_split: list[str] | None, memory_limit: str | None, *, stream: bool
) -> list[DeviceSet]:
    """Return what each worker of this machine may use.

    Raises:
        RequestError: an option is wrong.
    """
    return device_sets(
        gpu_split or [],
        workers=workers,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        cores=available_cores(),
        memory_limit_mb=megabytes_of(memory_limit),
        stream=stream,
    )


def duration(seconds: float) -> str:
    """A time in words, in the unit that suits it; what is less than none is none."""
    seconds = max(seconds, 0.0)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
