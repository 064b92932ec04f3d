"""What a layer of the fused lane is called with beside the residual: masks and rotary inputs, as the model made them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuroscan_farm.engine.anatomy import Anatomy, LayerCall
from neuroscan_farm.engine.lanes.layer_shapes import Unrecognised

# Arguments of a layer's call that change nothing without a cache.
_IDLE_ARGUMENTS = {"position_ids", "cache_position", "use_cache"}


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a layer is called with, beside the residual."""

    cos: torch.Tensor | None  # [1 or samples, tokens, rotary width]
    sin: torch.Tensor | None
    mask: torch.Tensor | None  # [1 or samples, 1, tokens, tokens]


def read_arguments(anatomy: Anatomy, calls: Sequence[LayerCall]) -> list[Arguments]:
    """Read what the model calls its layers with.

    Raises:
        Unrecognised: an argument is not understood.
    """
    shared: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # what came, and the same without equal samples
    return [
        _read(k, _by_name(layer, call), shared)
        for k, (layer, call) in enumerate(zip(anatomy.layers, calls, strict=True))
    ]


def _by_name(layer: torch.nn.Module, call: LayerCall) -> dict[str, Any]:
    names = list(inspect.signature(type(layer).forward).parameters)[2:]  # after self and the residual
    if len(call.positional) > len(names):
        raise Unrecognised("more arguments than it names")
    return {**dict(zip(names, call.positional, strict=False)), **call.named}


def _read(k: int, named: dict[str, Any], shared: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> Arguments:
    cos = sin = mask = None
    for name, value in named.items():
        if value is None or value is False or name in _IDLE_ARGUMENTS:
            continue
        if name == "position_embeddings" and isinstance(value, tuple) and len(value) == 2:
            cos, sin = (_without_equal_samples(table, shared) for table in value)
        elif name == "attention_mask" and isinstance(value, torch.Tensor) and value.dim() == 4:
            mask = _without_equal_samples(value, shared)
        else:
            raise Unrecognised(f"layer {k} is called with {name}")
    if cos is not None and sin is not None and (cos.dim() != 3 or cos.shape != sin.shape):
        raise Unrecognised(f"layer {k} is called with rotary inputs of shape {tuple(cos.shape)}")
    return Arguments(cos, sin, mask)


def _without_equal_samples(
    table: torch.Tensor, shared: dict[int, tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """Keep one sample's part of a table that is the same for all; what layers share stays one tensor."""
    if id(table) not in shared:
        same = len(table) > 1 and bool((table == table[:1]).all())
        shared[id(table)] = table, table[:1] if same else table
    return shared[id(table)][1]


def by_position(arguments: Sequence[Sequence[Arguments]]) -> bool:
    """Whether masks and rotary inputs are the same for every sample of a batch."""
    tables = {
        id(table): table
        for of_batch in arguments
        for one in of_batch
        for table in (one.cos, one.sin, one.mask)
        if table is not None
    }
    return all(len(table) == 1 for table in tables.values())


def agree(arguments: Sequence[Sequence[Arguments]], prefix: int) -> bool:
    """Whether batches of different lengths treat the first `prefix` tokens alike."""

    def beginnings(one: Arguments) -> list[torch.Tensor | None]:
        rotary = [None if table is None else table[:, :prefix] for table in (one.cos, one.sin)]
        return [*rotary, None if one.mask is None else one.mask[..., :prefix, :prefix]]

    first, *others = arguments
    return all(
        (mine is None) == (theirs is None) and (mine is None or theirs is None or torch.equal(mine, theirs))
        for other in others
        for one, two in zip(first, other, strict=True)
        for mine, theirs in zip(beginnings(one), beginnings(two), strict=True)
    )


def half_of(arguments: Sequence[Arguments], half: int, middle: int) -> list[Arguments]:
    """Return the arguments of the first (0) or of the second (1) half of the samples."""
    done: dict[int, torch.Tensor] = {}

    def part(table: torch.Tensor | None) -> torch.Tensor | None:
        if table is None or len(table) == 1:
            return table
        return done.setdefault(id(table), table[middle:] if half else table[:middle])

    return [Arguments(part(one.cos), part(one.sin), part(one.mask)) for one in arguments]
