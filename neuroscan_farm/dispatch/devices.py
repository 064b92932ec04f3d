"""Pinning workers to devices: which GPUs a worker process sees, how much of each it may fill, how many threads it has.

`--gpu-split` gives megabytes per device, in the way of exllama's loaders. A comma separates the devices of one
worker, over which its model is split; a semicolon (or the option given again) separates workers:

    22000            one worker on one device
    22000,22000      one worker, its model split over two devices
    22000;22000      two workers, each with its own device
    2:22000,3:22000  one worker on devices 2 and 3

Devices that are not named are taken in order from CUDA_VISIBLE_DEVICES, or from 0 where that is not set.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

from neuroscan_farm.errors import RequestError

_NUMBER = re.compile(r"\d{1,9}")


@dataclass(frozen=True, slots=True)
class DeviceSet:
    """What one worker process may use."""

    devices: tuple[str, ...] | None  # entries of CUDA_VISIBLE_DEVICES; None leaves the environment as it is
    memory_mb: tuple[int, ...]  # most megabytes of weights per device, in their order; empty is no limit
    threads: int  # CPU threads of the worker
    memory_limit_mb: int | None = None  # most megabytes of the worker's process; None is what the machine has
    stream: bool = False  # stream the layers even of a model that fits


def device_sets(
    gpu_split: Sequence[str],
    *,
    workers: int | None,
    visible: str | None,
    cores: int,
    memory_limit_mb: int | None = None,
    stream: bool = False,
) -> list[DeviceSet]:
    """Return one device set for each worker.

    Args:
        gpu_split: values of `--gpu-split`; empty leaves every worker unpinned.
        workers: how many workers; None is one for each group of `gpu_split`, or one.
        visible: the value of CUDA_VISIBLE_DEVICES, or None.
        cores: CPU cores to share between the workers.
        memory_limit_mb: most megabytes of each worker's process.
        stream: whether the workers stream the layers even of a model that fits.

    Raises:
        RequestError: the text cannot be read, or asks for more devices than are visible.
    """
    groups = [_parse_group(group) for text in gpu_split for group in text.split(";")]
    if workers is not None and workers < 1:
        raise RequestError(f"workers is {workers}; use 1 or more")
    count = workers if workers is not None else max(len(groups), 1)
    threads = max(1, cores // count)
    if not groups:
        return [DeviceSet(None, (), threads, memory_limit_mb, stream) for _ in range(count)]
    if stream and max(len(group) for group in groups) > 1:
        raise RequestError(
            f"gpu-split {';'.join(gpu_split)} splits a model over several devices, and --stream keeps it on one; "
            "give one device to each worker, or leave --stream out"
        )
    if len(groups) == 1:
        groups = groups * count
    if len(groups) != count:
        raise RequestError(
            f"gpu-split names {len(groups)} workers but --workers is {count}; give one group or {count}"
        )
    pool = [entry.strip() for entry in visible.split(",") if entry.strip()] if visible is not None else None
    named = {index for group in groups for index, _ in group}
    unnamed = (position for position in itertools.count() if position not in named)
    sets = []
    for group in groups:
        devices: list[str] = []
        for index, _ in group:
            position = index if index is not None else next(unnamed)
            if pool is not None and position >= len(pool):
                raise RequestError(
                    f"gpu-split {';'.join(gpu_split)} needs device {position}, but CUDA_VISIBLE_DEVICES={visible} "
                    f"shows {len(pool)}; use fewer workers or fewer values"
                )
            devices.append(pool[position] if pool is not None else str(position))
        if len(set(devices)) < len(devices):
            raise RequestError(
                f"gpu-split {';'.join(gpu_split)} names a device twice for one worker; name it once"
            )
        memory_mb = tuple(megabytes for _, megabytes in group)
        sets.append(DeviceSet(tuple(devices), memory_mb, threads, memory_limit_mb, stream))
    return sets


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pin(device_set: DeviceSet, environment: MutableMapping[str, str] | None = None) -> None:
    """Confine a worker's environment to its device set; must happen before torch is imported."""
    environment = os.environ if environment is None else environment
    if device_set.devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(device_set.devices)
    environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(device_set.threads)
    # Else MKL splits sums by the number of threads, and the last bits of a row would tell how many workers there were.
    environment.setdefault("MKL_CBWR", "AUTO,STRICT")
    # Spinning threads on shared cores cost a factor of 100.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    # Large tensors in large pages: 2 % of a layer's time at hidden 1024.
    environment.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _parse_group(text: str) -> list[tuple[int | None, int]]:
    group: list[tuple[int | None, int]] = []
    for piece in text.split(","):
        index, colon, megabytes = piece.strip().rpartition(":")
        if not _NUMBER.fullmatch(megabytes) or int(megabytes) < 1 or (colon and not _NUMBER.fullmatch(index)):
            raise RequestError(
                f"gpu-split {text!r}: {piece.strip()!r} is no number of megabytes; "
                "write 22000 or 22000,22000 for one worker, 22000;22000 for two, 2:22000 to name the device"
            )
        group.append((int(index) if colon else None, int(megabytes)))
    return group
