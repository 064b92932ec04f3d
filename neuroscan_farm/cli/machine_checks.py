"""What `doctor` looks at on this machine: packages, devices, folders, limits."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

import neuroscan_farm
from neuroscan_farm.cli.checks import Check, fail, ok, size, warn
from neuroscan_farm.errors import NeuroscanError
from neuroscan_farm.planning.machine_memory import available_bytes
from neuroscan_farm.store.places import Place, is_url, open_place

_GB = 1_000_000_000
_FEW_FILES = 1024  # a worker has a model's files, the store, the broker and its probes open at the same time
_SLOW_WRITE_SECONDS = 0.5
SKEW_SECONDS = 2.0  # the farm's times are the broker's own; a larger difference misleads people who read logs
_DEVICE_SECONDS = 180.0  # a first import of torch from a slow disk takes a minute


def check_python() -> Check:
    """This program and its interpreter."""
    found = f"Python {platform.python_version()}, neuroscan-farm {neuroscan_farm.__version__} in {sys.prefix}"
    return ok("python", found)


def check_packages(requirements: list[str] | None = None) -> Check:
    """The packages that this program says it needs, against those that are installed.

    Args:
        requirements: what is needed, as pip writes it; default is what this program's own metadata says.
    """
    if requirements is None:
        requirements = importlib.metadata.requires("neuroscan-farm") or []
    wrong, seen = [], {}
    for text in requirements:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            seen[needed.name] = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(seen[needed.name], prereleases=True):
            wrong.append(f"{needed.name} is {seen[needed.name]}, needed is {needed.specifier}")
    if wrong:
        return fail("packages", "; ".join(wrong), "install neuroscan-farm again, with its constraints")
    shown = ", ".join(
        f"{name} {seen[name]}"
        for name in ("torch", "transformers", "pyarrow", "celery", "redis")
        if name in seen
    )
    return ok("packages", f"{len(seen)} as needed: {shown}")


def check_devices(environment: Mapping[str, str], *, command: list[str] | None = None) -> list[Check]:
    """What torch sees, asked in a process of its own.

    Args:
        environment: of that process.
        command: another command in its place (tests); the report's file is added to it.
    """
    command = command or [sys.executable, "-P", "-m", "neuroscan_farm.engine.device_report"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        try:
            ended = subprocess.run(
                [*command, str(path)],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_DEVICE_SECONDS,
            )
            report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except subprocess.TimeoutExpired:
            return [
                fail(
                    "torch",
                    f"no answer within {_DEVICE_SECONDS:.0f} s",
                    "look at the GPU's driver: nvidia-smi",
                )
            ]
    if not report:
        said = ended.stderr.strip().splitlines()
        how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit code {ended.returncode}"
        return [fail("torch", f"cannot be used ({said[-1] if said else how})", "install torch again")]
    build = f"built for CUDA {report['cuda_build']}" if report["cuda_build"] else "built for the CPU"
    checks = [ok("torch", f"{report['torch']}, {build}")]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    for number, device in enumerate(report["devices"]):
        name = f"device {number}"
        if device["error"]:
            checks.append(fail(name, f"{device['name']}: {device['error']}", "nvidia-smi shows who uses it"))
        else:
            checks.append(
                ok(name, f"{device['name']}, {size(device['free'])} of {size(device['total'])} free")
            )
    if not report["devices"]:
        driver = Path("/proc/driver/nvidia/version").exists()
        if driver and not report["cuda_build"]:
            checks.append(
                warn("devices", "a GPU is here, torch cannot use it", "install a CUDA build of torch")
            )
        elif driver and visible is None:
            checks.append(warn("devices", "a GPU's driver is here, torch sees no GPU", "look at nvidia-smi"))
        elif visible:
            mend = "name GPUs that are there, or unset CUDA_VISIBLE_DEVICES"
            checks.append(warn("devices", f"CUDA_VISIBLE_DEVICES is {visible!r}, torch sees no GPU", mend))
        else:
            checks.append(ok("devices", f"no GPU; {len(os.sched_getaffinity(0))} CPU cores"))
    return checks


def check_memory() -> Check:
    """What a worker of this machine could still take."""
    free = available_bytes()
    if free is None:
        return ok("memory", "this system does not say how much is free")
    if free < 2 * _GB:
        return warn(
            "memory", f"{size(free)} free", "a model needs about 2 GB for each billion weights in 16 bits"
        )
    return ok("memory", f"{size(free)} free")


def check_open_files() -> Check:
    """How many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FEW_FILES:
        return warn("open files", f"at most {soft}", f"ulimit -n {max(_FEW_FILES, min(hard, 65536))}")
    return ok("open files", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}")


def check_store(runs_dir: str | Path) -> list[Check]:
    """Where runs are made: there, writable, with room, and quick enough; and its clock."""
    name = "runs"
    try:
        place = open_place(runs_dir)
    except NeuroscanError as error:
        return [fail(name, str(error), "mend NEUROSCAN_RUNS_DIR", exit_code=5)]
    if not is_url(place.location):
        folder = Path(place.location)
        if not folder.exists():
            parent = next(above for above in folder.parents if above.exists())
            if os.access(parent, os.W_OK | os.X_OK) and parent.is_dir():
                return [ok(name, f"{folder} is not there yet and can be made"), *_room(name, parent, 0.0)]
            return [
                fail(name, f"{folder} is not there, and {parent} is not writable", "choose another runs_dir")
            ]
    try:
        checks = [*_try_out(name, place)]
    except NeuroscanError as error:
        return [fail(name, str(error), "mend the access, or choose another NEUROSCAN_RUNS_DIR")]
    return checks if is_url(place.location) else [*checks, *_room(name, Path(place.location), 0.0)]


def _try_out(name: str, place: Place) -> list[Check]:
    """Write, replace, read and remove a file."""
    trial, content = f".tmp-doctor-{uuid.uuid4().hex}", uuid.uuid4().hex.encode()
    try:
        place.write(trial, b"the one before")
        began, before = time.perf_counter(), time.time()
        place.write(trial, content)
        seconds, after = time.perf_counter() - began, time.time()
        entry, found = place.entry(trial), place.read(trial)
    finally:
        with contextlib.suppress(NeuroscanError):
            place.remove(trial)
    if found != content or entry is None:
        mend = "use a store that shows a file as soon as it is written"
        return [fail(name, f"{place.location}: a replaced file still shows what it held before", mend)]
    checks = [
        ok(name, f"{place.location} is written and replaced as a whole, {seconds * 1000:.0f} ms a file")
    ]
    if seconds > _SLOW_WRITE_SECONDS:
        found_slow = f"{place.location}: {seconds:.1f} s to write a small file"
        checks = [warn(name, found_slow, "a part is written each minute or so; a slow store only costs time")]
    skew = entry.modified - (before + after) / 2
    if abs(skew) > SKEW_SECONDS + seconds:
        found_skew = f"the store's is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} ours"
        return [*checks, warn("store clock", found_skew, "set the clocks, with chrony or ntpd")]
    return [*checks, ok("store clock", f"the store's is within {SKEW_SECONDS:.0f} s of ours")]


def _room(name: str, folder: Path, wanted_bytes: float) -> list[Check]:
    free = shutil.disk_usage(folder).free
    where = f"{size(free)} free at {folder}"
    if free < 0.1 * _GB:
        return [fail(f"{name} space", where, "free some; a full disk stops every run until then")]
    if free < max(wanted_bytes, _GB):
        return [warn(f"{name} space", where, f"{size(max(wanted_bytes, _GB))} would be better")]
    return [ok(f"{name} space", where)]


def check_cache(cache_dir: Path, cache_gb: float) -> list[Check]:
    """Where this machine's workers keep boundaries."""
    folder = next(place for place in (cache_dir.absolute(), *cache_dir.absolute().parents) if place.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        mend = "choose another NEUROSCAN_CACHE_DIR; without one, boundaries are computed again and again"
        return [warn("cache", f"{cache_dir}: not writable", mend)]
    used = _used(cache_dir)
    checks = [ok("cache", f"{cache_dir} holds {size(used)} of at most {cache_gb:g} GB")]
    return [*checks, *_room("cache", folder, max(cache_gb * _GB - used, 0))]


def _used(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # a worker may be removing it
            total += path.stat().st_size
    return total


def check_model_cache(environment: Mapping[str, str]) -> Check:
    """Where models of hub ids are kept, and whether they may be fetched."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    offline = (
        "only models that are there (HF_HUB_OFFLINE)"
        if constants.HF_HUB_OFFLINE
        else "fetched when asked for"
    )
    if not constants.HF_HUB_OFFLINE and not os.access(there, os.W_OK | os.X_OK):
        return warn("models", f"{folder}: not writable", "set HF_HOME to a folder that is")
    said = "HF_HOME" if environment.get("HF_HOME") else "default"
    return ok("models", f"hub models in {folder} ({said}): {offline}")


def machine_checks(
    *, runs_dir: str | Path, cache_dir: Path, cache_gb: float, environment: Mapping[str, str]
) -> list[Check]:
    """Everything about this machine."""
    several: list[Callable[[], list[Check]]] = [
        lambda: [check_python(), check_packages()],
        lambda: check_devices(environment),
        lambda: [check_memory(), check_open_files()],
        lambda: check_store(runs_dir),
        lambda: check_cache(cache_dir, cache_gb),
        lambda: [check_model_cache(environment)],
    ]
    return [check for some in several for check in some()]
