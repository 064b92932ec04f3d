"""Loading a model without holding anything twice: weights are read into their place, a streamed layer's later.

transformers builds the model as it always does; only the tensors that it is given are ours. They read themselves from
the files when transformers asks for them, and those of streamed layers are shapes without memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from neuroscan_farm.engine.weights.checkpoint import Checkpoint
from neuroscan_farm.engine.weights.layer_sources import Sources, sources_of
from neuroscan_farm.engine.weights.streaming import StreamedLayer, StreamedLayers, laid_out
from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.memory import ModelSizes

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A model without weights, and which of them can be streamed."""

    model: nn.Module  # all of it on the meta device
    config: Any
    checkpoint: Checkpoint
    dtype: torch.dtype
    arguments: Mapping[str, Any]  # of AutoModelForCausalLM
    lists: tuple[tuple[str, ...], ...]  # the layers' names, list by list
    streamed: Mapping[str, str]  # the layer of each weight that can be streamed
    sources: tuple[Sources, ...]  # what these weights are made of
    sizes: ModelSizes


class _Unread:
    """A tensor of the checkpoint in the form in which transformers takes slices: it is read when it is asked for."""

    def __init__(self, checkpoint: Checkpoint, name: str, device: torch.device | None) -> None:
        self._checkpoint = checkpoint
        self._name = name
        self._device = device  # None leaves the tensor without memory

    def __getitem__(self, _: object) -> _Unread:
        return self

    def to(self, device: object = None, dtype: torch.dtype | None = None) -> torch.Tensor:
        del device  # transformers would have everything on the CPU first
        wanted = dtype if dtype is not None else self._checkpoint.dtype_of(self._name)
        if self._device is None:
            return torch.empty(self._checkpoint.tensors[self._name].shape, dtype=wanted, device="meta")
        return self._checkpoint.read(self._name, wanted).to(self._device)


def build_skeleton(
    config: Any, checkpoint: Checkpoint, *, dtype: torch.dtype, arguments: Mapping[str, Any]
) -> Skeleton:
    """Build the model of `config` without memory, and find what can be streamed.

    Raises:
        ModelError: its layers, or what they are loaded from, cannot be told for certain.
    """
    folder = checkpoint.folder
    if getattr(config, "quantization_config", None):
        raise ModelError(
            f"model {folder}: quantized checkpoints cannot be streamed, because loading changes their layers; take the "
            "unquantized model, or a machine with more memory"
        )
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, **arguments)
    model.tie_weights()
    lists = _layer_lists(model, depth=int(getattr(config.get_text_config(), "num_hidden_layers", 0)))
    layer_of = {name: layer for layers in lists for layer in layers for name in _weights_below(model, layer)}
    weights = dict(model.named_parameters(remove_duplicate=False))
    owners: dict[int, set[str | None]] = {}
    for name, weight in weights.items():
        owners.setdefault(id(weight), set()).add(layer_of.get(name))
    # What several layers share, or a layer shares with the rest, stays in memory.
    alone = {name for name, weight in weights.items() if len(owners[id(weight)]) == 1 and name in layer_of}
    known = weights | dict(model.named_buffers(remove_duplicate=False))
    sources = [candidate for candidate in sources_of(model, checkpoint) if candidate.first_target in layer_of]
    for candidate in sources:
        candidate.resolve(known, checkpoint, model)
    sources = [candidate for candidate in sources if alone.issuperset(candidate.targets)]
    made = {target for candidate in sources for target in candidate.targets}
    shared = {id(weights[name]) for name in made}  # one weight under two names of its layer is loaded once
    streamed = {name: layer for name, layer in layer_of.items() if id(weights[name]) in shared}
    return Skeleton(
        model,
        config,
        checkpoint,
        dtype,
        arguments,
        lists,
        streamed,
        tuple(sources),
        _sizes(weights, streamed, sources, checkpoint),
    )


def load_resident(skeleton: Skeleton, device: torch.device) -> nn.Module:
    """Load all weights.

    Raises:
        ModelError: weights are missing or cannot be read.
    """
    model: nn.Module = _load(skeleton, device, leave=frozenset())
    return model.to(device)


def load_streamed(skeleton: Skeleton, device: torch.device) -> tuple[nn.Module, StreamedLayers]:
    """Load everything but the layers' weights; return the model and what brings the layers.

    Raises:
        ModelError: a weight that should come later is not where it was expected.
    """
    leave = frozenset(name for sources in skeleton.sources for name, _ in sources.pieces)
    model = _load(skeleton, device, leave=leave)
    weights = dict(model.named_parameters(remove_duplicate=False))
    absent = {name for name, weight in weights.items() if weight.is_meta}
    if absent != set(skeleton.streamed):
        odd = sorted(absent ^ set(skeleton.streamed))
        raise ModelError(
            f"model {skeleton.checkpoint.folder}: {len(odd)} weights, such as {odd[0]}, are not loaded as expected, so its "
            "layers cannot be streamed; run without --stream on a machine with more memory"
        )
    model._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))
    lists = [
        [layer for name in names if (layer := _streamed_layer(model, name, skeleton)).weights]
        for names in skeleton.lists
    ]
    return model, StreamedLayers(model, lists, skeleton.checkpoint, device=device)


def check_complete(report: Mapping[str, Any], folder: Path) -> None:
    """Refuse a model with weights that transformers did not find.

    Raises:
        ModelError: some are missing.
    """
    missing = sorted(report.get("missing_keys") or ())
    if missing:
        raise ModelError(
            f"model {folder}: {len(missing)} weights are missing, such as {missing[0]}; they would be random numbers. "
            "Fetch the model again"
        )


def _load(skeleton: Skeleton, device: torch.device, *, leave: frozenset[str]) -> Any:
    tensors = {
        name: _Unread(skeleton.checkpoint, name, None if name in leave else device)
        for name in skeleton.checkpoint.tensors
    }
    model_class: Any = type(skeleton.model)
    arguments = {name: value for name, value in skeleton.arguments.items() if name != "trust_remote_code"}
    model, report = model_class.from_pretrained(
        None,
        config=skeleton.config,
        state_dict=tensors,
        dtype=skeleton.dtype,
        output_loading_info=True,
        **arguments,
    )
    check_complete(report, skeleton.checkpoint.folder)
    return model


def _layer_lists(model: nn.Module, *, depth: int) -> tuple[tuple[str, ...], ...]:
    """Return the names of the modules in each list of `depth` modules that is not inside a layer itself."""
    found: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) != depth:
            continue
        if not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    if not found:
        raise ModelError(
            f"{type(model).__name__}: found no list of {depth} decoder layers, so they cannot be streamed; run without "
            "--stream on a machine with more memory"
        )
    return tuple(tuple(f"{name}.{k}" for k in range(depth)) for name in found)


def _weights_below(model: nn.Module, layer: str) -> list[str]:
    module = model.get_submodule(layer)
    return [f"{layer}.{name}" for name, _ in module.named_parameters(remove_duplicate=False)]


def _sizes(
    weights: Weights, streamed: Mapping[str, str], sources: Sequence[Sources], checkpoint: Checkpoint
) -> ModelSizes:
    layers: dict[str, int] = {}
    seen: set[int] = set()
    rest = 0
    for name, weight in weights.items():
        if id(weight) in seen:
            continue
        seen.add(id(weight))
        size = weight.numel() * weight.element_size()
        if name in streamed:
            layers[streamed[name]] = layers.get(streamed[name], 0) + size
        else:
            rest += size
    return ModelSizes(
        layers=len(layers),
        layer_bytes=max(layers.values(), default=0),
        layers_bytes=sum(layers.values()),
        rest_bytes=rest,
        conversion_bytes=max((candidate.needs_room(weights, checkpoint) for candidate in sources), default=0),
    )


def _streamed_layer(model: nn.Module, layer: str, skeleton: Skeleton) -> StreamedLayer:
    """Gather a layer's absent weights, each once, and where they belong."""
    module = model.get_submodule(layer)
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    named: dict[int, tuple[str, nn.Parameter]] = {}
    targets = {target for sources in skeleton.sources for target in sources.targets}
    for inner, owner in module.named_modules(remove_duplicate=False):
        for attribute, weight in owner._parameters.items():
            if weight is None or not weight.is_meta:
                continue
            name = ".".join(part for part in (layer, inner, attribute) if part)
            places.setdefault(id(weight), []).append((owner, attribute))
            if name in targets:
                named.setdefault(id(weight), (name, weight))
    sources = [
        s for s in skeleton.sources if any(target in {n for n, _ in named.values()} for target in s.targets)
    ]
    return laid_out(
        module, [(name, weight, tuple(places[key])) for key, (name, weight) in named.items()], sources
    )
