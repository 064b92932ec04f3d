"""What is inside a model: its list of decoder layers, and how a layer is called. Known here and nowhere else.

Nothing is assumed of a family. The list is found by watching one forward pass: the list of the right length whose
modules are called once each, in order. What the layers return is seen in the same pass, and whether they depend on
the residual stream alone.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.engine.independence import (
    CallAside,
    Visit,
    arguments_by_name,
    require_no_crossing_state,
    require_no_place,
)
from neuroscan_farm.errors import GateError, ModelError
from neuroscan_farm.planning.facts import DEPTH_NAMES

# Under which modules know their place, configs the depth, and the owner of the list where the layers end that have keys
# of their own: behind the last one.
_PLACE_NAMES = ("layer_idx", "layer_id", "layer_number", "layer_index")
_END_NAMES = ("first_kv_shared_layer_idx",)


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
        after: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
        return after

    def at_place(self, old: int, new: int) -> LayerCall:
        """Return the same call, telling the layer that its place is `new`."""
        positional = tuple(new if type(value) is int and value == old else value for value in self.positional)
        named = {
            name: new if type(value) is int and value == old else value for name, value in self.named.items()
        }
        return dataclasses.replace(self, positional=positional, named=named)

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
    returns: type[Any]  # what a layer returns: torch.Tensor, tuple or list
    extras: tuple[int, ...]  # of each layer, how many items follow the residual in what it returns

    @contextlib.contextmanager
    def intercepted(
        self, answer: Callable[[int, tuple[Any, ...], dict[str, Any]], torch.Tensor]
    ) -> Iterator[None]:
        """Let `answer(k, positional, named)` stand in for every layer k while the model's own forward runs."""
        before = [(layer, layer.__dict__.get("forward")) for layer in self.layers]

        def stand_in(k: int) -> Callable[..., Any]:
            def forward(*positional: Any, **named: Any) -> Any:
                residual = answer(k, positional, named)
                if self.returns is torch.Tensor:
                    return residual
                return self.returns((residual, *[None] * self.extras[k]))

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
        saved = [(config, dict(config.__dict__)) for config in _configs(self.model)]
        ends = [name for name in _END_NAMES if self.owner.__dict__.get(name) == depth]
        try:
            self.owner.__dict__.update(dict.fromkeys(ends, len(path)))
            for config, content in saved:
                for key, value in content.items():
                    if key in DEPTH_NAMES and value == depth:
                        config.__dict__[key] = len(path)
                    elif isinstance(value, list | tuple) and len(value) == depth:
                        config.__dict__[key] = type(value)(value[k] for k in path)
            renumbered = [_at_place(self.layers[k], k, place) for place, k in enumerate(path)]
            setattr(self.owner, self.attribute, nn.ModuleList(renumbered))
            with self._per_layer_inputs(path):
                yield self.model
        finally:
            setattr(self.owner, self.attribute, nn.ModuleList(self.layers))
            self.owner.__dict__.update(dict.fromkeys(ends, depth))
            for config, content in saved:
                config.__dict__.clear()
                config.__dict__.update(content)

    @contextlib.contextmanager
    def _per_layer_inputs(self, path: LayerPath) -> Iterator[None]:
        """Re-order what a model computes for all layers at once, layer beside layer, before it runs them."""
        depth = len(self.layers)
        width = getattr(self.owner, "hidden_size_per_layer_input", None) or 0

        def reorder(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
            return output.view(*output.shape[:-1], depth, width)[..., list(path), :].flatten(-2)

        handles = [
            part.register_forward_hook(reorder)
            for part in self.owner.children()
            if width
            and depth * width in (getattr(part, "embedding_dim", None), getattr(part, "out_features", None))
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _configs(model: nn.Module) -> list[Any]:
    configs = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}
    for config in list(configs.values()):
        text = getattr(config, "text_config", None)
        if text is not None:
            configs[id(text)] = text
    return list(configs.values())


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


def find_anatomy(model: nn.Module, token_ids: torch.Tensor, *, depth: int) -> Anatomy:
    """Find the decoder layers of `model` by watching one forward pass over `token_ids` [batch, tokens].

    Raises:
        ModelError: no list of `depth` layers is called once each in order; the family is not supported.
        GateError: there is such a list, but its layers depend on more than the residual stream.
    """
    candidates = [
        (owner, attribute, tuple(modules))
        for owner in model.modules()
        for attribute, modules in owner.named_children()
        if isinstance(modules, nn.ModuleList) and len(modules) == depth
    ]
    visits = _watch(model, {layer for _, _, layers in candidates for layer in layers}, token_ids)
    found = []
    for owner, attribute, layers in candidates:
        own = [visit for visit in visits if visit.layer in layers]
        returned = {visit.returned for visit in own}
        if [visit.layer for visit in own] != list(layers):
            missed = [
                str(k) for k, layer in enumerate(layers) if not any(visit.layer is layer for visit in own)
            ]
            found.append(
                f"{attribute}, of which {', '.join(missed)} are not called"
                if own and missed
                else f"{attribute}, called {len(own)} times"
            )
        elif len(returned) == 1 and returned <= {torch.Tensor, tuple, list}:
            extras = tuple(visit.extras for visit in own)
            anatomy = Anatomy(model, owner, attribute, layers, returns=returned.pop(), extras=extras)
            family = f"{type(model).__name__} ({stack_of(layers)})"
            require_no_crossing_state(family, own, _calls_aside(anatomy, token_ids))
            require_no_place(family, layers, _configs(model), place_names=_PLACE_NAMES)
            return anatomy
        else:
            found.append(f"{attribute}, returning {', '.join(sorted(kind.__name__ for kind in returned))}")
    raise ModelError(
        f"{type(model).__name__}: found no list of {depth} decoder layers that are called once each in order "
        f"(lists of that length: {'; '.join(found) or 'none'}); this family is not supported"
    )


def _watch(model: nn.Module, layers: set[nn.Module], token_ids: torch.Tensor) -> list[Visit]:
    """Run the model once and return the visits to any of `layers`."""
    visits: list[Visit] = []
    entered: dict[nn.Module, tuple[torch.Tensor, LayerCall, dict[str, list[Any]]]] = {}

    def enter(layer: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        residual, call = LayerCall.split(positional, named)
        entered[layer] = residual, call, arguments_by_name(layer, call.positional, call.named)

    def leave(layer: nn.Module, _: object, output: Any) -> None:
        residual, call, arguments = entered.pop(layer)
        several = isinstance(output, tuple | list)
        after, extras = (output[0], len(output) - 1) if several else (output, 0)
        visits.append(Visit(layer, residual, call, arguments, after, type(output), extras))

    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(leave) for layer in layers]
    try:
        attempt_forward(model, "its own forward", input_ids=token_ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return visits


def _calls_aside(anatomy: Anatomy, token_ids: torch.Tensor) -> list[CallAside]:
    """Run the model with its layers standing aside and return what each would be called with."""
    calls: list[CallAside] = []

    def keep(k: int, positional: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor:
        residual, call = LayerCall.split(positional, named)
        calls.append(CallAside(call, arguments_by_name(anatomy.layers[k], call.positional, call.named)))
        return residual

    with anatomy.intercepted(keep):
        tried = "its own forward, with its layers standing aside,"
        attempt_forward(anatomy.model, tried, input_ids=token_ids, use_cache=False)
    return calls


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
