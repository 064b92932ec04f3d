"""Loading a model and its tokenizer with transformers: safetensors only, every weight present, in evaluation mode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.errors import ModelError, WorkerError


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
    placement: str  # "cpu", "cuda:0", or layers per device where the model is split


def load(folder: Path, options: EngineOptions, *, memory_mb: tuple[int, ...] = ()) -> LoadedModel:
    """Load the model in `folder`.

    Args:
        folder: a folder in Hugging Face's form.
        options: dtype, device and attention implementation.
        memory_mb: most megabytes of weights on each visible device; more than one splits the model over them.

    Raises:
        ModelError: the weights are missing, damaged or incomplete, or the tokenizer cannot be loaded.
        WorkerError: the device asked for is not there.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    device = _device(options, memory_mb)
    dtype: Any = options.dtype
    if dtype == "auto":
        dtype = "float32" if device.type == "cpu" else "auto"
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model {folder}: no .safetensors file; pickled weights are not read because they can run code: "
            "convert them (load with transformers, then save_pretrained)"
        )
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
        model, info = AutoModelForCausalLM.from_pretrained(folder, **arguments)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, ImportError) as error:
        raise ModelError(f"model {folder}: cannot be loaded: {_in_one_line(error)}") from error
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise ModelError(
            f"model {folder}: {len(missing)} weights are missing, such as {missing[0]}; they would be random numbers. "
            "Fetch the model again"
        )
    if len(memory_mb) <= 1:
        _check_room(model, folder, memory_mb)
        model = model.to(device)
    model.eval().requires_grad_(False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(f"model {folder}: the tokenizer cannot be loaded: {_in_one_line(error)}") from error
    first = next(model.parameters())
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        device=device if len(memory_mb) <= 1 else first.device,
        device_name=torch.cuda.get_device_name(first.device) if first.device.type == "cuda" else "cpu",
        dtype=str(first.dtype).removeprefix("torch."),
        attention=str(getattr(model.config, "_attn_implementation", None) or "unknown"),
        folder=folder,
        placement=_placement(model),
    )


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


def _check_room(model: torch.nn.Module, folder: Path, memory_mb: tuple[int, ...]) -> None:
    needed = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if memory_mb and needed > memory_mb[0] * 1e6:
        raise WorkerError(
            f"model {folder}: its weights are {needed / 1e6:,.0f} MB, and gpu-split allows {memory_mb[0]:,} MB on one "
            f"device; split it over several, such as --gpu-split {memory_mb[0]},{memory_mb[0]}"
        )


def _placement(model: torch.nn.Module) -> str:
    mapping = getattr(model, "hf_device_map", None)
    if not mapping or len(set(mapping.values())) < 2:
        return str(next(model.parameters()).device)
    counts: dict[str, int] = {}
    for device in mapping.values():
        counts[str(device)] = counts.get(str(device), 0) + 1
    return ", ".join(f"{device}: {count} modules" for device, count in counts.items())


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__
