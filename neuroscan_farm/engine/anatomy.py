"""What is inside a model: its list of decoder layers, and how a layer is called. Known here and nowhere else.

Nothing is assumed of a family. The list is found by watching one forward pass: the list of the right length whose
modules are called once each, in order. What the layers return is seen in the same pass.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.errors import GateError, ModelError

_PLACE_NAMES = (
    "layer_idx",
    "layer_id",
    "layer_number",
    "layer_index",
)  # under which modules know their place

# Options with which a layer computes constants from its place when it is made: a checkpoint made along another path
# would compute others, so what is measured would not be what is exported.
_PLACE_OPTIONS = ("scale_attn_by_inverse_layer_idx",)


@dataclass(frozen=True, slots=True)
class LayerCall:
    """The arguments with which the model calls one layer, less the residual stream."""

    positional: tuple[Any, ...]  # what follows the residual
    named: dict[str, Any]
    residual_name: str | None  # set where the residual itself is passed by name

    def __call__(self, layer: nn.Module, residual: torch.Tensor) -> torch.Tensor:
        """Run `layer` on `residual` [batch, tokens, hidden] with these arguments; return the new residual."""
        if self.residual_name is None:
            output = layer(residual, *self.positional, **self.named)
        else:
            output = layer(*self.positional, **{self.residual_name: residual}, **self.named)
        after: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return after

    @classmethod
    def split(cls, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[torch.Tensor, LayerCall]:
        """Separate the residual from the other arguments of a layer's call."""
        if positional:
            return positional[0], cls(positional[1:], dict(named), None)
        rest = dict(named)
        return rest.pop("hidden_states"), cls((), rest, "hidden_states")


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A model's decoder layers and what they return."""

    model: nn.Module
    owner: nn.Module  # the module that holds the list
    attribute: str  # the list's name in its owner
    layers: tuple[nn.Module, ...]
    returns_tuple: bool

    @contextlib.contextmanager
    def intercepted(
        self, answer: Callable[[int, tuple[Any, ...], dict[str, Any]], torch.Tensor]
    ) -> Iterator[None]:
        """Let `answer(k, positional, named)` stand in for every layer k while the model's own forward runs."""
        before = [(layer, layer.__dict__.get("forward")) for layer in self.layers]

        def stand_in(k: int) -> Callable[..., Any]:
            def forward(*positional: Any, **named: Any) -> Any:
                residual = answer(k, positional, named)
                return (residual,) if self.returns_tuple else residual

            return forward

        try:
            for k, layer in enumerate(self.layers):
                layer.forward = stand_in(k)
            yield
        finally:
            for layer, forward in before:
                if forward is None:
                    del layer.__dict__["forward"]
                else:
                    layer.__dict__["forward"] = forward

    @contextlib.contextmanager
    def rebuilt(self, path: LayerPath) -> Iterator[nn.Module]:
        """Give the model with its layer list physically rebuilt along `path`: the reference that the gate compares to.

        The config's depth and its per-layer lists are re-ordered alike, because several families slice or index
        them in their forward, and each layer is told its new place, as a checkpoint made along the path would tell
        it. Weights are shared; everything is put back.
        """
        depth = len(self.layers)
        saved = []
        configs = {id(m.config): m.config for m in self.model.modules() if hasattr(m, "config")}
        for config in list(configs.values()):
            text = getattr(config, "text_config", None)
            if text is not None:
                configs[id(text)] = text
        for config in configs.values():
            saved.append((config, dict(config.__dict__)))
        try:
            for config in configs.values():
                name = getattr(config, "attribute_map", {}).get("num_hidden_layers", "num_hidden_layers")
                for key, value in list(config.__dict__.items()):
                    if key == name and value == depth:
                        config.__dict__[key] = len(path)
                    elif isinstance(value, list | tuple) and len(value) == depth:
                        config.__dict__[key] = type(value)(value[k] for k in path)
            renumbered = [_at_place(self.layers[k], k, place) for place, k in enumerate(path)]
            setattr(self.owner, self.attribute, nn.ModuleList(renumbered))
            yield self.model
        finally:
            setattr(self.owner, self.attribute, nn.ModuleList(self.layers))
            for config, content in saved:
                config.__dict__.clear()
                config.__dict__.update(content)


def _at_place(module: nn.Module, old: int, new: int) -> nn.Module:
    """Return a shallow copy of a layer that believes to be the `new`-th; its weights are the same tensors."""
    twin = copy.copy(module)
    twin.__dict__ = dict(module.__dict__)
    twin._modules = {
        name: None if child is None else _at_place(child, old, new) for name, child in module._modules.items()
    }
    for name in _PLACE_NAMES:
        if twin.__dict__.get(name) == old:
            twin.__dict__[name] = new
    return twin


def place_options(model: nn.Module) -> list[str]:
    """Name the options of the model's config that make its layers depend on their place."""
    return [name for name in _PLACE_OPTIONS if getattr(model.config, name, False)]


def find_anatomy(model: nn.Module, token_ids: torch.Tensor, *, depth: int) -> Anatomy:
    """Find the decoder layers of `model` by watching one forward pass over `token_ids` [batch, tokens].

    Raises:
        ModelError: no list of `depth` layers is called once each in order; the family is not supported.
    """
    candidates = [
        (owner, attribute, tuple(modules))
        for owner in model.modules()
        for attribute, modules in owner.named_children()
        if isinstance(modules, nn.ModuleList) and len(modules) == depth
    ]
    calls: list[int] = []
    kinds: dict[int, type] = {}

    def watch(module: nn.Module, _: object, output: object) -> None:
        calls.append(id(module))
        kinds[id(module)] = type(output)

    watched = {id(layer): layer for _, _, layers in candidates for layer in layers}
    handles = [layer.register_forward_hook(watch) for layer in watched.values()]
    try:
        attempt_forward(model, "its own forward", input_ids=token_ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    for owner, attribute, layers in candidates:
        order = [id(layer) for layer in layers]
        members = set(order)
        if [call for call in calls if call in members] != order:
            continue
        seen = {kinds[call] for call in order}
        if seen == {torch.Tensor} or seen == {tuple}:
            return Anatomy(model, owner, attribute, layers, returns_tuple=seen == {tuple})
    raise ModelError(
        f"{type(model).__name__}: found no list of {depth} decoder layers that are called once each in order "
        f"(lists of that length: {', '.join(name for _, name, _ in candidates) or 'none'}); this family is not supported"
    )


@contextlib.contextmanager
def architecture_fact(model: nn.Module, tried: str) -> Iterator[None]:
    """What raises here says something about the architecture (or the memory), and another try would say it again.

    Raises:
        GateError: something raised; `tried` says what was tried.
    """
    try:
        yield
    except Exception as error:
        raise GateError(
            f"{type(model).__name__}: {tried} failed: {type(error).__name__}: {error}; this family is not supported"
        ) from error


def attempt_forward(model: nn.Module, tried: str, **arguments: Any) -> Any:
    """Run a forward pass whose failure would be an architecture fact.

    Raises:
        GateError: the pass raised; `tried` says what was tried.
    """
    with architecture_fact(model, tried), torch.inference_mode():
        return model(**arguments)


def stack_of(layers: Sequence[nn.Module]) -> str:
    """Name the layers' class, or classes, for messages."""
    return " and ".join(sorted({type(layer).__name__ for layer in layers}))
