"""`python -m workers`: join a farm with one worker or several. Settings are read here and handed on."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import signal
import socket
import sys
from collections.abc import Sequence

from neuroscan_farm.dispatch.devices import DeviceSet, available_cores, device_sets, pin
from neuroscan_farm.dispatch.farm_records import Timings
from neuroscan_farm.errors import NeuroscanError, RequestError
from neuroscan_farm.planning.memory import parse_megabytes
from neuroscan_farm.settings import Settings, load_settings
from workers.config import WorkerConfig
from workers.logs import log_to_stderr
from workers.supervisor import Job, keep_alive, this_program

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_BYTES_PER_GB = 1_000_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run workers until they are told to leave; return the exit code."""
    try:
        settings = load_settings()
        options = _parser(settings).parse_args(arguments)
        log_to_stderr(options.log_level)
        if options.name is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", options.name):
            raise RequestError(f"name {options.name!r}: use letters, digits, '.', '_' and '-'")
        sets = _device_sets(options)
        return _run_one(options, sets[0]) if len(sets) == 1 else _run_several(options, sets)
    except NeuroscanError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _device_sets(options: argparse.Namespace) -> list[DeviceSet]:
    cores = options.threads or available_cores()
    if options.devices is not None or options.memory_mb is not None:  # chosen already, by a supervisor
        devices = tuple(options.devices.split(",")) if options.devices is not None else None
        memory_mb = tuple(options.memory_mb or ())
        return [DeviceSet(devices, memory_mb, cores, _memory_limit(options), options.stream)]
    return device_sets(
        options.gpu_split,
        workers=options.workers,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        cores=cores,
        memory_limit_mb=_memory_limit(options),
        stream=options.stream,
    )


def _run_one(options: argparse.Namespace, device_set: DeviceSet) -> int:
    pin(device_set)  # before Celery and numpy are imported; the pool's child inherits it
    from workers.app import run_worker

    host = socket.gethostname()
    config = WorkerConfig(
        broker_url=options.broker,
        queue=options.queue,
        name=options.name or f"{host}-{os.getpid()}",
        host=host,
        devices=device_set.devices,
        memory_mb=device_set.memory_mb,
        threads=device_set.threads,
        cache_dir=options.cache_dir,
        cache_bytes=int(options.cache_gb * _BYTES_PER_GB),
        grace_seconds=options.grace_seconds,
        log_level=options.log_level,
        memory_limit_mb=device_set.memory_limit_mb,
        stream=device_set.stream,
        timings=_timings(options),
    )
    return run_worker(config)


def _run_several(options: argparse.Namespace, sets: Sequence[DeviceSet]) -> int:
    jobs = []
    for number, device_set in enumerate(sets, start=1):
        command = [*this_program(), "--queue", options.queue, "--threads", str(device_set.threads)]
        command += ["--cache-dir", options.cache_dir, "--cache-gb", str(options.cache_gb)]
        command += ["--grace-seconds", str(options.grace_seconds), "--log-level", options.log_level]
        for field in dataclasses.fields(Timings):
            command += [_option(field.name), str(getattr(options, field.name))]
        if device_set.memory_limit_mb is not None:
            command += ["--memory-limit", str(device_set.memory_limit_mb)]
        if device_set.stream:
            command += ["--stream"]
        if options.name:
            command += ["--name", f"{options.name}-{number}"]
        # Not on the command line, which everybody on the machine can read: the URL may hold a password.
        environment = {"NEUROSCAN_BROKER_URL": options.broker}
        if device_set.devices is not None:
            command += ["--devices", ",".join(device_set.devices)]
            command += ["--memory-mb", ",".join(map(str, device_set.memory_mb))]
        jobs.append(Job(command, environment))
    return keep_alive(jobs)


def _parser(settings: Settings) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workers", description="Join a farm: take shards from its queue and measure them."
    )
    add = parser.add_argument
    add("--broker", default=settings.broker_url, help="the farm's broker; best given as NEUROSCAN_BROKER_URL")
    add("--queue", default=settings.queue, help="the farm's queue (%(default)s)")
    add("--name", help="this worker's name (host and process id); several workers get -1, -2, …")
    add("--workers", type=int, help="how many workers (one for each group of --gpu-split, or one)")
    add("--gpu-split", action="append", default=[], help="megabytes per device: 22000,22000 or 22000;22000")
    add("--devices", help="this worker's entries of CUDA_VISIBLE_DEVICES, in place of --gpu-split")
    add("--memory-mb", type=_megabytes, help="most megabytes of weights on each of --devices")
    add("--memory-limit", help="most memory of each worker's process: 700 (megabytes), 1.5GB (what is free)")
    add("--stream", action="store_true", help="stream the layers even of a model that fits")
    add("--threads", type=int, help="CPU threads to share between the workers (all cores)")
    add("--cache-dir", default=str(settings.cache_dir), help="where boundaries are kept (%(default)s)")
    add("--cache-gb", type=float, default=settings.cache_gb, help="most gigabytes kept there (%(default)s)")
    add(
        "--grace-seconds",
        type=float,
        default=20.0,
        help="time to hand back when asked to leave (%(default)s)",
    )
    add("--log-level", default=settings.log_level, type=str.upper, choices=_LEVELS, help="(%(default)s)")
    for field in dataclasses.fields(Timings):
        text = f"the farm's {field.name.replace('_', ' ')} time; the same for all its workers (%(default)s)"
        add(_option(field.name), dest=field.name, type=float, default=field.default, help=text)
    return parser


def _memory_limit(options: argparse.Namespace) -> int | None:
    return (
        None if options.memory_limit is None else parse_megabytes(options.memory_limit, name="memory-limit")
    )


def _megabytes(text: str) -> tuple[int, ...]:
    return tuple(int(piece) for piece in text.split(","))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}-seconds"


def _timings(options: argparse.Namespace) -> Timings:
    return Timings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Timings)})


if __name__ == "__main__":
    sys.exit(main())
