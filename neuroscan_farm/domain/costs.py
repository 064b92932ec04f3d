"""Costs: what a path takes beside the untouched model. Counted, not measured.

Memory and time only: the weights of a duplicated layer can be shared by a program that runs a path, but not by a
merged checkpoint, and its keys and values never can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuroscan_farm.domain.paths import LayerPath, component_of


@dataclass(frozen=True, slots=True)
class Cost:
    """What one path takes more than the untouched model; negative where it takes less."""

    added_layers: int  # visits more than the model has layers
    added_parameters: int | None  # None where the model's files do not tell, or a layer runs in part
    # None where the configuration does not tell, or a layer runs in part
    added_kv_bytes_per_token: int | None
    # layer visits / layers of the model; a layer that runs in part counts as one visit
    relative_latency: float
    in_part: int = (
        0  # visits that run one component of a layer alone: they take less, and how much is not known
    )


def cost_of(
    path: LayerPath,
    depth: int,
    layer_parameters: Sequence[int] | None = None,
    layer_kv_bytes: Sequence[int] | None = None,
) -> Cost:
    """Return what `path` takes beside the untouched model of `depth` layers.

    Args:
        path: within the model.
        depth: layers of the model.
        layer_parameters: parameters of each layer, where they are known.
        layer_kv_bytes: bytes of keys and values that each layer keeps for a token, where they are known.
    """
    return Cost(
        added_layers=len(path) - depth,
        added_parameters=_added(path, depth, layer_parameters),
        added_kv_bytes_per_token=_added(path, depth, layer_kv_bytes),
        relative_latency=len(path) / depth,
        in_part=sum(end - first for first, end in path.runs() if component_of(first) is not None),
    )


def _added(path: LayerPath, depth: int, of_layer: Sequence[int] | None) -> int | None:
    """The sum over the visits less the sum over the layers; None where a step is no whole layer."""
    if of_layer is None or len(of_layer) != depth or max(end for _, end in path.runs()) > depth:
        return None
    return sum(sum(of_layer[first:end]) for first, end in path.runs()) - sum(of_layer)
