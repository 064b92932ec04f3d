"""What a lane is: how one layer is run on a micro-batch. One executor, two implementations of a layer.

A *unit* is the residual stream of one batch on one path: what the executor keeps, stacks and caches, and what only
the lane looks into. Units of one batch are stacked along dimension 0; a micro-batch is a stack of `copies` units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from neuroscan_farm.domain.paths import Component
from neuroscan_farm.engine.components import Components


class Inputs(Protocol):
    """What a lane keeps of one batch."""

    @property
    def prompts(self) -> tuple[torch.Tensor, ...]:
        """[samples, tokens] of each length, on the device of the embedding."""

    @property
    def embedded(self) -> torch.Tensor:
        """The unit at boundary 0."""


class Lane(Protocol):
    """How one layer is run on a micro-batch."""

    name: str  # as rows record it
    mixes_lengths: bool  # whether prompts of several lengths can share a unit
    # what is proven of the layers' components; None before, and no step may name one
    components: Components | None

    def inputs(self, *prompts: torch.Tensor) -> Inputs:
        """Prepare prompts, [samples, tokens] of each length, on the device of the embedding."""

    def stackable(self, inputs: Inputs) -> bool:
        """Whether several units of this batch may share a call; False where rows may depend on their company."""

    def run(
        self, inputs: Inputs, k: int, stack: torch.Tensor, copies: int, only: Component | None = None
    ) -> torch.Tensor:
        """Run layer k, or `only` one component of it, on a stack of `copies` units; return the stack after it."""

    def run_last(
        self, inputs: Inputs, k: int, stack: torch.Tensor, copies: int, only: Component | None = None
    ) -> torch.Tensor:
        """Run layer k as `run` does where nothing follows but the head; return `copies` stacked ends, see `end`."""

    def end(self, inputs: Inputs, unit: torch.Tensor) -> torch.Tensor:
        """Return what the head needs of a unit at boundary L: the last token's residual, [samples, 1, hidden]."""

    def halves(self, inputs: Inputs) -> tuple[Inputs, Inputs]:
        """Return the inputs of the first and of the second half of the samples, at least one each."""

    def split(self, inputs: Inputs, unit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the units of the two halves."""

    def join(self, inputs: Inputs, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return the unit, or the end, of which these are the halves."""


def samples_of(inputs: Inputs) -> int:
    """Return how many samples a unit holds."""
    return sum(len(token_ids) for token_ids in inputs.prompts)


def layer_kinds(layers: Sequence[torch.nn.Module]) -> list[str]:
    """Name of each layer what decides its arithmetic: its class and the shapes of its weights."""
    return [
        f"{type(layer).__name__} {[tuple(parameter.shape) for parameter in layer.parameters()]}"
        for layer in layers
    ]


def layer_token_bytes(layers: Sequence[torch.nn.Module]) -> int:
    """Return about how many bytes one token takes while the largest layer runs: what its weights put out, and copies."""

    def of(layer: torch.nn.Module) -> int:
        return sum(
            sum(parameter.shape[-2:]) * parameter.element_size()
            for parameter in layer.parameters()
            if parameter.dim() > 1
        )

    return max(map(of, layers))
