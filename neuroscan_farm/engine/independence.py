"""Whether layers depend on the residual stream alone, seen in one forward pass before anything is measured.

What reaches a layer beside the residual would make a replay false: state that layers hand to one another, what the
model does between two layers, and numbers that a layer was given because of its place or of the model's depth. A
family is refused by what it does, not by its name, and the message names the argument or the number.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from neuroscan_farm.errors import GateError

# Options by which each layer is scaled according to how many layers there are.
_DEPTH_OPTIONS = ("scale_depth",)

_ROUNDING = 8  # units in the last place, for devices that sum in varying order


class Call(Protocol):
    """The arguments of a layer's call, less the residual stream."""

    def __call__(self, layer: nn.Module, residual: torch.Tensor) -> torch.Tensor:
        """Run a layer with these arguments."""

    def at_place(self, old: int, new: int) -> Call:
        """Return the same call, telling the layer another place."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One call of one layer in the model's own forward pass."""

    layer: nn.Module
    before: torch.Tensor  # the residual that it was called with
    call: Call
    arguments: dict[str, list[Any]]  # of the call, by name, flat, with what they held at that moment
    after: Any  # the residual that it returned
    returned: type[Any]
    extras: int  # items that follow the residual in what it returned


@dataclass(frozen=True, slots=True)
class CallAside:
    """What a layer would be called with when all layers stand aside."""

    call: Call
    arguments: dict[str, list[Any]]


def arguments_by_name(
    layer: nn.Module, positional: Sequence[Any], named: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """Return what a layer is called with beside the residual, flat, as it is now: a dict may be filled later."""
    forward = type(layer).forward  # of the class: the layer itself may stand aside
    names = list(inspect.signature(forward).parameters)
    after = [*names[2 : 2 + len(positional)], *(f"argument {k + 1}" for k in range(len(positional)))]
    by_name = {**dict(zip(after, positional, strict=False)), **named}
    return {name: list(_leaves(value)) for name, value in by_name.items()}


def require_no_crossing_state(family: str, visits: Sequence[Visit], aside: Sequence[CallAside]) -> None:
    """Refuse a model whose layers are reached by more than the residual that the layer before them returned.

    Raises:
        GateError: the residual is changed between two layers; or a layer depends on an argument that is another when
            the layers stand aside, or that tells its place. The message names it.
    """
    for k, (visit, following) in enumerate(itertools.pairwise(visits)):
        if not _same(visit.after, following.before):
            raise GateError(
                f"{family}: the model changes the residual stream between its layers {k} and {k + 1}, and what lies "
                "between layers cannot be duplicated or skipped; not supported"
            )
    places = set(visits[0].arguments)  # the arguments that tell each layer its own place
    for k, visit in enumerate(visits):
        places &= {name for name, held in visit.arguments.items() if _same(held, [k])}
    for k, (visit, alone) in enumerate(zip(visits, aside, strict=True)):
        names = [
            name
            for name in visit.arguments.keys() | alone.arguments.keys()
            if not _same(visit.arguments.get(name), alone.arguments.get(name))
        ]
        if names and not _answers(alone.call, visit):
            raise GateError(
                f"{family}: layer {k} depends on `{', '.join(sorted(names))}`, which comes from the layers before it: "
                "state crosses its layers outside the residual stream; not supported"
            )
        saying = {name for name, held in visit.arguments.items() if _same(held, [k])}
        if k > 0 and saying and saying == places and not _answers(visit.call.at_place(k, k - 1), visit):
            raise _depends_on_place(family, sorted(places))


def require_no_place(
    family: str, layers: Sequence[nn.Module], configs: Sequence[Any], *, place_names: Sequence[str]
) -> None:
    """Refuse layers that hold numbers of their place: a checkpoint that is made along a path would hold others.

    Layers that are alike, and of which the config's lists say the same, must hold the same numbers.

    Raises:
        GateError: they do not, or they are scaled by the model's depth; the message names the numbers.
    """
    for config in configs:
        for option in _DEPTH_OPTIONS:
            if getattr(config, option, None) is not None:
                raise GateError(
                    f"{family}: its layers are scaled by how many there are ({option}), so a model that is rebuilt along "
                    "a path would not be what was measured; not supported"
                )
    told = list(_told_by(configs, len(layers)))
    alike: dict[str, list[int]] = {}
    for k, layer in enumerate(layers):
        parts = [(name, type(part).__qualname__) for name, part in layer.named_modules()]
        shapes = [(name, tuple(weight.shape)) for name, weight in layer.named_parameters()]
        alike.setdefault(repr((parts, shapes, [entry[k] for entry in told])), []).append(k)
    placed = set()
    for members in alike.values():
        numbers = [_numbers(layers[k], place_names) for k in members]
        for name in numbers[0]:
            values = [found.get(name) for found in numbers]
            if not _same(values, members) and not all(_same(value, values[0]) for value in values):
                placed.add(name.rpartition(".")[2])
    if placed:
        raise _depends_on_place(family, sorted(placed))


def _depends_on_place(family: str, names: Sequence[str]) -> GateError:
    return GateError(
        f"{family}: its layers depend on their own index ({', '.join(names)}), so a model that is rebuilt along a path "
        "would not be what was measured; not supported"
    )


def _answers(call: Call, visit: Visit) -> bool:
    """Whether a layer that is called otherwise returns what it returned in the model's own forward pass."""
    try:
        with torch.inference_mode():
            found = call(visit.layer, visit.before)
            allowed = _ROUNDING * torch.finfo(found.dtype).eps * visit.after.abs().max()
            return bool((found - visit.after).abs().max() <= allowed)
    except Exception:  # it cannot do without what is missing
        return False


def _told_by(configs: Sequence[Any], depth: int) -> Iterator[list[Any]]:
    """What the configs' lists say of each layer: entries of lists with one per layer, membership in lists of places."""
    for config in configs:
        for value in vars(config).values():
            if not isinstance(value, list | tuple | dict):
                continue
            if not isinstance(value, dict) and len(value) == depth:
                yield list(value)
            elif all(isinstance(place, int) for place in value):
                yield [
                    (value[k] if isinstance(value, dict) else True) if k in value else None
                    for k in range(depth)
                ]


def _numbers(layer: nn.Module, place_names: Sequence[str]) -> dict[str, Any]:
    """What a layer holds beside its weights: plain numbers, and tensors that no checkpoint carries."""
    found: dict[str, Any] = {}
    for prefix, part in layer.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, bool | int | float) and name not in place_names:
                found[f"{prefix}.{name}"] = value
        for name, buffer in part.named_buffers(recurse=False):
            if name in part._non_persistent_buffers_set:
                found[f"{prefix}.{name}"] = buffer
    return found


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, held in value.items():
            yield key
            yield from _leaves(held)
    elif isinstance(value, tuple | list):
        for held in value:
            yield from _leaves(held)
    elif value is None or isinstance(value, torch.Tensor | bool | int | float | str):
        yield value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one is other or one.is_meta or other.is_meta:
            return one.shape == other.shape
        return one.shape == other.shape and bool(torch.equal(one.to(other), other))
    return type(one) is type(other) and bool(one == other)
