"""`worker`, `coordinator`, `up` and `drain`: the processes of a farm, which are the package `workers`, run as such."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from neuroscan_farm.cli.memory import megabytes_of
from neuroscan_farm.cli.progress import note
from neuroscan_farm.cli.run_commands import (
    BrokerOption,
    LimitOption,
    SplitOption,
    StreamOption,
    WorkersOption,
    device_sets_of,
    farm_at,
)
from neuroscan_farm.errors import BrokerError, RequestError
from neuroscan_farm.settings import load_settings
from neuroscan_farm.store.places import is_url

if TYPE_CHECKING:
    from neuroscan_farm.dispatch.farm_records import Presence

MetricsPortOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help="Show numbers to Prometheus on this port; several workers take the ports after it too. 0 is off.",
    ),
]
MetricsHostOption = Annotated[
    str | None, typer.Option(help="The address to show them on; default is 127.0.0.1.")
]
_PROGRAM = (sys.executable, "-P", "-m", "workers")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("worker")(worker)
    app.command("coordinator")(coordinator)
    app.command("up")(up)
    app.command("drain")(drain)


def worker(
    broker: BrokerOption = None,
    gpu_split: SplitOption = None,
    memory_limit: LimitOption = None,
    stream: StreamOption = False,
    workers: WorkersOption = None,
    name: Annotated[
        str | None, typer.Option(help="The worker's name; default is made of host and process.")
    ] = None,
    metrics_port: MetricsPortOption = None,
    metrics_host: MetricsHostOption = None,
) -> None:
    """Work for the farm: take shards from the broker, one at a time, and keep the model warm between them."""
    command = _command(gpu_split, workers, memory_limit, stream=stream)
    _become([*command, *_metrics(metrics_port, metrics_host)], broker, name)


def coordinator(
    broker: BrokerOption = None,
    name: Annotated[
        str | None, typer.Option(help="The coordinator's name; default is made of host and process.")
    ] = None,
    metrics_port: MetricsPortOption = None,
    metrics_host: MetricsHostOption = None,
) -> None:
    """Send what runs are missing, beside the workers, which do so too; it needs no GPU, and several do no harm."""
    _become([*_PROGRAM, "--coordinator", *_metrics(metrics_port, metrics_host)], broker, name)


def drain(
    worker: Annotated[
        str,
        typer.Argument(metavar="WORKER", help="A worker's name, or the beginning of it that is its alone."),
    ],
    undo: Annotated[
        bool, typer.Option("--undo", help="Take it back, while the worker has not left yet.")
    ] = False,
    broker: BrokerOption = None,
) -> None:
    """Let a worker finish its shard and leave with exit code 0, so that nothing starts it anew."""
    settings = load_settings()
    farm = farm_at(broker, settings)
    found = _worker_named(worker, farm.present())
    farm.want_drained(found.name, drained=not undo)
    if undo:
        note(f"worker {found.name} stays")
    else:
        note(f"worker {found.name} finishes its shard and leaves; `--undo` takes it back until then")


def _worker_named(name: str, present: Sequence[Presence]) -> Presence:
    """The worker of a name, or of the beginning of one."""
    found = [worker for worker in present if worker.name == name] or [
        worker for worker in present if worker.name.startswith(name)
    ]
    if len(found) == 1:
        return found[0]
    there = ", ".join(worker.name for worker in present) or "none"
    if found:
        raise RequestError(
            f"worker {name!r} is not clear: {', '.join(worker.name for worker in found)}; give more of its name"
        )
    raise BrokerError(f"worker {name!r}: no such worker on this farm; there are: {there}")


def up(
    workers: WorkersOption = None,
    gpu_split: SplitOption = None,
    memory_limit: LimitOption = None,
    stream: StreamOption = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Also listen on 127.0.0.1:PORT; default is a private socket alone."
        ),
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the page and the API too.")] = False,
    serve_port: Annotated[
        int, typer.Option(min=1, max=65535, help="The port of the page, on 127.0.0.1.")
    ] = 8642,
    runs_dir: Annotated[
        str | None,
        typer.Option(help="Where the runs are: a folder, or a URL; default is NEUROSCAN_RUNS_DIR."),
    ] = None,
) -> None:
    """Bring a broker and workers up on this machine, until Ctrl-C."""
    from neuroscan_farm.dispatch.celery_queue import start_workers
    from neuroscan_farm.dispatch.redis_server import RedisServer

    device_sets_of(
        workers, gpu_split, memory_limit, stream=stream
    )  # what is wrong is said before anything is started
    command = _command(gpu_split, workers, memory_limit, stream=stream)
    if runs_dir is not None:  # read by what is started here, as every setting is
        where = runs_dir.rstrip("/") or "/"
        os.environ["NEUROSCAN_RUNS_DIR"] = where if is_url(where) else str(Path(where).absolute())
    with RedisServer(port=port) as server:
        note(f"broker: {server.url}" + (f" and redis://127.0.0.1:{port}/0" if port else ""))
        note(f"submit to it with: NEUROSCAN_BROKER_URL={server.url} neuroscan-farm submit ...")
        started = [start_workers(command, server.url)]
        if serve:
            page = [sys.executable, "-P", "-m", "neuroscan_farm", "serve", "--port", str(serve_port)]
            started.append(start_workers(page, server.url))
        try:
            code = _first_ended(started)
        except BaseException as stop:  # Ctrl-C or SIGTERM: pass it on, and wait; a second one is immediate
            if isinstance(stop, KeyboardInterrupt):
                note("stopping; shards in hand are given back (Ctrl-C again stops at once)")
            _end(started)
            raise
        _end(started)
    if code:
        raise typer.Exit(code)


def _first_ended(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until one of the processes ends, and return its exit code: without one of its parts nothing is up."""
    if len(processes) == 1:
        return processes[0].wait()
    while True:
        for process in processes:
            if process.poll() is not None:
                return process.returncode
        time.sleep(0.2)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    try:
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            process.kill()


def _become(command: list[str], broker: str | None, name: str | None) -> NoReturn:
    """Turn this process into one of the package `workers`."""
    url = broker or load_settings().broker_url
    if name is not None:
        command += ["--name", name]
    sys.stderr.flush()
    os.execve(command[0], command, os.environ | {"NEUROSCAN_BROKER_URL": url})


def _metrics(port: int | None, host: str | None) -> list[str]:
    options = [] if port is None else ["--metrics-port", str(port)]
    return options if host is None else [*options, "--metrics-host", host]


def _command(
    gpu_split: list[str] | None, workers: int | None, memory_limit: str | None, *, stream: bool
) -> list[str]:
    # The broker's URL may hold a password: it goes by the environment, not into the process list.
    command = [*_PROGRAM]
    if workers is not None:
        command += ["--workers", str(workers)]
    for text in gpu_split or []:
        command += ["--gpu-split", text]
    megabytes = megabytes_of(memory_limit)  # what is wrong is said here, not by the worker
    if megabytes is not None:
        command += ["--memory-limit", str(megabytes)]
    if stream:
        command += ["--stream"]
    return command
