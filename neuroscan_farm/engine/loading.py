"""Loading a model and its tokenizer with transformers: safetensors only, every weight accounted for, in evaluation mode.

Where memory is ample transformers loads the model. Where it is bounded, weights are read into their place one by one,
and where they do not fit the layers are streamed. The model is the same in all three ways.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.engine.weights.checkpoint import Checkpoint
from neuroscan_farm.engine.weights.lean_loading import (
    Skeleton,
    build_skeleton,
    check_complete,
    load_resident,
    load_streamed,
)
from neuroscan_farm.engine.weights.streaming import LayerWeights, ResidentLayers
from neuroscan_farm.errors import ModelError, WorkerError
from neuroscan_farm.planning.machine_memory import available_bytes, process_bytes
from neuroscan_farm.planning.memory import (
    LEAST_WORK_BYTES,
    OVERHEAD_BYTES,
    ModelSizes,
    choose,
    gigabytes,
)
from neuroscan_farm.planning.weight_files import stored_tensors

log = logging.getLogger(__name__)


# What transformers and safetensors raise for a model that cannot be loaded.
_LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, ImportError)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready for forward passes."""

    model: torch.nn.Module
    tokenizer: Any
    device: torch.device  # where token ids go
    device_name: str  # as rows record it
    dtype: str
    attention: str
    folder: Path
    placement: (
        str  # "cpu", "cuda:0", modules per device where the model is split; whether layers are streamed
    )
    layers: LayerWeights = field(default_factory=ResidentLayers)  # ask it before a layer runs
    work_bytes: int | None = None  # most bytes for residual streams and activations; None is no bound
    memory: str = ""  # whether layers are streamed and why, for people


def load(
    folder: Path,
    options: EngineOptions,
    *,
    memory_mb: tuple[int, ...] = (),
    memory_limit_mb: int | None = None,
    stream: bool = False,
) -> LoadedModel:
    """Load the model in `folder`; its layers are streamed where it does not fit in memory.

    Args:
        folder: a folder in Hugging Face's form.
        options: dtype, device and attention implementation.
        memory_mb: most megabytes of weights on each visible device; more than one splits the model over them.
        memory_limit_mb: most megabytes of this whole process; None is what the machine has.
        stream: stream the layers even if the model fits.

    Raises:
        ModelError: the weights are missing, damaged or incomplete, or the tokenizer cannot be loaded.
        WorkerError: the device asked for is not there, or the model does not fit even with streamed layers.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if len(memory_mb) > 1 and stream:
        raise WorkerError(
            f"--stream with a --gpu-split over {len(memory_mb)} devices: streamed layers go to one device; "
            "name one device, or leave --stream out"
        )
    device = _device(options, memory_mb)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model {folder}: no .safetensors file; pickled weights are not read because they can run code: "
            "convert them (load with transformers, then save_pretrained)"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(f"model {folder}: the tokenizer cannot be loaded: {_in_one_line(error)}") from error
    if len(memory_mb) > 1:
        loaded = _Loaded(_load_by_transformers(folder, options, device, memory_mb))
    else:
        room = _room(device, memory_mb, memory_limit_mb)
        loaded = _load_within(room, folder, options, device, stream=stream)
    model = loaded.model
    model.eval().requires_grad_(False)
    first = next(parameter for parameter in model.parameters() if not parameter.is_meta)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        device=device if len(memory_mb) <= 1 else first.device,
        device_name=torch.cuda.get_device_name(first.device) if first.device.type == "cuda" else "cpu",
        dtype=str(first.dtype).removeprefix("torch."),
        attention=str(getattr(model.config, "_attn_implementation", None) or "unknown"),
        folder=folder,
        placement=_placement(model) + (", layers streamed" if loaded.layers.streamed else ""),
        layers=loaded.layers,
        work_bytes=loaded.work_bytes,
        memory=loaded.memory,
    )


@dataclass(frozen=True, slots=True)
class _Room:
    """How much memory there is for a model."""

    room_bytes: int | None  # of the device, or of this process where that is the CPU; None where nothing says
    host_bytes: int | None  # of this process
    option: str  # what the user would raise
    bounded: bool  # whether the user said how much


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: Any
    layers: LayerWeights = field(default_factory=ResidentLayers)
    work_bytes: int | None = None
    memory: str = ""


def _room(device: torch.device, memory_mb: tuple[int, ...], memory_limit_mb: int | None) -> _Room:
    available = available_bytes()
    host = memory_limit_mb * 10**6 if memory_limit_mb is not None else None
    if host is None and available is not None:
        host = process_bytes() + available
    if device.type == "cpu":
        return _Room(host, host, "--memory-limit", memory_limit_mb is not None)
    free = memory_mb[0] * 10**6 if memory_mb else int(torch.cuda.mem_get_info(device)[0])
    return _Room(free, host, "--gpu-split", bool(memory_mb) or memory_limit_mb is not None)


def _load_within(
    room: _Room, folder: Path, options: EngineOptions, device: torch.device, *, stream: bool
) -> _Loaded:
    """Load the model on one device, by the way that the room asks for."""
    fits = not stream and _surely_fits(room, folder, options, device)
    if fits and not room.bounded:
        return _Loaded(_load_by_transformers(folder, options, device, ()))
    try:
        skeleton = _skeleton(folder, options, device)
    except ModelError as error:
        if not fits:
            raise
        log.info("model %s: loaded by transformers: %s", folder, error)
        model = _load_by_transformers(folder, options, device, ())
        return _Loaded(model, work_bytes=_work_bytes(room, 0, device))
    try:
        choice = choose(
            skeleton.sizes,
            room_bytes=room.room_bytes,
            program_bytes=process_bytes() if device.type == "cpu" else 0,
            forced=stream,
            option=room.option,
        )
        if not choice.streamed:
            model = load_resident(skeleton, device)
            skeleton.checkpoint.close()
            work_bytes = _work_bytes(room, 0, device) if room.bounded else None
            return _Loaded(model, work_bytes=work_bytes, memory=choice.why)
        _check_host(room, skeleton.sizes, device)
        model, layers = load_streamed(skeleton, device)
    except WorkerError as error:
        raise WorkerError(f"model {folder}: {error}") from error
    except _LOADING_ERRORS as error:
        raise ModelError(f"model {folder}: cannot be loaded: {_in_one_line(error)}") from error
    log.info("model %s: %s", folder, choice.why)
    coming = skeleton.sizes.slots_bytes + skeleton.sizes.conversion_bytes
    return _Loaded(model, layers, _work_bytes(room, coming, device), choice.why)


def _skeleton(folder: Path, options: EngineOptions, device: torch.device) -> Skeleton:
    arguments: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if options.attention != "auto":
        arguments["attn_implementation"] = options.attention
    checkpoint = Checkpoint(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
        dtype = _dtype(options, device, config, checkpoint)
        return build_skeleton(config, checkpoint, dtype=dtype, arguments=arguments)
    except _LOADING_ERRORS as error:
        raise ModelError(f"model {folder}: cannot be loaded: {_in_one_line(error)}") from error


def _load_by_transformers(
    folder: Path, options: EngineOptions, device: torch.device, memory_mb: tuple[int, ...]
) -> Any:
    dtype: Any = options.dtype
    if dtype == "auto":
        dtype = "float32" if device.type == "cpu" else "auto"
    arguments: dict[str, Any] = {
        "dtype": dtype if dtype == "auto" else getattr(torch, dtype),
        "use_safetensors": True,
        "trust_remote_code": options.trust_remote_code,
        "output_loading_info": True,
    }
    if options.attention != "auto":
        arguments["attn_implementation"] = options.attention
    if len(memory_mb) > 1:
        arguments["device_map"] = "auto"
        arguments["max_memory"] = {index: f"{megabytes}MB" for index, megabytes in enumerate(memory_mb)}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(folder, **arguments)
    except _LOADING_ERRORS as error:
        raise ModelError(f"model {folder}: cannot be loaded: {_in_one_line(error)}") from error
    check_complete(report, folder)
    return model if len(memory_mb) > 1 else model.to(device)


def _surely_fits(room: _Room, folder: Path, options: EngineOptions, device: torch.device) -> bool:
    """Whether all weights fit by what the files' headers say; True too where transformers shall say what is wrong."""
    try:
        tensors = stored_tensors(folder).values()
    except ModelError:
        return True
    element = {"float32": 4, "auto": 4 if device.type == "cpu" else 0}.get(options.dtype, 2)
    size = sum(t.numel * element if element and t.is_float else t.size_bytes for t in tensors)
    if room.host_bytes is not None and size + process_bytes() + LEAST_WORK_BYTES > room.host_bytes:
        return False  # nor may it be there on its way to a GPU
    return device.type == "cpu" or room.room_bytes is None or size + LEAST_WORK_BYTES <= room.room_bytes


def _check_host(room: _Room, sizes: ModelSizes, device: torch.device) -> None:
    """Refuse where a GPU's layers would not fit in this process's memory on their way."""
    needed = process_bytes() + sizes.layer_bytes + sizes.conversion_bytes + LEAST_WORK_BYTES
    if device.type != "cpu" and room.host_bytes is not None and needed > room.host_bytes:
        raise WorkerError(
            f"a layer on its way to the GPU needs {gigabytes(needed)} of this machine's memory, there is "
            f"{gigabytes(room.host_bytes)}; the smallest that will do is --memory-limit {-(-needed // 10**6)}"
        )


def _work_bytes(room: _Room, coming: int, device: torch.device) -> int | None:
    """Return what the executor may use, now that all is loaded but `coming` bytes of this process's memory."""
    if room.room_bytes is None:
        return None
    if device.type == "cpu":
        left = room.room_bytes - process_bytes() - coming
    else:
        left = room.room_bytes - int(torch.cuda.memory_allocated(device))
    return max(left - OVERHEAD_BYTES, LEAST_WORK_BYTES - OVERHEAD_BYTES)


def _dtype(options: EngineOptions, device: torch.device, config: Any, checkpoint: Checkpoint) -> torch.dtype:
    """Return the run's dtype; on a GPU `auto` is the config's, or the checkpoint's, as transformers has it."""
    if options.dtype != "auto":
        dtype: torch.dtype = getattr(torch, options.dtype)
        return dtype
    if device.type == "cpu":
        return torch.float32
    named = getattr(config, "dtype", None)
    if isinstance(named, torch.dtype):
        return named
    floats = (name for name, tensor in checkpoint.tensors.items() if tensor.is_float)
    return next((checkpoint.dtype_of(name) for name in floats), torch.float32)


def _device(options: EngineOptions, memory_mb: tuple[int, ...]) -> torch.device:
    available = torch.cuda.device_count()
    if options.device == "cuda" and available == 0:
        raise WorkerError(
            "device is cuda, but torch sees no CUDA device here; use --device cpu, or check the driver"
        )
    if len(memory_mb) > available:
        raise WorkerError(
            f"gpu-split names {len(memory_mb)} devices, but torch sees {available} here; name fewer, or leave it out"
        )
    return torch.device("cuda", 0) if available and options.device != "cpu" else torch.device("cpu")


def _placement(model: torch.nn.Module) -> str:
    mapping = getattr(model, "hf_device_map", None)
    if not mapping or len(set(mapping.values())) < 2:
        return str(next(parameter for parameter in model.parameters() if not parameter.is_meta).device)
    counts: dict[str, int] = {}
    for device in mapping.values():
        counts[str(device)] = counts.get(str(device), 0) + 1
    return ", ".join(f"{device}: {count} modules" for device, count in counts.items())


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__
