"""Layer shapes: what a decoder layer of the common kind is made of, recognised by its parts and not by its family.

A shape says which modules of a layer play which part; it holds modules, never weights, so that weights may come and
go. Names decide the parts. What a norm, an activation or a rotation computes is seen by trying it on small numbers.
Everything that carries weights must have found its part, else the layer is not recognised. Whether a shape computes
what its layer computes is not known here: that is proven on the model at hand (`fused.prove`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from neuroscan_farm.engine.lanes.norms import Norm, recognise_norm
from neuroscan_farm.engine.lanes.products import ACTIVATIONS, QuickLinear


class Unrecognised(Exception):
    """A layer has a part that is not understood; the message names it."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear module, or the part of one that makes queries, keys, values, gate or up."""

    module: nn.Module
    transposed: bool = False  # weights are [in, out], as in GPT-2
    first: int = 0  # of the rows that make it; half-open
    last: int | None = None
    heads: int | None = None  # where rows are grouped by head: how many, and which of three parts `first` is

    @property
    def weight(self) -> torch.Tensor:
        """The weight [out, in] as it is now: a view wherever rows lie together."""
        weight: Any = self.module.weight
        return self._rows(weight.t() if self.transposed else weight)

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias [out] as it is now."""
        bias: Any = self.module.bias
        return None if bias is None else self._rows(bias)

    def _rows(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.heads is not None:
            return tensor.reshape(self.heads, 3, -1, *tensor.shape[1:])[:, self.first].flatten(0, 1)
        return tensor if self.last is None else tensor[self.first : self.last]


@dataclass(frozen=True, slots=True)
class Attention:
    """Self-attention over heads, with keys and values shared by groups of them."""

    query: Projection
    key: Projection
    value: Projection
    out: Projection
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    query_norm: Norm | None
    key_norm: Norm | None
    norm_by_head: bool  # whether these two are over a head's width, or over all heads at once
    rotated: bool
    interleaved: bool  # rotary pairs are neighbours, not halves
    causal: bool  # where the model gives no mask
    softcap: float | None


@dataclass(frozen=True, slots=True)
class MLP:
    """Up, activation, down; with a gate, the activation is the gate's."""

    gate: Projection | None
    up: Projection
    down: Projection
    activation: str  # a name in products.ACTIVATIONS


@dataclass(frozen=True, slots=True)
class LayerShape:
    """A residual layer: attention, then an MLP, each between norms; or both side by side."""

    attention: Attention
    mlp: MLP
    before_attention: Norm | None
    after_attention: Norm | None
    before_mlp: Norm | None  # where the two are parallel, None shares the attention's
    after_mlp: Norm | None
    parallel: bool
    residual_scale: float


# The parts that norms play, by the names of all norms in a layer: before and after attention, before and after the MLP.
_NORMS: dict[frozenset[str], tuple[str | None, str | None, str | None, str | None]] = {
    frozenset({"input_layernorm", "post_attention_layernorm"}): (
        "input_layernorm",
        None,
        "post_attention_layernorm",
        None,
    ),
    frozenset({"ln_1", "ln_2"}): ("ln_1", None, "ln_2", None),
    frozenset({"self_attn_layer_norm", "final_layer_norm"}): (
        "self_attn_layer_norm",
        None,
        "final_layer_norm",
        None,
    ),
    frozenset({"post_attention_layernorm", "post_feedforward_layernorm"}): (
        None,
        "post_attention_layernorm",
        None,
        "post_feedforward_layernorm",
    ),
    frozenset(
        {
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        }
    ): (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    frozenset(
        {"input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"}
    ): ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
    frozenset({"input_layernorm"}): ("input_layernorm", None, None, None),
}
_ATTENTIONS = ("self_attn", "attention", "attn")
_MLPS = ("mlp", "feed_forward")
_PLAIN_MLPS = (
    ("fc1", "fc2"),
    ("c_fc", "c_proj"),
    ("dense_h_to_4h", "dense_4h_to_h"),
    ("up_proj", "down_proj"),
)
_MASKED_BY_ARGUMENT = ("sdpa", "eager")  # implementations of attention; without a mask, the first is causal
_ACTIVATION_NAMES = ("act_fn", "act", "activation_fn", "activation")
_OUT_NAMES = ("o_proj", "dense", "out_proj", "c_proj")


def recognise(layer: nn.Module) -> LayerShape:
    """Say which parts of a layer do what.

    Raises:
        Unrecognised: something in it is not understood.
    """
    inner = _one_of(layer, _ATTENTIONS, "attention")
    feed = next((part for name in _MLPS if (part := getattr(layer, name, None)) is not None), layer)
    used: list[nn.Module] = []
    attention = _attention(inner, used)
    mlp = _mlp(feed, used)
    names = frozenset(
        name for name, child in layer.named_children() if "norm" in name.lower() or name.startswith("ln_")
    )
    if names not in _NORMS:
        raise Unrecognised(f"norms {', '.join(sorted(names)) or 'of no known name'}")
    if getattr(layer, "do_layer_norm_before", True) is False:
        raise Unrecognised("norms of the residual stream itself")
    before_attention, after_attention, before_mlp, after_mlp = (
        None if name is None else _norm(getattr(layer, name), used) for name in _NORMS[names]
    )
    shape = LayerShape(
        attention,
        mlp,
        before_attention,
        after_attention,
        before_mlp,
        after_mlp,
        parallel=bool(getattr(layer, "use_parallel_residual", False)) or len(names) == 1,
        residual_scale=float(getattr(layer, "residual_multiplier", 1.0)),
    )
    known = {id(module) for module in used}
    for name, module in layer.named_modules():
        if id(module) not in known and next(module.parameters(recurse=False), None) is not None:
            raise Unrecognised(f"weights of {name or 'the layer itself'} ({type(module).__name__})")
    return shape


def _attention(inner: nn.Module, used: list[nn.Module]) -> Attention:
    config = getattr(inner, "config", None)
    heads = _number(inner, config, "num_heads", "num_attention_heads")
    kv_heads = _number(inner, config, "num_key_value_heads") or heads
    head_dim = _number(inner, None, "head_dim", "head_size")
    if not heads or not kv_heads or not head_dim:
        raise Unrecognised(
            f"{type(inner).__name__}, which does not say how many heads it has, and of what size"
        )
    query_rows, kv_rows = heads * head_dim, kv_heads * head_dim
    if all(hasattr(inner, name) for name in ("q_proj", "k_proj", "v_proj")):
        query, key, value = (
            _projection(getattr(inner, name), used) for name in ("q_proj", "k_proj", "v_proj")
        )
        found = [_out_rows(projection) for projection in (query, key, value)]
        expected = [query_rows, kv_rows, kv_rows]
    else:
        name = next(
            (name for name in ("qkv_proj", "c_attn", "query_key_value") if hasattr(inner, name)), None
        )
        if name is None:
            raise Unrecognised(f"{type(inner).__name__}, whose queries, keys and values have no known names")
        whole = _projection(getattr(inner, name), used)
        found, expected = [_out_rows(whole)], [query_rows + 2 * kv_rows]
        if name == "query_key_value":
            if heads != kv_heads:
                raise Unrecognised("query_key_value with shared keys")
            query, key, value = (
                Projection(whole.module, whole.transposed, part, heads=heads) for part in range(3)
            )
        else:
            ends = (0, query_rows, query_rows + kv_rows, query_rows + 2 * kv_rows)
            query, key, value = (
                Projection(whole.module, whole.transposed, ends[part], ends[part + 1]) for part in range(3)
            )
    if found != expected:
        raise Unrecognised(f"{type(inner).__name__}, whose projections have {found} rows, not {expected}")
    out = _projection(_one_of(inner, _OUT_NAMES, "output projection"), used)
    query_norm, key_norm = (
        None if getattr(inner, name, None) is None else _norm(getattr(inner, name), used)
        for name in ("q_norm", "k_norm")
    )
    if (query_norm is None) != (key_norm is None):
        raise Unrecognised("a norm of queries or of keys alone")
    widths = [
        None if norm is None or norm.weight is None else norm.weight.numel()
        for norm in (query_norm, key_norm)
    ]
    if query_norm is not None and widths not in ([head_dim, head_dim], [query_rows, kv_rows]):
        raise Unrecognised(f"norms of queries and keys of width {widths}")
    softcap = getattr(inner, "attn_logit_softcapping", None)
    kind = getattr(config, "_attn_implementation", None) or "sdpa"
    if kind not in _MASKED_BY_ARGUMENT:
        raise Unrecognised(f"{kind} attention, whose masks do not say everything about who sees whom")
    return Attention(
        query,
        key,
        value,
        out,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=float(getattr(inner, "scaling", head_dim**-0.5)),
        query_norm=query_norm,
        key_norm=key_norm,
        norm_by_head=widths == [head_dim, head_dim],
        rotated=bool(getattr(inner, "use_rope", True)),
        interleaved=_pairs_are_neighbours(inner),
        causal=bool(getattr(inner, "is_causal", True)) and kind != "eager",
        softcap=None if softcap is None else float(softcap),
    )


def _mlp(feed: nn.Module, used: list[nn.Module]) -> MLP:
    activation = next(
        (found for name in _ACTIVATION_NAMES if callable(found := getattr(feed, name, None))), None
    )
    if activation is None:
        raise Unrecognised(f"{type(feed).__name__}, whose activation has no known name")
    kind = _activation_kind(activation)
    if hasattr(feed, "gate_up_proj") and hasattr(feed, "down_proj"):
        whole, down = _projection(feed.gate_up_proj, used), _projection(feed.down_proj, used)
        rows = _out_rows(whole)
        gate, up = (
            Projection(whole.module, whole.transposed, first, first + rows // 2) for first in (0, rows // 2)
        )
        return MLP(gate, up, down, kind)
    if all(hasattr(feed, name) for name in ("gate_proj", "up_proj", "down_proj")):
        gate, up, down = (
            _projection(getattr(feed, name), used) for name in ("gate_proj", "up_proj", "down_proj")
        )
        return MLP(gate, up, down, kind)
    for first, second in _PLAIN_MLPS:
        if hasattr(feed, first) and hasattr(feed, second):
            return MLP(
                None, _projection(getattr(feed, first), used), _projection(getattr(feed, second), used), kind
            )
    raise Unrecognised(f"{type(feed).__name__}, whose projections have no known names")


def _one_of(module: nn.Module, names: tuple[str, ...], part: str) -> nn.Module:
    for name in names:
        found = getattr(module, name, None)
        if isinstance(found, nn.Module):
            return found
    raise Unrecognised(f"{type(module).__name__}, whose {part} has no known name")


def _number(module: nn.Module, config: object, *names: str) -> int:
    for source in (module, config):
        for name in names:
            if isinstance(found := getattr(source, name, None), int):
                return found
    return 0


def _projection(module: Any, used: list[nn.Module]) -> Projection:
    used.append(module)
    if type(module) in (nn.Linear, QuickLinear):
        return Projection(module)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return Projection(module, transposed=True)
    raise Unrecognised(f"{type(module).__name__} in the place of a linear module")


def _out_rows(projection: Projection) -> int:
    module: Any = projection.module
    return int(module.nf if projection.transposed else module.out_features)


def _pairs_are_neighbours(inner: nn.Module) -> bool:
    """Whether the attention's own `rotate_half` pairs neighbours and not halves."""
    rotate = getattr(sys.modules.get(type(inner).__module__), "rotate_half", None)
    if rotate is None:
        return False
    turned = rotate(torch.arange(1.0, 5.0).view(1, 1, 1, 4)).flatten().tolist()
    if turned == [-3.0, -4.0, 1.0, 2.0]:
        return False
    if turned == [-2.0, 1.0, -4.0, 3.0]:
        return True
    raise Unrecognised("a rotary embedding of another kind")


def _activation_kind(activation: Callable[[torch.Tensor], torch.Tensor]) -> str:
    x = torch.linspace(-4, 4, 33)
    with torch.inference_mode():
        y = activation(x)
        for name, known in ACTIVATIONS.items():
            if isinstance(y, torch.Tensor) and y.shape == x.shape and torch.allclose(y, known(x), atol=1e-6):
                return name
    raise Unrecognised(f"the activation {type(activation).__name__}")


def _norm(module: nn.Module, used: list[nn.Module]) -> Norm:
    used.append(module)
    found = recognise_norm(module)
    if found is None:
        raise Unrecognised(f"the norm {type(module).__name__}")
    return found
