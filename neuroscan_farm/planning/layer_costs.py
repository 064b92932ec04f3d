"""What each layer of a model costs to run: its parameters, and the bytes that a token takes in its key-value cache.

Both are read from the weight files' headers and the config. What these do not say for certain is None, not a guess:
packed (quantised) weights, attention that caches a latent (MLA), and layers with a recurrent state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from neuroscan_farm.planning.layer_lists import find_layer_list
from neuroscan_farm.planning.weight_files import StoredTensor

_ELEMENT_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads")
_WIDTH = ("hidden_size", "n_embd", "d_model", "n_embed")
_KINDS = ("layer_types", "layers_block_type")
_ATTENDING = frozenset({"full_attention", "sliding_attention", "chunked_attention", "attention"})
_FUSED = ("query_key_value", "qkv_proj", "c_attn", "Wqkv", "in_proj_qkv", "qkv")
# Options of attention that keeps something else than one key and one value a head, or shares them between layers.
_OTHER_CACHES = (
    *("kv_lora_rank", "num_kv_shared_layers", "linear_attn_config", "state_size", "mamba_d_state"),
    *("linear_num_value_heads", "attn_layer_period", "attn_layer_indices", "ssm_state_size", "conv_L_cache"),
)


def layer_parameters(tensors: Mapping[str, StoredTensor], *, depth: int) -> tuple[int, ...] | None:
    """Return the parameters of each layer.

    None where no list of layers is found, or where weights are packed so that their shapes do not tell. Stored masks
    and rotary frequencies are not counted.
    """
    layers = _layers(tensors, depth)
    if layers is None:
        return None
    weights = [[t for name, t in layer.items() if not _is_buffer(name, t)] for layer in layers]
    if any(not tensor.is_float and len(tensor.shape) > 1 for layer in weights for tensor in layer):
        return None
    return tuple(sum(tensor.numel for tensor in layer if tensor.is_float) for layer in weights)


def layer_kv_bytes(
    tensors: Mapping[str, StoredTensor], config: Mapping[str, Any], *, depth: int, dtype: str
) -> tuple[int, ...] | None:
    """Return the bytes that each token takes in the key-value cache of each layer: 2 x key-value heads x width x bytes.

    A layer with a sliding window takes so much up to its window. The projections' own shapes are believed before the
    config, because heads may differ from layer to layer.

    Args:
        tensors: of the checkpoint; none where they are not fetched.
        config: of the text model, flat.
        depth: number of layers.
        dtype: in which keys and values are kept, in torch's words.

    Returns:
        None where the model keeps something else (see the module), or where nothing says how much.
    """
    element_bytes = _ELEMENT_BYTES.get(dtype)
    if element_bytes is None or any(config.get(name) for name in _OTHER_CACHES):
        return None
    kinds: Iterable[object] = next(
        (config[name] for name in _KINDS if isinstance(config.get(name), list)), ()
    )
    if any(kind not in _ATTENDING for kind in kinds):
        return None
    layers = _layers(tensors, depth)
    if layers is None:
        return None
    found = [_kv_width(layer, config) for layer in layers]
    widths = [width for width in found if width is not None]
    return tuple(width * element_bytes for width in widths) if len(widths) == depth else None


def _layers(tensors: Mapping[str, StoredTensor], depth: int) -> Sequence[Mapping[str, StoredTensor]] | None:
    found = find_layer_list(tensors, depth)
    if found is None:
        return None
    return [{inner: tensors[name] for inner, name in layer.items()} for layer in found.by_layer(tensors)]


def _kv_width(layer: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> int | None:
    """Return how many numbers a layer keeps of a token: keys and values of all heads."""
    keys, values = (
        [
            t
            for name, t in layer.items()
            if name.rpartition(".")[0].endswith(part) and name.endswith(".weight")
        ]
        for part in ("k_proj", "v_proj")
    )
    if len(keys) == len(values) == 1:
        return keys[0].shape[0] + values[0].shape[0] if _is_plain(keys[0], values[0]) else None
    heads = _number(config, _HEADS)
    width = _number(config, ("head_dim", "kv_channels"))
    hidden = _number(config, _WIDTH)
    if width is None and heads and hidden:
        width = hidden // heads
    if not heads or not width:
        return None
    fused = [
        tensor
        for name, tensor in layer.items()
        if name.rpartition(".")[0].rpartition(".")[2] in _FUSED and name.endswith(".weight")
    ]
    if len(fused) != 1 or len(fused[0].shape) != 2:
        return None
    # The config's number of key-value heads is one of these; the projection's width says which is meant.
    candidates = [_number(config, _KV_HEADS), _number(config.get("attn_config") or {}, _KV_HEADS), heads, 1]
    for kv_heads in candidates:
        if kv_heads and (heads + 2 * kv_heads) * width in fused[0].shape:
            return 2 * kv_heads * width
    return None


def _is_plain(*projections: StoredTensor) -> bool:
    """Whether these are matrices whose rows are what comes out: not packed."""
    return all(tensor.is_float and len(tensor.shape) == 2 for tensor in projections)


def _is_buffer(name: str, tensor: StoredTensor) -> bool:
    """Whether an old checkpoint stored what is no weight: a causal mask, a rotary frequency."""
    mask = len(tensor.shape) == 4 and tensor.shape[:2] == (1, 1) and tensor.shape[2] == tensor.shape[3]
    return mask or name.endswith((".inv_freq", ".masked_bias")) or math.prod(tensor.shape) == 0


def _number(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((config[name] for name in names if type(config.get(name)) is int and config[name] > 0), None)
