"""`worker` and `up`: the processes of a farm. The workers themselves are the package `workers`, run as processes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from neuroscan_farm.cli.progress import note
from neuroscan_farm.cli.run_commands import SplitOption, WorkersOption
from neuroscan_farm.dispatch.devices import DeviceSet, available_cores, device_sets
from neuroscan_farm.errors import WorkerError
from neuroscan_farm.settings import Settings, load_settings

BrokerOption = Annotated[str | None, typer.Option(help="Broker URL; default is NEUROSCAN_BROKER_URL.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("worker")(worker)
    app.command("up")(up)


def worker(
    broker: BrokerOption = None,
    gpu_split: SplitOption = None,
    workers: WorkersOption = None,
    name: Annotated[str | None, typer.Option(help="The worker's name; default is made of host and process.")] = None,
) -> None:
    """Work for the farm: take shards from the broker, one at a time, and keep the model warm between them."""
    settings = load_settings()
    _keep_running(_start(_sets(gpu_split, workers), broker or settings.broker_url, settings, name))


def up(
    workers: WorkersOption = None,
    gpu_split: SplitOption = None,
    port: Annotated[
        int | None, typer.Option(help="Let other processes in by 127.0.0.1:PORT; default is a private socket.")
    ] = None,
) -> None:
    """Bring a broker and workers up on this machine, until Ctrl-C."""
    from neuroscan_farm.dispatch.redis_server import RedisServer

    settings = load_settings()
    sets = _sets(gpu_split, workers)
    with RedisServer(port=port) as server:
        url = f"redis://127.0.0.1:{port}/0" if port else server.url
        note(f"broker: {url}")
        note(f"submit to it with: NEUROSCAN_BROKER_URL={url} neuroscan-farm submit ...")
        _keep_running(_start(sets, url, settings, None))


def _sets(gpu_split: Sequence[str] | None, workers: int | None) -> list[DeviceSet]:
    return device_sets(
        gpu_split or [],
        workers=workers,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        cores=available_cores(),
    )


def _start(
    sets: Sequence[DeviceSet], url: str, settings: Settings, name: str | None
) -> list[subprocess.Popen[bytes]]:
    base = name or f"{socket.gethostname()}-{os.getpid()}"
    processes = []
    for index, device_set in enumerate(sets):
        command = [
            sys.executable,
            "-m",
            "workers",
            "--queue",
            settings.queue,
            "--name",
            base if len(sets) == 1 else f"{base}-{index}",
            "--cache-dir",
            str(settings.cache_dir),
            "--cache-gb",
            str(settings.cache_gb),
            "--threads",
            str(device_set.threads),
            "--log-level",
            settings.log_level,
        ]
        if device_set.memory_mb:
            command += ["--memory-mb", ",".join(map(str, device_set.memory_mb))]
        if device_set.devices is not None:
            command += ["--devices", ",".join(device_set.devices)]
        # The broker's URL may hold a password: by the environment, not in the process list.
        environment = os.environ | {"NEUROSCAN_BROKER_URL": url}
        processes.append(subprocess.Popen(command, env=environment))
    return processes


def _keep_running(processes: list[subprocess.Popen[bytes]]) -> None:
    """Wait for the workers; the first that fails ends them all, and so do Ctrl-C and SIGTERM, in order."""
    try:
        while True:
            for process in processes:
                code = process.poll()
                if code is None:
                    continue
                if code in (4, 5):
                    raise typer.Exit(code)
                if code != 0:
                    raise WorkerError(f"a worker ended with code {code}; its last lines are above")
                return
            time.sleep(0.2)
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in processes:
            process.wait()
