"""`python -m workers`: join a farm with one worker, several, or a coordinator. Settings are read here and handed on."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import re
import signal
import socket
import sys
import uuid
from collections.abc import Sequence

from neuroscan_farm.dispatch.devices import DeviceSet, available_cores, device_sets, pin
from neuroscan_farm.dispatch.farm_records import Timings
from neuroscan_farm.dispatch.places_here import PlacesHere, read_places
from neuroscan_farm.errors import NeuroscanError, RequestError
from neuroscan_farm.logs import LogFormat, without_secrets
from neuroscan_farm.planning.memory import parse_megabytes
from neuroscan_farm.settings import Settings, load_settings
from workers.config import WorkerConfig
from workers.logs import log_to_stderr, tell
from workers.supervisor import Job, keep_alive, this_program

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_BYTES_PER_GB = 1_000_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run workers until they are told to leave; return the exit code."""
    form: LogFormat = "text"
    try:
        settings = load_settings()
        options = _parser(settings).parse_args(arguments)
        form = options.log_format
        log_to_stderr(options.log_level, form, worker=options.name)
        if options.name is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", options.name):
            raise RequestError(f"name {options.name!r}: use letters, digits, '.', '_' and '-'")
        places = read_places(
            roots=settings.roots, path_map=settings.path_map, runs_dir=str(settings.runs_dir)
        )
        sets = [DeviceSet(None, (), 1)] if options.coordinator else _device_sets(options)
        return _run_one(options, sets[0], places) if len(sets) == 1 else _run_several(options, sets)
    except NeuroscanError as error:
        tell(f"error: {without_secrets(str(error))}", form, level=logging.ERROR)
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


def _run_one(options: argparse.Namespace, device_set: DeviceSet, places: PlacesHere) -> int:
    pin(device_set)  # before Celery and numpy are imported; the pool's child inherits it
    from workers.app import run_worker
    from workers.coordinator import run_coordinator

    host = socket.gethostname()
    config = WorkerConfig(
        broker_url=options.broker,
        queue=options.queue,
        # Machines that share a host's name, as containers may, have processes of the same number.
        name=options.name or f"{host}-{os.getpid()}-{uuid.uuid4().hex[:4]}",
        host=host,
        devices=device_set.devices,
        memory_mb=device_set.memory_mb,
        threads=device_set.threads,
        cache_dir=options.cache_dir,
        cache_bytes=int(options.cache_gb * _BYTES_PER_GB),
        grace_seconds=options.grace_seconds,
        log_level=options.log_level,
        log_format=options.log_format,
        metrics_port=options.metrics_port,
        metrics_host=options.metrics_host,
        memory_limit_mb=device_set.memory_limit_mb,
        stream=device_set.stream,
        timings=_timings(options),
        places=places,
    )
    return run_coordinator(config) if options.coordinator else run_worker(config)


def _run_several(options: argparse.Namespace, sets: Sequence[DeviceSet]) -> int:
    jobs = []
    for number, device_set in enumerate(sets, start=1):
        command = [*this_program(), "--queue", options.queue, "--threads", str(device_set.threads)]
        command += ["--cache-dir", options.cache_dir, "--cache-gb", str(options.cache_gb)]
        command += ["--grace-seconds", str(options.grace_seconds), "--log-level", options.log_level]
        command += ["--log-format", options.log_format, "--metrics-host", options.metrics_host]
        port = options.metrics_port and options.metrics_port + number - 1
        command += ["--metrics-port", str(port)]
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
    add("--name", help="this worker's name (made of host and process); several workers get -1, -2, …")
    add("--coordinator", action="store_true", help="only reconcile: send what is missing, measure nothing")
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
    add(
        "--metrics-port",
        type=int,
        default=settings.metrics_port,
        help="show numbers to Prometheus here; several workers take the ports after it too; 0 is off (%(default)s)",
    )
    add("--metrics-host", default=settings.metrics_host, help="the address to show them on (%(default)s)")
    add("--log-format", default=settings.log_format, choices=("text", "json"), help="(%(default)s)")
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
