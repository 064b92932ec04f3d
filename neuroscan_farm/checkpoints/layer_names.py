"""Which tensors a checkpoint along a path holds, and where their bytes come from. No tensor is read.

Layer k of the source becomes the layers at whose places the path visits k; its tensors are written once for each visit,
because a checkpoint cannot say that two layers are one. What is no layer is taken over as it is; so a head that the
source ties to its embedding, and does not store, stays tied. Tensors that hold all layers side by side (the per-layer
embeddings of Gemma 3n and 4) are re-ordered inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.layer_lists import LayerList, find_layer_list
from neuroscan_farm.planning.weight_files import StoredTensor

# Tensors with a part for each layer: by the end of their name, and the axis along which the parts lie.
_SIDE_BY_SIDE = {"embed_tokens_per_layer.weight": 1, "per_layer_model_projection.weight": 0}


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor of the new checkpoint."""

    name: str
    shape: tuple[int, ...]
    source: StoredTensor  # whose bytes it has
    parts_axis: int | None = None  # 0 or 1 where `parts` of the source follow each other along this axis
    parts: tuple[int, ...] = ()  # which of them, in order
    parts_of: int = 1  # how many the source has

    @property
    def size_bytes(self) -> int:
        """Bytes in the new file."""
        if self.parts_axis is None:
            return self.source.size_bytes
        return self.source.size_bytes // self.parts_of * len(self.parts)


def tensors_along(
    tensors: Mapping[str, StoredTensor], path: LayerPath, *, depth: int, where: Path
) -> tuple[list[NewTensor], LayerList]:
    """Return the tensors of the checkpoint along `path`, in the order in which they are to be written, and the list.

    Args:
        tensors: of the source.
        path: within the source.
        depth: of the source.
        where: the source's folder, for messages.

    Raises:
        ModelError: no list of `depth` layers is found.
    """
    layers = find_layer_list(tensors, depth)
    if layers is None:
        raise ModelError(
            f"model {where}: its weight files hold no list of {depth} layers, named <list>.<number>.<rest>, so there is "
            "nothing that could be put in another order; materialize needs such a checkpoint"
        )
    steps = path.layers
    by_layer = layers.by_layer(tensors)
    before: list[NewTensor] = []
    after: list[NewTensor] = []
    seen_layers = False
    for name, tensor in tensors.items():
        found = layers.split(name)
        if found is None:
            (after if seen_layers else before).append(_beside(tensor, steps, depth, where))
        else:
            # Those numbered `depth` and beyond only predict further tokens: they are left out.
            seen_layers = True
    along = [
        NewTensor(f"{layers.name}.{place}.{inner}", tensors[name].shape, tensors[name])
        for place, layer in enumerate(steps)
        for inner, name in by_layer[layer].items()
    ]
    return [*before, *along, *after], layers


def _beside(tensor: StoredTensor, steps: tuple[int, ...], depth: int, where: Path) -> NewTensor:
    axis = next((axis for end, axis in _SIDE_BY_SIDE.items() if tensor.name.endswith(end)), None)
    if axis is None:
        return NewTensor(tensor.name, tensor.shape, tensor)
    if len(tensor.shape) != 2 or tensor.shape[axis] % depth:
        raise ModelError(
            f"model {where}: {tensor.name} {list(tensor.shape)} should hold {depth} layers side by side along axis {axis}, "
            "and cannot; this checkpoint cannot be put in another order"
        )
    shape = list(tensor.shape)
    shape[axis] = shape[axis] // depth * len(steps)
    return NewTensor(tensor.name, tuple(shape), tensor, axis, steps, depth)
