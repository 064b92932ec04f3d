"""The general lane: the model's own layer modules, called with the arguments that the model itself computed for them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from neuroscan_farm.domain.paths import Component
from neuroscan_farm.engine.anatomy import Anatomy, LayerCall
from neuroscan_farm.engine.components import Components
from neuroscan_farm.engine.lanes.aligned import Aligned
from neuroscan_farm.engine.lanes.lane import Inputs
from neuroscan_farm.engine.lanes.products import quick_linears
from neuroscan_farm.engine.replay import prepare


@dataclass(slots=True)
class GeneralInputs:
    """A batch, and the arguments with which the model calls each layer on it."""

    prompts: tuple[torch.Tensor, ...]  # one batch, [samples, tokens]
    embedded: torch.Tensor  # the residual before layer 0, [samples, tokens, hidden]
    calls: dict[int, Sequence[LayerCall]] = field(default_factory=dict)  # by copies

    @property
    def token_ids(self) -> torch.Tensor:
        """The batch, [samples, tokens]."""
        return self.prompts[0]


class GeneralLane:
    """Runs the model's own layer modules, with the arguments that the model itself computed for them."""

    name = "general"
    mixes_lengths = False

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        # By the prompts' shape, which arguments grow with the batch; see `_learn_growth`.
        self._growth: dict[torch.Size, list[list[int | None]] | None] = {}
        self.components: Components | None = None
        self._mixes_rows = any(_mixes_rows(layer) for layer in anatomy.layers)

    def inputs(self, *prompts: torch.Tensor) -> GeneralInputs:
        """See `Lane.inputs`; one batch at a time."""
        (token_ids,) = prompts
        embedded, calls = prepare(self._anatomy, token_ids)
        return GeneralInputs(prompts, embedded, {1: calls})

    def stackable(self, inputs: Inputs) -> bool:
        """See `Lane.stackable`: experts see as many rows as the router sends them, and few rows round differently."""
        return not self._mixes_rows and self._is_ordinary(inputs)

    def run(
        self, inputs: Inputs, k: int, stack: torch.Tensor, copies: int, only: Component | None = None
    ) -> torch.Tensor:
        """See `Lane.run`."""
        assert isinstance(inputs, GeneralInputs)
        call, layer = self._calls(inputs, copies)[k], self._anatomy.layers[k]
        quick_linears([layer])  # here alone: what the gate compares to runs the model's own products
        try:
            with torch.inference_mode(), Aligned(), self._only(k, only):
                return call(layer, stack)
        finally:
            quick_linears([layer], quick=False)

    def run_last(
        self, inputs: Inputs, k: int, stack: torch.Tensor, copies: int, only: Component | None = None
    ) -> torch.Tensor:
        """See `Lane.run_last`."""
        return self.end(inputs, self.run(inputs, k, stack, copies, only))

    def end(self, inputs: Inputs, unit: torch.Tensor) -> torch.Tensor:
        """See `Lane.end`; a residual that is not [samples, tokens, hidden] is handed to the head whole."""
        return unit[:, -1:] if self._is_ordinary(inputs) else unit

    def halves(self, inputs: Inputs) -> tuple[Inputs, Inputs]:
        """See `Lane.halves`."""
        (token_ids,) = inputs.prompts
        middle = len(token_ids) // 2
        return self.inputs(token_ids[:middle]), self.inputs(token_ids[middle:])

    def split(self, inputs: Inputs, unit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Lane.split`."""
        middle = len(inputs.prompts[0]) // 2
        return unit[:middle], unit[middle:]

    def join(self, inputs: Inputs, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """See `Lane.join`."""
        return torch.cat([first, second])

    def _only(self, k: int, only: Component | None) -> contextlib.AbstractContextManager[None]:
        if only is None:
            return contextlib.nullcontext()
        assert self.components is not None, "components are proven before a step names one"
        return self.components.silenced(k, only.other)

    def _is_ordinary(self, inputs: Inputs) -> bool:
        return inputs.embedded.dim() == 3 and inputs.embedded.shape[:2] == inputs.prompts[0].shape

    def _calls(self, inputs: GeneralInputs, copies: int) -> Sequence[LayerCall]:
        if copies not in inputs.calls:
            inputs.calls[copies] = self._stacked_calls(inputs, copies)
        return inputs.calls[copies]

    def _stacked_calls(self, inputs: GeneralInputs, copies: int) -> Sequence[LayerCall]:
        """Return the calls of a batch that is repeated: by repeating the arguments, or by asking the model again."""
        single, shape = inputs.calls[1], inputs.token_ids.shape
        if shape not in self._growth:
            _, double = prepare(self._anatomy, inputs.token_ids.repeat(2, 1))
            self._growth[shape] = _learn_growth(single, double)
        growth = self._growth[shape]
        if growth is None:
            return prepare(self._anatomy, inputs.token_ids.repeat(copies, 1))[1]
        done: dict[tuple[int, int], torch.Tensor] = {}  # layers share most of their arguments
        return [_repeated(call, copies, dims, done) for call, dims in zip(single, growth, strict=True)]


def _mixes_rows(layer: torch.nn.Module) -> bool:
    """Whether a layer routes tokens to experts, so that the shapes inside depend on the other rows of the stack."""
    words = ("expert", "router", "moe")
    return any(
        word in text.lower()
        for name, module in layer.named_modules()
        for text in (name.rpartition(".")[2], type(module).__name__)
        for word in words
    )


def _learn_growth(single: Sequence[LayerCall], double: Sequence[LayerCall]) -> list[list[int | None]] | None:
    """Say of each tensor among each layer's arguments which dimension grows with the batch, if one does.

    Returns None where arguments differ in another way than by repetition; then only the model itself can make them.
    """
    growth: list[list[int | None]] = []
    for one, two in zip(single, double, strict=True):
        leaves, structure = pytree.tree_flatten((one.positional, one.named))
        others, other_structure = pytree.tree_flatten((two.positional, two.named))
        if structure != other_structure:
            return None
        dims: list[int | None] = []
        for leaf, other in zip(leaves, others, strict=True):
            if not isinstance(leaf, torch.Tensor) or not isinstance(other, torch.Tensor):
                if isinstance(leaf, torch.Tensor) or not _same_plain(leaf, other):
                    return None
                dims.append(None)
                continue
            if leaf.dim() != other.dim():
                return None
            grown = [d for d in range(leaf.dim()) if leaf.shape[d] != other.shape[d]]
            if not grown:
                dims.append(None)
                expected = leaf
            elif len(grown) == 1 and other.shape[grown[0]] == 2 * leaf.shape[grown[0]]:
                dims.append(grown[0])
                expected = torch.cat([leaf, leaf], dim=grown[0])
            else:
                return None
            if not torch.equal(expected, other):
                return None
        growth.append(dims)
    return growth


def _same_plain(one: object, two: object) -> bool:
    """Whether two arguments are equal plain values, which cannot hold anything of the batch's size but themselves."""
    return one is two or (isinstance(one, bool | int | float | str | torch.dtype) and one == two)


def _repeated(
    call: LayerCall, copies: int, dims: list[int | None], done: dict[tuple[int, int], torch.Tensor]
) -> LayerCall:
    leaves, structure = pytree.tree_flatten((call.positional, call.named))
    repeated: list[Any] = []
    for leaf, dim in zip(leaves, dims, strict=True):
        if dim is None:
            repeated.append(leaf)
            continue
        key = (id(leaf), dim)
        if key not in done:
            done[key] = torch.cat([leaf] * copies, dim=dim)
        repeated.append(done[key])
    positional, named = pytree.tree_unflatten(repeated, structure)
    return LayerCall(positional, named, call.residual_name)
