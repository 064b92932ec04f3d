"""Which tensors of a checkpoint, and which lists of a config, speak of its layers. No torch, no tensor is read.

A list of layers is the tensors `<list>.<k>.<rest>`, as in `model.layers.7.mlp.up_proj.weight`. The decoder's is the
largest one whose numbers are 0 to depth - 1; what is numbered beyond only predicts further tokens, and transformers
leaves it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from neuroscan_farm.planning.weight_files import StoredTensor

# Parts beside the decoder may have lists as long as its own.
_BESIDE = frozenset(
    {"vision", "visual", "vision_tower", "vision_model", "audio_tower", "audio_model", "encoder"}
)

# Lists of a config that may be as long as the model is deep, and are not about layers.
_NOT_LAYERS = frozenset(
    {"architectures", "eos_token_id", "bos_token_id", "pad_token_id", "begin_suppress_tokens", "suppress_tokens",
     "mlp_multipliers", "ssm_multipliers", "keys_to_ignore_at_inference", "mrope_section"}
)  # fmt: skip
# Lists of layers that are counted from 1: of Kimi Linear and Qwen 4.
_FROM_ONE = frozenset({"kda_layers", "full_attn_layers", "ple_layer_ids"})
_PLACES = re.compile(r"(layers|layer_ids?|layers?_idx|layer_idxs|layer_indices|idxs)$")


def list_along(
    name: str, value: Sequence[object], steps: Sequence[int], *, depth: int
) -> list[object] | None:
    """Return a config's list along the path that visits `steps`; None where it is not about layers.

    A list as long as the model is deep has an entry for each layer; one of distinct numbers of layers, in order and
    under such a name as `mlp_only_layers`, says which layers are of a kind.
    """
    if name in _NOT_LAYERS or not value:
        return None
    if name in _FROM_ONE:
        return [at + 1 for at, layer in enumerate(steps) if layer + 1 in value]
    places = all(type(place) is int and 0 <= place < depth for place in value)
    if _PLACES.search(name) and places and sorted(set(value)) == list(value):  # type: ignore[type-var]
        flags = len(value) == depth <= 2  # 0, 1 may be both; two layers are no model that matters
        return (
            [value[layer] for layer in steps]
            if flags
            else [at for at, layer in enumerate(steps) if layer in value]
        )
    return [value[layer] for layer in steps] if len(value) == depth else None


@dataclass(frozen=True, slots=True)
class LayerList:
    """A checkpoint's list of decoder layers."""

    name: str  # what stands before the number, without the dot: "model.layers"
    depth: int

    def split(self, tensor_name: str) -> tuple[int, str] | None:
        """Return a tensor's layer and its name inside it; None for what is no part of the list."""
        rest = tensor_name.removeprefix(f"{self.name}.")
        number, dot, inner = rest.partition(".")
        if rest == tensor_name or not dot or not number.isdecimal():
            return None
        return int(number), inner

    def by_layer(self, names: Iterable[str]) -> tuple[dict[str, str], ...]:
        """Return, of each layer, its tensors' names inside the layer and in the checkpoint."""
        layers: tuple[dict[str, str], ...] = tuple({} for _ in range(self.depth))
        for name in names:
            found = self.split(name)
            if found is not None and found[0] < self.depth:
                layers[found[0]][found[1]] = name
        return layers


def find_layer_list(tensors: Mapping[str, StoredTensor], depth: int) -> LayerList | None:
    """Return the decoder's list; None where no list has the layers 0 to depth - 1."""
    sizes: dict[str, dict[int, int]] = {}
    for tensor in tensors.values():
        for prefix, number in _places(tensor.name):
            layers = sizes.setdefault(prefix, {})
            layers[number] = layers.get(number, 0) + tensor.size_bytes
    full = {name: found for name, found in sizes.items() if set(range(depth)) <= found.keys()}
    decoders = [name for name in full if not _BESIDE & set(name.split("."))] or list(full)
    # A list inside a layer may be as long (experts); it is smaller than the whole.
    largest = max(decoders, key=lambda name: sum(full[name].values()), default=None)
    return None if largest is None else LayerList(largest, depth)


def _places(name: str) -> Iterator[tuple[str, int]]:
    parts = name.split(".")
    return ((".".join(parts[:at]), int(part)) for at, part in enumerate(parts) if part.isdecimal() and at)
