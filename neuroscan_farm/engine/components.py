"""The two components of each layer, attention and mlp, and how one of them is silenced. Known here and nowhere else.

A component is what adds to the residual stream. It is found among a layer's own parts by name, and silenced by letting
it add nothing: it puts out zeros, or, where it adds the residual itself (as BLOOM's do), the residual as it came. That
this is so is not taken on trust: `Components.prove` shows on real prompts that every layer returns its input when both
are silent, and the gate compares paths with silent components to the model's own forward.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from neuroscan_farm.domain.paths import Component
from neuroscan_farm.engine.anatomy import Anatomy, attempt_forward, stack_of
from neuroscan_farm.engine.replay import prepare
from neuroscan_farm.errors import GateError

_WORDS = {
    Component.ATTENTION: ("attn", "attention"),
    Component.MLP: ("mlp", "feed_forward", "ffn", "moe"),
}
_BARE_MLP = ("fc1", "fc2")  # linear modules of the layer itself; the second one puts out what is added
_ROUNDING = 8  # units in the last place, of the largest number


@dataclass(frozen=True, slots=True)
class _Part:
    """A module of a component, and what it returns."""

    module: nn.Module
    returns: type[Any]  # torch.Tensor, tuple or list
    extras: int  # items that follow the tensor
    width: int  # of the tensor

    def silent(self, positional: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Return what the module puts out for this call when it adds nothing."""
        return self.of(_silence(self.module, positional, named, self.width))

    def of(self, tensor: torch.Tensor) -> Any:
        """Give a tensor the form of what the module returns."""
        return tensor if self.returns is torch.Tensor else self.returns((tensor, *[None] * self.extras))


class Components:
    """The components of every layer of a model."""

    def __init__(self, anatomy: Anatomy, parts: Sequence[Mapping[Component, Sequence[_Part]]]) -> None:
        self._anatomy = anatomy
        self._parts = tuple(parts)

    @contextlib.contextmanager
    def silenced(self, k: int, *components: Component) -> Iterator[None]:
        """Let components of layer k add nothing, without running them."""
        parts = [part for component in components for part in self._parts[k][component]]
        before = [(part.module, part.module.__dict__.get("forward")) for part in parts]

        def stand_in(part: _Part) -> Callable[..., Any]:
            return lambda *positional, **named: part.silent(positional, named)

        try:
            for part in parts:
                part.module.forward = stand_in(part)
            yield
        finally:
            for module, forward in before:
                if forward is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = forward

    @contextlib.contextmanager
    def silenced_after_all(self, k: int, component: Component) -> Iterator[None]:
        """Let a component of layer k run, and put what it returned aside: the reference that the gate compares to."""

        def put_aside(
            module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any], output: Any
        ) -> Any:
            first = output[0] if isinstance(output, tuple | list) else output
            passed = _residual_among(module, positional, named)
            silent = torch.zeros_like(first) if passed is None else passed
            return type(output)((silent, *output[1:])) if isinstance(output, tuple | list) else silent

        handles = [
            part.module.register_forward_hook(put_aside, with_kwargs=True)
            for part in self._parts[k][component]
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def prove(self, token_ids: torch.Tensor, *, ensure: Callable[[int], None] = lambda k: None) -> None:
        """Show that every layer returns its input when both components are silent.

        Args:
            token_ids: real prompts of equal length, [samples, tokens].
            ensure: called with each layer's number before it runs, in order: where weights come and go.

        Raises:
            GateError: a layer does not; it adds something that neither component is, or scales the residual.
        """
        residual, calls = prepare(self._anatomy, token_ids)
        for k, (layer, call) in enumerate(zip(self._anatomy.layers, calls, strict=True)):
            ensure(k)
            with torch.inference_mode():
                try:
                    with self.silenced(k, *Component):
                        alone = call(layer, residual).to(residual.device)
                except Exception as error:
                    raise _refusal(
                        self._anatomy, f"layer {k} fails without them: {type(error).__name__}: {error}"
                    ) from error
                allowed = _ROUNDING * torch.finfo(residual.dtype).eps * residual.abs().max()
                if alone.shape != residual.shape or not (alone - residual).abs().max() <= allowed:
                    raise _refusal(
                        self._anatomy,
                        f"with both silent, layer {k} does not return its input: it adds or scales something else",
                    )
                residual = call(layer, residual)


def find_components(anatomy: Anatomy, token_ids: torch.Tensor) -> Components:
    """Find the components of every layer by their names, and watch what they return for `token_ids` [samples, tokens].

    Raises:
        GateError: a layer has no attention or no mlp of a known name, or does not call it once.
    """
    modules = [_modules_of(anatomy, k, layer) for k, layer in enumerate(anatomy.layers)]
    seen: dict[nn.Module, list[Any]] = {}

    def keep(module: nn.Module, _: object, output: Any) -> None:
        seen.setdefault(module, []).append(output)

    handles = [
        module.register_forward_hook(keep)
        for of_layer in modules
        for part in of_layer.values()
        for module in part
    ]
    try:
        attempt_forward(anatomy.model, "its own forward", input_ids=token_ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return Components(
        anatomy,
        [
            {
                component: tuple(_part(anatomy, k, module, seen.get(module, [])) for module in part)
                for component, part in of_layer.items()
            }
            for k, of_layer in enumerate(modules)
        ],
    )


def _modules_of(anatomy: Anatomy, k: int, layer: nn.Module) -> dict[Component, list[nn.Module]]:
    children = {
        name: child
        for name, child in layer.named_children()
        if "norm" not in f"{name} {type(child).__name__}".lower()
        and next(child.parameters(), None) is not None  # dropouts
    }
    found = {
        component: [child for name, child in children.items() if any(word in name.lower() for word in words)]
        for component, words in _WORDS.items()
    }
    if not found[Component.MLP] and all(name in children for name in _BARE_MLP):
        found[Component.MLP] = [children[_BARE_MLP[-1]]]
    missing = [component.value for component, part in found.items() if not part]
    if missing:
        raise _refusal(
            anatomy,
            f"layer {k} has no {' and no '.join(missing)} of a known name (its parts are {', '.join(children)})",
        )
    return found


def _part(anatomy: Anatomy, k: int, module: nn.Module, outputs: Sequence[Any]) -> _Part:
    if len(outputs) != 1:
        raise _refusal(
            anatomy, f"layer {k} calls its {type(module).__name__} {len(outputs)} times in a forward pass"
        )
    (output,) = outputs
    several = type(output) in (tuple, list)
    first = output[0] if several and output else output
    if not isinstance(first, torch.Tensor):
        raise _refusal(anatomy, f"{type(module).__name__} of layer {k} returns {type(output).__name__}")
    return _Part(
        module, type(output) if several else torch.Tensor, len(output) - 1 if several else 0, first.shape[-1]
    )


def _silence(
    module: nn.Module, positional: Sequence[Any], named: Mapping[str, Any], width: int
) -> torch.Tensor:
    passed = _residual_among(module, positional, named)
    if passed is not None:
        return passed
    x = next(value for value in (*positional, *named.values()) if isinstance(value, torch.Tensor))
    return x.new_zeros((*x.shape[:-1], width))


def _residual_among(
    module: nn.Module, positional: Sequence[Any], named: Mapping[str, Any]
) -> torch.Tensor | None:
    """Return the residual that a module is called with to add it itself, where it is."""
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    arguments = {**dict(zip(names, positional, strict=False)), **named}
    residual = arguments.get("residual")
    return residual if isinstance(residual, torch.Tensor) else None


def _refusal(anatomy: Anatomy, why: str) -> GateError:
    return GateError(
        f"{type(anatomy.model).__name__} ({stack_of(anatomy.layers)}): its attention and mlp cannot be run on their own: "
        f"{why}; leave out whole layers (--component layer)"
    )
