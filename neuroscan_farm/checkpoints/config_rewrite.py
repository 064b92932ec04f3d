"""A model's config along a layer path: its depth, its lists with an entry for each layer, and its lists of places.

These are rules about names and lengths, and no proof: `engine.relayering` builds the layers that the new config
describes and compares each with the one that it was, before a checkpoint gets its name. What a config says by a rule of
numbers (every third layer attends, the first four are dense) is kept where the rule still tells the truth along the
path; where it does not, either a list says it, or the checkpoint is refused.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.facts import DEPTH_NAMES
from neuroscan_farm.planning.layer_lists import list_along

Config = dict[str, Any]

_DEPTHS = (*DEPTH_NAMES, "num_blocks", "decoder_layers", "num_decoder_layers")
# How many of the first layers are of one kind; the number of the last layer that is of one kind.
_FIRST = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "max_window_layers")
_LAST = ("moe_layer_end_index",)
_PREDICTING = "num_nextn_predict_layers"  # layers behind the last one; they are left out


def rewritten(config: Mapping[str, Any], path: LayerPath, *, depth: int) -> Config:
    """Return config.json along `path`, of a model of `depth` layers, its nested text config too.

    Raises:
        ModelError: the config names layers in a place where they cannot be renumbered.
    """
    new = copy.deepcopy(dict(config))
    steps = path.layers
    _refuse_numbered_quantization(new)
    for part in text_parts(new):
        _rewrite(part, steps, depth)
    return new


def text_parts(config: Config) -> list[Config]:
    """Return the parts of a config that speak of the decoder: the whole, and its text config where it has one."""
    nested = config.get("text_config")
    return [config, nested] if isinstance(nested, dict) else [config]


def _rewrite(part: Config, steps: Sequence[int], depth: int) -> None:
    for name, value in list(part.items()):
        if name in _DEPTHS and type(value) is int and value == depth:
            part[name] = len(steps)
        elif name == _PREDICTING and value:
            part[name] = 0
        elif name in _LAST and value == depth - 1:
            part[name] = len(steps) - 1
        elif name in _FIRST and type(value) is int:
            part[name] = _first_of_a_kind(value, steps, depth)
        elif name == "linear_attn_config" and isinstance(value, dict):
            _rewrite(value, steps, depth)
        elif name == "block_types" and isinstance(value, list) and value:  # repeated over the depth
            part[name] = [value[layer % len(value)] for layer in steps]
        elif name == "attention_types" and isinstance(value, list):
            part[name] = _attention_types(value, steps, depth)
        elif isinstance(value, list):
            along = list_along(name, value, steps, depth=depth)
            part[name] = value if along is None else along
        elif isinstance(value, dict) and value and "layer" in name and all(map(_is_number, value)):
            part[name] = {str(at): value[str(layer)] for at, layer in enumerate(steps) if str(layer) in value}


def _first_of_a_kind(count: int, steps: Sequence[int], depth: int) -> int:
    """Count the first layers that are of the first kind, where the path keeps them before all others; else keep."""
    first = [layer < count for layer in steps]
    if count >= depth:
        return max(count - depth + len(steps), len(steps))
    return sum(first) if first == sorted(first, reverse=True) else count


def _attention_types(value: list[Any], steps: Sequence[int], depth: int) -> list[Any]:
    """GPT-Neo's form: groups of kinds, and how often each group follows itself."""
    try:
        kinds = [kind for group, times in value for _ in range(times) for kind in group]
    except (TypeError, ValueError):
        return value
    return [[[kinds[layer] for layer in steps], 1]] if len(kinds) == depth else value


def _refuse_numbered_quantization(config: Config) -> None:
    """Refuse quantisation that names single layers: their names would be other layers'.

    Raises:
        ModelError: it does.
    """
    said = config.get("quantization_config")
    for name, value in said.items() if isinstance(said, dict) else ():
        listed = list(value) if isinstance(value, list | dict) else []
        numbered = [entry for entry in listed if isinstance(entry, str) and re.search(r"\.\d+(\.|$)", entry)]
        if numbered:
            raise ModelError(
                f"config.json: quantization_config.{name} names single layers ({numbered[0]}), which would mean others in "
                "another order; materialize the model before it is quantised, and quantise the result"
            )


def _is_number(key: object) -> bool:
    return isinstance(key, str) and key.isdecimal()
