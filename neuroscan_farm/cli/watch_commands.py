"""`status`, `watch`, `ls`, `report` and `export`: looking at runs and taking out their results."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from neuroscan_farm.cli.choice import (
    BlockOption,
    MetricOption,
    PathOption,
    metric_named,
    path_named,
    require_one,
)
from neuroscan_farm.cli.progress import note
from neuroscan_farm.cli.run_commands import BrokerOption, JsonOption, RunArgument, TopOption
from neuroscan_farm.coordinator.overview import Overview, find_run, look_at, runs_in
from neuroscan_farm.errors import BrokerError, NeuroscanError, WaitTimeout
from neuroscan_farm.settings import load_settings
from neuroscan_farm.store.additions import additions_of
from neuroscan_farm.store.parts import ShardTiming
from neuroscan_farm.store.run_directory import RunDirectory

_ENDED = {"finished", "cancelled", "refused", "stopped"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (status, watch, ls, report, export):
        app.command(command.__name__)(command)


def status(
    run: RunArgument,
    as_json: JsonOption = False,
    timings: Annotated[
        bool, typer.Option("--timings", help="Add how long each shard took, and where.")
    ] = False,
    broker: BrokerOption = None,
) -> None:
    """Say how a run stands. Exit code 3 when it finished with failed tasks."""
    look = _look(find_run(run, load_settings().runs_dir), broker)
    if as_json:
        overview = look.overview.to_json_dict(timings=timings)
        seen = {"workers": look.workers, "farm": look.farm, "refusals": look.refusals}
        print(json.dumps(overview | seen | {"additions": [one.to_json_dict() for one in look.additions]}))
    else:
        for name, value in _lines(look):
            print(f"{name:<10} {value}")
        for timing in look.overview.timings if timings else ():
            print(_timing_line(timing))
    _exit_by(look.overview)


def watch(
    run: RunArgument,
    timeout: Annotated[
        float | None, typer.Option(help="Give up after so many seconds, with exit code 6.")
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    broker: BrokerOption = None,
) -> None:
    """Watch a run, live, until it ends."""
    directory = find_run(run, load_settings().runs_dir)
    until = None if timeout is None else time.monotonic() + timeout
    console = Console(stderr=True)
    shown = None
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            look = _look(directory, broker)
            overview = look.overview
            if live is not None:
                live.update(_panel(look), refresh=True)
            elif shown != (overview.state, overview.tasks_finished, bool(look.out_of_reach)):
                shown = (overview.state, overview.tasks_finished, bool(look.out_of_reach))
                note(f"{overview.state}: {overview.tasks_finished} of {overview.tasks} tasks finished")
                if look.out_of_reach:
                    note(look.out_of_reach)
            if overview.state in _ENDED:
                break
            if until is not None and time.monotonic() >= until:
                raise WaitTimeout(
                    f"run {overview.run_id} is {overview.state} after {timeout:g} s "
                    f"({overview.tasks_finished} of {overview.tasks} tasks); it goes on"
                )
            time.sleep(interval)
    if overview.state == "refused":
        note(f"error: {overview.refusal}")
        raise typer.Exit(5)
    if overview.state in {"cancelled", "stopped"}:
        note(f"the run is {overview.state}; go on with: neuroscan-farm resume {directory.location}")
        raise typer.Exit(1)
    note(f"finished; the report is made by: neuroscan-farm report {directory.location}")
    if overview.tasks_failed:
        note(f"failed: {_failed(overview)}")
    _exit_by(overview)


def ls(as_json: JsonOption = False) -> None:
    """List the runs, the newest first."""
    overviews = []
    for run in runs_in(load_settings().runs_dir):
        try:
            overviews.append(look_at(run))
        except NeuroscanError as error:  # one damaged run must not hide the others
            note(f"left out: {error}")
    overviews.sort(key=lambda overview: overview.created, reverse=True)
    if as_json:
        print(json.dumps({"schema_version": 1, "runs": [overview.to_json_dict() for overview in overviews]}))
        return
    if not overviews:
        note(f"no runs in {load_settings().runs_dir}/")
    for overview in overviews:
        done = f"{overview.tasks_finished}/{overview.tasks}"
        print(
            f"{overview.run_id}  {overview.state:<9} {done:>13}  {overview.created}  {','.join(overview.probes)}"
            + (f"  ({overview.tasks_failed} failed)" if overview.tasks_failed else "")
        )


def report(
    run: RunArgument,
    metric: MetricOption = None,
    top_k: TopOption = 10,
) -> None:
    """Write the report of a run into its directory, also while it goes on."""
    from neuroscan_farm.report.write import write_report

    directory = find_run(run, load_settings().runs_dir)
    files = write_report(directory, metric=metric_named(metric), top_k=top_k)
    print(files.summary)
    note(f"report: {files.page}")


def export(
    run: RunArgument,
    format: Annotated[str, typer.Option(help="mergekit, exl3-layer-map, json or csv.")],
    block: BlockOption = None,
    path: PathOption = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="The configuration of this rank; default is 1, the best.")
    ] = None,
    metric: MetricOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; default is stdout.")] = None,
) -> None:
    """Take results out: a configuration as mergekit YAML or exllamav3 layer map, or all as CSV or JSON."""
    from neuroscan_farm.report.write import export as export_text
    from neuroscan_farm.store.atomic import write_text

    require_one(block, path, top, options="--block, --path and --top", least=0)
    directory = find_run(run, load_settings().runs_dir)
    chosen = path_named(block, path, depth=directory.manifest.depth)
    text = export_text(directory, format=format, path=chosen, top=top or 1, metric=metric_named(metric))
    if output is None:
        print(text, end="" if text.endswith("\n") else "\n")
    else:
        write_text(output, text)
        note(f"written: {output}")


def _exit_by(overview: Overview) -> None:
    if overview.state == "finished" and overview.tasks_failed:
        raise typer.Exit(3)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A run as its directory shows it, and the farm's workers as the broker does, where the run is the farm's."""

    overview: Overview
    farm: str | None  # what the broker says of the farm; None for a run that needs none
    workers: list[dict[str, Any]]
    refusals: list[dict[str, Any]] = field(default_factory=list)  # workers that cannot do the run, and why
    out_of_reach: str | None = None  # what is said where the broker does not answer
    additions: list[Overview] = field(default_factory=list)  # of probes, each a run of its own


def _look(run: RunDirectory, broker_url: str | None) -> _Seen:
    additions = [look_at(addition) for addition in additions_of(run)]
    return replace(_look_at_itself(run, broker_url), additions=additions)


def _look_at_itself(run: RunDirectory, broker_url: str | None) -> _Seen:
    overview = look_at(run)
    if overview.executor != "celery" or overview.state in {"finished", "running"}:
        return _Seen(overview, None, [])
    from neuroscan_farm.dispatch.broker import Broker
    from neuroscan_farm.dispatch.broker_url import redacted

    settings = load_settings()
    url = broker_url or settings.broker_url
    try:
        farm = Broker(url, queue=settings.queue)
        workers = farm.workers()
        busy = [asdict(worker) for worker in workers if worker.run_id == overview.run_id]
        refusals = [asdict(refusal) for refusal in farm.refusals(overview.run_id).values()]
        registered, ended = farm.entry(overview.run_id) is not None, farm.ended(overview.run_id)
        farm.close()
    except BrokerError:
        said = f"broker {redacted(url)} is out of reach, so nobody knows who works on it"
        said += "; set --broker or NEUROSCAN_BROKER_URL"
        return _Seen(overview, said, [], out_of_reach=said)
    if overview.state == "queued":
        state = "running" if busy else "queued" if registered else "stopped"
        overview = replace(overview, state=state)
    said = f"workers: {len(workers)}, on this run: {len(busy)}"
    if ended is not None and ended.state == "error":  # the directory knows nothing of it
        said += f"; the run ended by an error of ours: {(ended.reason or 'unknown').strip().splitlines()[-1]}"
    return _Seen(overview, said, busy, refusals)


def _lines(look: _Seen) -> list[tuple[str, str]]:
    overview = look.overview
    lines = [
        ("run", overview.run_id),
        ("directory", overview.directory),
        ("state", overview.state),
        ("model", overview.model),
        ("probes", ", ".join(overview.probes)),
        (
            "tasks",
            f"{overview.tasks_finished} of {overview.tasks} finished, {overview.tasks_failed} of them failed",
        ),
        (
            "shards",
            f"{overview.shards_finished} of {overview.shards}"
            + ("" if overview.plan_complete else ", more to come"),
        ),
    ]
    if overview.executor == "celery":
        lines.insert(3, ("priority", f"{overview.priority} of 0 to 9; 9 goes first"))
    if overview.tasks_per_minute is not None:
        rate = f"{overview.tasks_per_minute:.1f} tasks/min"
        lines.append(("rate", f"{rate}, {overview.side_by_side:.1f} shards side by side"))
    if overview.eta_seconds is not None and overview.state in {"running", "queued", "paused"}:
        when = " of work, when it goes on" if overview.state == "paused" else ""
        lines.append(("eta", f"{overview.eta_seconds:.0f} s{when}"))
    if overview.deaths:
        lines.append(("deaths", f"{overview.deaths} workers died on the way"))
    if overview.refusal is not None:
        lines.append(("refused", overview.refusal))
    if look.farm is not None:
        lines.append(("farm", look.farm))
    if overview.tasks_failed:
        lines.append(("failed", _failed(overview)))
    for refusal in look.refusals:
        again = "; it is asked again in a while" if refusal["passing"] else ""
        lines.append(("refusal", f"worker {refusal['worker']}: {refusal['error']}{again}"))
    for addition in look.additions:
        done = f"{addition.tasks_finished} of {addition.tasks} finished"
        lines.append(
            ("added", f"{', '.join(addition.probes)}: {addition.state}, {done}, {addition.directory}")
        )
    for worker in look.workers:
        lines.append(("worker", f"{worker['name']} on {worker['device']}: shard {worker['shard_id']}"))
    return lines


def _failed(overview: Overview) -> str:
    return (
        f"{overview.tasks_failed} tasks, see the report; after the mend: "
        f"neuroscan-farm retry {overview.directory} --failed"
    )


def _timing_line(timing: ShardTiming) -> str:
    started = datetime.fromtimestamp(timing.started, UTC).isoformat(timespec="seconds")
    work = f"{timing.tasks} tasks, {timing.evaluations} layer evaluations"
    return (
        f"{'timing':<10} {timing.shard_id}  {started}  {timing.seconds:.1f} s  {work}  "
        f"{timing.worker} on {timing.device}, attempt {timing.attempt}"
    )


def _panel(look: _Seen) -> Table:
    overview = look.overview
    table = Table.grid(padding=(0, 2))
    for name, value in _lines(look):
        table.add_row(Text(name, style="bold"), Text(value))
    share = overview.tasks_finished / max(overview.tasks, 1)
    table.add_row("", Text("█" * round(40 * share) + "░" * (40 - round(40 * share)) + f" {share:.0%}"))
    return table
