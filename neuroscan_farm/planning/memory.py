"""Does a model fit in memory, or are its layers streamed? Plain arithmetic. Megabytes are 10^6 bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.errors import RequestError, WorkerError
from neuroscan_farm.planning.facts import ModelFacts
from neuroscan_farm.planning.layer_lists import find_layer_list
from neuroscan_farm.planning.machine_memory import available_bytes
from neuroscan_farm.planning.weight_files import INDEX_FILE, SINGLE_FILE, StoredTensor, stored_tensors

# A worker before it holds a model: Python, torch, transformers, a model class, a tokenizer. An estimate for plans;
# a worker measures its own.
PROGRAM_BYTES = 500_000_000
# What comes to that later: scratch memory of the libraries, tables of rows, threads.
OVERHEAD_BYTES = 64_000_000
LEAST_WORK_BYTES = OVERHEAD_BYTES + 48_000_000  # and a few prompts' activations
SLOTS = 2  # layers in memory at a time where layers are streamed: the present one, and the next

_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(kB|KiB|MB|GB|MiB|GiB)?", re.IGNORECASE)
_UNITS = {"": 1e6, "kb": 1e3, "kib": 2.0**10, "mb": 1e6, "gb": 1e9, "mib": 2.0**20, "gib": 2.0**30}


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """A model's weights in the dtype of the run."""

    layers: int
    layer_bytes: int  # of the largest layer
    layers_bytes: int  # of all layers
    rest_bytes: int  # what stays where layers are streamed: embedding, head, norms, what layers share
    conversion_bytes: int = 0  # what loading a layer needs besides the layer itself

    @property
    def weight_bytes(self) -> int:
        """All weights."""
        return self.layers_bytes + self.rest_bytes

    @property
    def slots_bytes(self) -> int:
        """The layers that are in memory at a time where layers are streamed."""
        return min(SLOTS, self.layers) * self.layer_bytes


@dataclass(frozen=True, slots=True)
class MemoryChoice:
    """Whether layers are streamed, and why."""

    streamed: bool | None  # None where only the worker can know
    why: str
    sizes: ModelSizes | None = None
    room_bytes: int | None = None  # None is no bound
    least_bytes: int | None = None  # the smallest bound with which this model can be run

    def to_json_dict(self) -> dict[str, object]:
        """Return the choice as plain data."""
        sizes = self.sizes
        stays = None if sizes is None else sizes.rest_bytes if self.streamed else sizes.weight_bytes
        megabytes = {
            "weights_mb": None if sizes is None else sizes.weight_bytes,
            "layer_mb": None if sizes is None else sizes.layer_bytes,
            "resident_mb": stays,
            "memory_mb": self.room_bytes,
            "least_memory_mb": self.least_bytes,
        }
        plain = {name: None if size is None else round(size / 1e6, 1) for name, size in megabytes.items()}
        return {"streaming": self.streamed, "streaming_why": self.why, **plain}


def choose(
    sizes: ModelSizes,
    *,
    room_bytes: int | None,
    program_bytes: int,
    forced: bool = False,
    option: str = "--memory-limit",
) -> MemoryChoice:
    """Choose whether to stream the layers of a model.

    Args:
        sizes: the model's.
        room_bytes: most bytes of the whole process, or of the device; None is no bound.
        program_bytes: what is used there before the model is loaded.
        forced: whether `--stream` was given.
        option: what the user would raise.

    Raises:
        WorkerError: the model does not fit even with streamed layers.
    """
    whole = program_bytes + sizes.weight_bytes + LEAST_WORK_BYTES
    least = program_bytes + sizes.rest_bytes + sizes.slots_bytes + sizes.conversion_bytes + LEAST_WORK_BYTES
    least = min(least, whole)
    weights = gigabytes(sizes.weight_bytes)
    room = "" if room_bytes is None else gigabytes(room_bytes)
    if room_bytes is not None and least > room_bytes:
        converting = (
            f", {gigabytes(sizes.conversion_bytes)} to convert a layer" if sizes.conversion_bytes else ""
        )
        raise WorkerError(
            f"the model does not fit in {room} even with streamed layers: the program takes {gigabytes(program_bytes)}, "
            f"what stays {gigabytes(sizes.rest_bytes)}, {min(SLOTS, sizes.layers)} layers {gigabytes(sizes.slots_bytes)}"
            f"{converting}, work at least {gigabytes(LEAST_WORK_BYTES)}; the smallest that will do is {option} "
            f"{-(-least // 10**6)}"
        )
    fits = room_bytes is None or whole <= room_bytes
    how = (
        f"layers are streamed ({min(SLOTS, sizes.layers)} of {sizes.layers} at a time, {gigabytes(sizes.slots_bytes)}), "
        f"embedding and head stay ({gigabytes(sizes.rest_bytes)})"
    )
    beside = f" beside {gigabytes(program_bytes)} of the program" if program_bytes else ""
    if not fits:
        return MemoryChoice(
            True, f"weights {weights} do not fit in {room}{beside}: {how}", sizes, room_bytes, least
        )
    if forced:
        return MemoryChoice(
            True, f"weights {weights}, and --stream is given: {how}", sizes, room_bytes, least
        )
    why = (
        f"weights {weights} stay in memory"
        if room_bytes is None
        else f"weights {weights} fit in {room}{beside}"
    )
    return MemoryChoice(False, why, sizes, room_bytes, least)


def plan_memory(
    facts: ModelFacts,
    options: EngineOptions,
    *,
    gpu_memory_mb: Sequence[int] = (),
    memory_limit_mb: int | None = None,
    stream: bool = False,
    workers: int = 1,
    root: Path = Path("/"),
) -> MemoryChoice:
    """Foretell what a worker of this machine will choose, from the headers of the weight files.

    Args:
        facts: the model's.
        options: dtype and device.
        gpu_memory_mb: megabytes of each device of one worker, where `--gpu-split` says so.
        memory_limit_mb: megabytes of one worker's process; None is its share of what is free.
        stream: whether `--stream` was given.
        workers: how many share the machine.
        root: where the system's files are.

    Raises:
        ModelError: a weight file is damaged.
        WorkerError: the model does not fit even with streamed layers.
    """
    if len(gpu_memory_mb) > 1:
        return MemoryChoice(False, f"the model is split over {len(gpu_memory_mb)} devices")
    if not any((facts.folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
        return MemoryChoice(None, "not known before the weights are fetched")
    on_gpu = options.device == "cuda" or (options.device == "auto" and bool(gpu_memory_mb))
    on_gpu = on_gpu or (options.device == "auto" and (root / "proc/driver/nvidia/version").exists())
    sizes = sizes_by_name(
        facts.folder, depth=facts.depth, element_bytes=element_bytes(options, facts.dtype, on_gpu=on_gpu)
    )
    if on_gpu:
        if not gpu_memory_mb and not stream:
            why = "the worker decides, because it sees how much its GPU has; --gpu-split says it beforehand"
            return MemoryChoice(None, why, sizes)
        room = gpu_memory_mb[0] * 10**6 if gpu_memory_mb else None
        return choose(sizes, room_bytes=room, program_bytes=0, forced=stream, option="--gpu-split")
    if memory_limit_mb is not None:
        room_bytes: int | None = memory_limit_mb * 10**6
    else:
        free = available_bytes(root)
        room_bytes = None if free is None else free // workers
    return choose(sizes, room_bytes=room_bytes, program_bytes=PROGRAM_BYTES, forced=stream)


def element_bytes(options: EngineOptions, checkpoint_dtype: str, *, on_gpu: bool) -> int:
    """Return the bytes of one weight in the run's dtype."""
    dtype = options.dtype if options.dtype != "auto" else checkpoint_dtype if on_gpu else "float32"
    return _ELEMENT_BYTES.get(dtype, 4)


def sizes_by_name(folder: Path, *, depth: int, element_bytes: int) -> ModelSizes:
    """Return a model's sizes by the names in its weight files; the worker knows better, because it builds the model.

    Raises:
        ModelError: the files are missing or damaged.
    """
    tensors = stored_tensors(folder)
    found = find_layer_list(tensors, depth)
    total = sum(_bytes(tensor, element_bytes) for tensor in tensors.values())
    if found is None:
        return ModelSizes(0, 0, 0, total)
    layers: dict[int, int] = {}
    for name, tensor in tensors.items():
        if (place := found.split(name)) is not None:
            layers[place[0]] = layers.get(place[0], 0) + _bytes(tensor, element_bytes)
    # What is numbered beyond only predicts further tokens, and is no part of the model that is run.
    sizes = [layers[k] for k in range(depth)]
    return ModelSizes(depth, max(sizes), sum(sizes), total - sum(layers.values()))


def parse_megabytes(text: str, *, name: str) -> int:
    """Read `700`, `700MB`, `1.5GB` or `2GiB` as megabytes; a plain number is megabytes.

    Raises:
        RequestError: the text is no size, or less than a megabyte.
    """
    found = _SIZE.fullmatch(text.strip())
    amount = float(found[1]) * _UNITS[(found[2] or "").lower()] / 1e6 if found else math.inf
    if amount < 1:
        raise RequestError(f"{name} {text!r} is less than a megabyte; the least is 1MB")
    if not math.isfinite(amount):
        raise RequestError(f"{name} {text!r} is no size; write megabytes, or a unit: 700, 700MB, 1.5GB, 2GiB")
    return int(amount)


def gigabytes(size: int) -> str:
    """Say a size with two digits that matter."""
    amount = size / 1e9
    digits = 0 if amount >= 100 else 1 if amount >= 1 else 2 if amount >= 0.1 else 3
    return f"{amount:,.{digits}f} GB"


def _bytes(tensor: StoredTensor, element_bytes: int) -> int:
    return tensor.numel * element_bytes if tensor.is_float else tensor.size_bytes
