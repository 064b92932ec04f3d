"""`worker` and `up`: the processes of a farm. The workers themselves are the package `workers`, run as processes."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from neuroscan_farm.cli.memory import megabytes_of
from neuroscan_farm.cli.progress import note
from neuroscan_farm.cli.run_commands import (
    BrokerOption,
    LimitOption,
    SplitOption,
    StreamOption,
    WorkersOption,
)
from neuroscan_farm.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("worker")(worker)
    app.command("up")(up)


def worker(
    broker: BrokerOption = None,
    gpu_split: SplitOption = None,
    memory_limit: LimitOption = None,
    stream: StreamOption = False,
    workers: WorkersOption = None,
    name: Annotated[
        str | None, typer.Option(help="The worker's name; default is made of host and process.")
    ] = None,
) -> None:
    """Work for the farm: take shards from the broker, one at a time, and keep the model warm between them."""
    url = broker or load_settings().broker_url
    command = _command(gpu_split, workers, memory_limit, stream=stream)
    if name is not None:
        command += ["--name", name]
    sys.stderr.flush()
    os.execve(command[0], command, os.environ | {"NEUROSCAN_BROKER_URL": url})


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
) -> None:
    """Bring a broker and workers up on this machine, until Ctrl-C."""
    from neuroscan_farm.dispatch.celery_queue import start_workers
    from neuroscan_farm.dispatch.redis_server import RedisServer

    command = _command(gpu_split, workers, memory_limit, stream=stream)
    with RedisServer(port=port) as server:
        note(f"broker: {server.url}" + (f" and redis://127.0.0.1:{port}/0" if port else ""))
        note(f"submit to it with: NEUROSCAN_BROKER_URL={server.url} neuroscan-farm submit ...")
        process = start_workers(command, server.url)
        code = None
        while code is None:
            try:
                code = process.wait()
            except (
                BaseException
            ) as stop:  # Ctrl-C or SIGTERM: pass it on, and wait; a second one is immediate
                if isinstance(stop, KeyboardInterrupt):
                    note("stopping; shards in hand are given back (Ctrl-C again stops at once)")
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait()
                finally:
                    process.kill()
                raise
    if code:
        raise typer.Exit(code)


def _command(
    gpu_split: list[str] | None, workers: int | None, memory_limit: str | None, *, stream: bool
) -> list[str]:
    # The broker's URL may hold a password: it goes by the environment, not into the process list.
    command = [sys.executable, "-P", "-m", "workers"]
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
