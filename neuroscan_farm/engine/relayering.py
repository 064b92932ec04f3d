"""Proof, before a weight is loaded, that a re-layered checkpoint's config describes the layers that the path visits.

transformers builds both models without memory. Each layer of the new one must be the layer that the path visits there:
of the same modules, shapes and numbers, but for the numbers that are its place. What the configs say of each layer
must be re-ordered alike, and every weight of the new model must be in its files. What this cannot see (the arithmetic
of a forward pass that asks for a layer's place) the gate and `verify` do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.engine.weights.checkpoint import Checkpoint
from neuroscan_farm.engine.weights.layer_sources import sources_of
from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.facts import DEPTH_NAMES
from neuroscan_farm.planning.layer_lists import list_along

_PLACE_NAMES = frozenset({"layer_idx", "layer_id", "layer_number", "layer_index"})
_BUILDING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, ImportError, TypeError, AttributeError,
                    NotImplementedError, IndexError, AssertionError)  # fmt: skip


def lists_to_write(
    source: Path, target: Path, path: LayerPath, *, depth: int, trust_remote_code: bool
) -> dict[str, list[Any]]:
    """Return the lists that the new config must hold, because transformers would derive others from its numbers.

    Raises:
        ModelError: transformers refuses the new config.
    """
    old, new = (_config(folder, path, trust_remote_code) for folder in (source, target))
    found: dict[str, list[Any]] = {}
    steps = path.layers
    for before, after in _pairs(old, new):
        for name, value in vars(before).items():
            if not isinstance(value, list | tuple) or len(value) != depth:
                continue
            wanted = list_along(name, value, steps, depth=depth)
            held = getattr(after, name, None)
            if wanted is not None and (not isinstance(held, list | tuple) or list(held) != wanted):
                found[name] = wanted
    return found


def prove_relayered(
    source: Path, target: Path, path: LayerPath, *, depth: int, trust_remote_code: bool
) -> None:
    """Prove that the checkpoint in `target` describes the model of `source` along `path`.

    Raises:
        ModelError: it does not, or it cannot be told; the message names what differs.
    """
    differing = lists_to_write(source, target, path, depth=depth, trust_remote_code=trust_remote_code)
    if differing:
        name, wanted = next(iter(differing.items()))
        raise _no_checkpoint(
            path, f"{name} would have to be {_cut(wanted)}, and this family's config cannot say that"
        )
    configs = [_config(folder, path, trust_remote_code) for folder in (source, target)]
    quantized = getattr(configs[0], "quantization_config", None) is not None
    old, new = (_skeleton(config, path, trust_remote_code) for config in configs)
    lists = [
        (list(modules), list(new.get_submodule(name).children()))
        for name, modules in old.named_modules()
        if isinstance(modules, nn.ModuleList) and len(modules) == depth and _length_at(new, name) == len(path)
    ]
    if not lists:
        raise _no_checkpoint(
            path, f"the model that the new config describes has no list of {len(path)} layers"
        )
    # Where the path is as long as the model, towers beside the decoder may have that length too.
    before, after = max(lists, key=lambda pair: _weights(pair[0]))
    reason = _first_difference(before, after, path.layers)
    if reason is not None:
        raise _no_checkpoint(path, reason)
    if not quantized:
        _require_all_weights(new, target, path)


def _first_difference(
    before: Sequence[nn.Module], after: Sequence[nn.Module], steps: Sequence[int]
) -> str | None:
    numbers = [(_said(before[layer]), _said(after[place])) for place, layer in enumerate(steps)]
    # What is the layer's own place everywhere, under whatever name, is no difference.
    places = {
        name
        for name in numbers[0][0]
        if all(
            old.get(name) == layer and new.get(name) == place and type(old.get(name)) is int
            for place, (layer, (old, new)) in enumerate(zip(steps, numbers, strict=True))
        )
    }
    for place, (layer, (old, new)) in enumerate(zip(steps, numbers, strict=True)):
        one, other = before[layer], after[place]
        what = f"the layer at place {place} should be layer {layer} and is not: "
        if _modules(one) != _modules(other):
            return what + "the new config makes it of other modules"
        if _shapes(one) != _shapes(other):
            return what + "the new config gives it weights of other shapes"
        for name in old.keys() | new.keys():
            own_name = name.rpartition(".")[2]
            if own_name in _PLACE_NAMES or own_name in DEPTH_NAMES or name in places:
                continue
            if not _same(old.get(name), new.get(name)):
                return (
                    what
                    + f"its {own_name} is {_cut(old.get(name))} in the model and {_cut(new.get(name))} in the new one"
                )
    return None


def _require_all_weights(model: nn.Module, target: Path, path: LayerPath) -> None:
    checkpoint = Checkpoint(target)
    known: Mapping[str, torch.Tensor] = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    there: set[int] = set()
    for sources in sources_of(model, checkpoint):
        sources.resolve(known, checkpoint, model)
        there |= {id(known[name]) for name in sources.targets}
    missing = [name for name, weight in model.named_parameters() if id(weight) not in there]
    if missing:
        raise _no_checkpoint(
            path,
            f"{len(missing)} weights of the new model would be in no file, such as {missing[0]}; layers may share them",
        )


def _config(folder: Path, path: LayerPath, trust_remote_code: bool) -> Any:
    transformers_logging.set_verbosity_error()
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # a config's own checks raise what they like
        raise _no_checkpoint(path, f"transformers refuses its config ({_in_one_line(error)})") from error


def _skeleton(config: Any, path: LayerPath, trust_remote_code: bool) -> nn.Module:
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        model.tie_weights()
    except _BUILDING_ERRORS as error:
        raise _no_checkpoint(path, f"transformers cannot build its model ({_in_one_line(error)})") from error
    skeleton: nn.Module = model
    return skeleton


def _pairs(old: Any, new: Any) -> list[tuple[Any, Any]]:
    texts = (old.get_text_config(), new.get_text_config())
    return [(old, new)] if texts[0] is old else [(old, new), texts]


def _length_at(model: nn.Module, name: str) -> int | None:
    try:
        found = model.get_submodule(name)
    except AttributeError:
        return None
    return len(found) if isinstance(found, nn.ModuleList) else None


def _modules(layer: nn.Module) -> list[tuple[str, str]]:
    return [(name, type(part).__qualname__) for name, part in layer.named_modules()]


def _shapes(layer: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(weight.shape)) for name, weight in layer.named_parameters()]


def _weights(layers: Sequence[nn.Module]) -> int:
    return sum(weight.numel() for layer in layers for weight in layer.parameters())


def _said(layer: nn.Module) -> dict[str, Any]:
    """What a layer holds beside weights: plain numbers and words, and the shapes of tensors that no file carries."""
    found: dict[str, Any] = {}
    for prefix, part in layer.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, bool | int | float | str) or value is None:
                found[f"{prefix}.{name}"] = value
        for name, buffer in part.named_buffers(recurse=False):
            found[f"{prefix}.{name}"] = tuple(buffer.shape)
    return found


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other or (one != one and other != other))


def _no_checkpoint(path: LayerPath, why: str) -> ModelError:
    return ModelError(
        f"path {path} cannot be a checkpoint of this family: {why}. This program can run and score it all the same; choose "
        "another path to have a checkpoint"
    )


def _in_one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
