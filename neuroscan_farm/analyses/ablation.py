"""Ablation: what is lost when one layer is left out, or its attention, or its feed-forward part?

A layer that is left out is skipped: what went into it goes on as it is. Where a component is left out, the layer's
other component runs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from neuroscan_farm.analyses.base import Similarity
from neuroscan_farm.analyses.layer_choice import layers_between, path_without
from neuroscan_farm.domain.paths import Component, LayerPath, step_of
from neuroscan_farm.domain.requests import Parameters
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.errors import RequestError

Ablated = Literal["layer", "attention", "mlp"]


class AblationParameters(Parameters):
    """Which layers to leave out, one at a time, and what of them."""

    layers: str | None = Field(None, description="layers to leave out, such as 0..5,9; none is every layer")
    components: tuple[Ablated, ...] = Field(
        ("layer",),
        description="what is left out: layer, the whole of it; attention, so that its mlp runs alone; mlp, the reverse",
    )
    skip_early: int = Field(0, ge=0, description="layers at the start that are never left out")
    skip_late: int = Field(0, ge=0, description="layers at the end that are never left out")

    @field_validator("layers", mode="before")
    @classmethod
    def _one_layer_is_a_number_in_yaml(cls, value: object) -> object:
        return str(value) if type(value) is int else value

    @field_validator("layers")
    @classmethod
    def _layers_parse(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                named = LayerPath.parse(value)
            except RequestError as error:
                raise ValueError(str(error)) from None
            if not named.whole:
                raise ValueError("name layers here, and what is left out of them in components")
            if len(set(named.layers)) < len(named):
                raise ValueError("a layer is named twice")
        return value

    @field_validator("components")
    @classmethod
    def _components_differ(cls, value: tuple[Ablated, ...]) -> tuple[Ablated, ...]:
        if not value:
            raise ValueError("name at least one of layer, attention and mlp")
        if len(set(value)) < len(value):
            raise ValueError("a component is named twice")
        return value

    @model_validator(mode="after")
    def _layers_are_chosen_once(self) -> AblationParameters:
        if self.layers is not None and (self.skip_early or self.skip_late):
            raise ValueError("layers says which layers; leave skip_early and skip_late out")
        return self


class Ablation:
    """The ablation analysis: each layer, or a component of it, left out on its own."""

    name = "ablation"
    summary = "leave out one layer at a time, or its attention or its mlp: what does each carry?"
    parameters = AblationParameters

    def expand(self, parameters: Parameters, *, depth: int, probe_digests: Sequence[str]) -> list[Task]:
        """Return the baseline and one task for each layer and component; see `Analysis.expand`."""
        assert isinstance(parameters, AblationParameters)
        layers: Sequence[int]
        if parameters.layers is None:
            layers = layers_between(
                skip_early=parameters.skip_early, skip_late=parameters.skip_late, depth=depth
            )
        else:
            named = LayerPath.parse(parameters.layers)
            if max(named.layers) >= depth:
                raise RequestError(
                    f"layers {parameters.layers!r} names layer {max(named.layers)}, but this model has {depth} layers; "
                    f"use 0 to {depth - 1}"
                )
            layers = sorted(named.layers)
        if depth == 1 and "layer" in parameters.components:
            raise RequestError(
                "this model has one layer, and nothing is left without it; leave out a component of it: "
                "attention or mlp"
            )
        paths = [LayerPath.identity(depth)]
        paths += (ablated(layer, component, depth) for component in parameters.components for layer in layers)
        return [Task.of(path, probe_digests=probe_digests) for path in paths]

    def has_stages(self, parameters: Parameters) -> bool:  # noqa: ARG002
        """See `Analysis.has_stages`: all is known from the start."""
        return False

    def further(self, parameters: Parameters) -> str:  # noqa: ARG002
        """Nothing; see `Analysis.further`."""
        return ""

    def needs_similarity(self, parameters: Parameters) -> bool:  # noqa: ARG002
        """See `Analysis.needs_similarity`."""
        return False

    def next_stage(
        self,
        parameters: Parameters,  # noqa: ARG002
        *,
        depth: int,  # noqa: ARG002
        probe_digests: Sequence[str],  # noqa: ARG002
        tasks: Sequence[Task],  # noqa: ARG002
        effects: Mapping[str, float],  # noqa: ARG002
        sizes: Mapping[str, float],  # noqa: ARG002
        similarity: Callable[[], Similarity],  # noqa: ARG002
    ) -> list[Task]:
        """See `Analysis.next_stage`: there is none."""
        return []


def ablated(layer: int, what: Ablated, depth: int) -> LayerPath:
    """Return the path of a `depth`-layer model without a layer, or with a component of it left out."""
    if what == "layer":
        return path_without([layer], depth)
    step = step_of(layer, Component(what).other)
    runs = [(0, layer), (step, step + 1), (layer + 1, depth)]
    return LayerPath.of_runs((first, end) for first, end in runs if first < end)
