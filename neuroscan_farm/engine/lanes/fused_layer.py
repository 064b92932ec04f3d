"""One layer of the common shape on a stack of units, in as few passes over memory as torch allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from neuroscan_farm.domain.paths import Component
from neuroscan_farm.engine.lanes.layer_shapes import MLP, Attention, LayerShape, Projection
from neuroscan_farm.engine.lanes.norms import Norm, normed
from neuroscan_farm.engine.lanes.products import linear
from neuroscan_farm.engine.lanes.shared_prefix import Arrangement, Layout


@dataclass(frozen=True, slots=True)
class Rotary:
    """The rotary inputs of the rows of a unit."""

    cos: torch.Tensor  # [rows, 1, rotary width]
    sin: torch.Tensor  # the same, with the sign that the other one of a pair is added with

    def of_ends(self, layout: Arrangement) -> Rotary:
        """The rotary inputs of the samples' last tokens, [samples, 1, rotary width]."""
        return Rotary(*(layout.ends(table.transpose(0, 1))[0, :, None] for table in (self.cos, self.sin)))


@dataclass(frozen=True, slots=True)
class Masks:
    """What tokens may look at; None is everything, or, where `causal`, everything up to themselves."""

    prefix: torch.Tensor | None  # of the prefix's rows among themselves, [1, 1, prefix, prefix]
    own: torch.Tensor | None  # of the samples' own rows over all tokens, [1 or samples, 1, own, tokens]
    causal: bool


def run_shape(
    shape: LayerShape,
    stack: torch.Tensor,
    layout: Arrangement,
    rotary: Rotary | None,
    masks: Sequence[Masks],
    *,
    last_only: bool = False,
    only: Component | None = None,
) -> torch.Tensor:
    """Run one layer.

    Args:
        shape: what the layer is made of; its weights are read now.
        stack: the units, [copies, rows, hidden]; in float32 it stays so, whatever the weights are.
        layout: how the tokens lie in a unit.
        rotary: the rotary inputs, where the layer has any.
        masks: the attention masks of each batch in a unit.
        last_only: whether only the last token of each sample is wanted.
        only: the only component that runs; the other one adds nothing.

    Returns:
        The stack after the layer, or the ends of its units, [copies, samples, hidden].
    """
    if only is Component.MLP:
        return _mlp_alone(shape, layout.ends(stack) if last_only else stack)
    normal = _narrowed(shape.before_attention, stack, shape)
    residual, asking = (layout.ends(stack), layout.ends(normal)) if last_only else (stack, normal)
    mixed = _attend(shape.attention, normal, asking, layout, rotary, masks, last_only=last_only)
    partly = _added(residual, mixed, shape.attention.out, shape.after_attention, shape.residual_scale)
    if only is Component.ATTENTION:
        return partly
    if shape.parallel:
        beside = asking if shape.before_mlp is None else _narrowed(shape.before_mlp, residual, shape)
    else:
        beside = _narrowed(shape.before_mlp, partly, shape)
    return _added(partly, _hidden(shape.mlp, beside), shape.mlp.down, shape.after_mlp, shape.residual_scale)


def _mlp_alone(shape: LayerShape, residual: torch.Tensor) -> torch.Tensor:
    """Run the MLP on the residual as it came; where the two are parallel, it may share the attention's norm."""
    norm = shape.before_attention if shape.parallel and shape.before_mlp is None else shape.before_mlp
    hidden = _hidden(shape.mlp, _narrowed(norm, residual, shape))
    return _added(residual, hidden, shape.mlp.down, shape.after_mlp, shape.residual_scale)


def rotary_of(
    cos: Sequence[torch.Tensor], sin: Sequence[torch.Tensor], layout: Arrangement, *, interleaved: bool
) -> Rotary:
    """Spread the model's own rotary inputs, [1 or samples, tokens, width] of each batch, over the rows of a unit."""

    def spread(tables: Sequence[torch.Tensor]) -> torch.Tensor:
        by_sample = [
            table.expand(one.samples, -1, -1) for table, one in zip(tables, layout.layouts, strict=True)
        ]
        return layout.pack(*by_sample).reshape(layout.rows, 1, -1)

    turning, crossing = spread(cos), spread(sin).clone()
    first, _ = _pairs(crossing, interleaved)
    first.neg_()
    return Rotary(turning.contiguous(), crossing)


def masks_of(mask: torch.Tensor | None, layout: Layout, *, causal: bool, like: torch.Tensor) -> Masks:
    """Cut the model's own mask, [1 or samples, 1, tokens, tokens], into those of a layout.

    Args:
        mask: what the model gave; booleans say what may be seen, numbers are added.
        layout: how the tokens lie in a unit.
        causal: whether no mask means a causal one.
        like: a tensor with the dtype and device of the queries.
    """
    p = layout.prefix
    if mask is None:
        if not p or not causal:
            return Masks(None, None, causal)
        seen = torch.ones(layout.own, layout.tokens, dtype=torch.bool, device=like.device).tril(p)
        return Masks(None, _added_mask(seen[None, None], like), causal)
    mask = _added_mask(mask.to(like.device), like)
    return Masks(mask[..., :p, :p].contiguous() if p else None, mask[..., p:, :].contiguous(), causal=False)


def _added_mask(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(~mask, float("-inf"))


def _narrowed(norm: Norm | None, residual: torch.Tensor, shape: LayerShape) -> torch.Tensor:
    """Normalise the residual, in its own dtype, and hand it to products in theirs."""
    out = residual if norm is None else normed(norm, residual)
    return out.to(shape.attention.out.module.weight.dtype)  # type: ignore[arg-type]


def _added(
    residual: torch.Tensor, x: torch.Tensor, projection: Projection, norm: Norm | None, scale: float
) -> torch.Tensor:
    """Return `residual + scale * norm(projection(x))`."""
    if norm is None and scale == 1.0:
        return linear(x, projection.weight, projection.bias, add=residual)
    out = linear(x, projection.weight, projection.bias)
    if norm is not None:
        out = normed(norm, out)
    return torch.add(residual, out, alpha=scale)


def _hidden(mlp: MLP, x: torch.Tensor) -> torch.Tensor:
    if mlp.gate is None:
        return linear(x, mlp.up.weight, mlp.up.bias, activation=mlp.activation)
    gate = linear(x, mlp.gate.weight, mlp.gate.bias, activation=mlp.activation)
    return linear(x, mlp.up.weight, mlp.up.bias, multiply=gate)


def _attend(
    attention: Attention,
    normal: torch.Tensor,
    asking: torch.Tensor,
    layout: Arrangement,
    rotary: Rotary | None,
    masks: Sequence[Masks],
    *,
    last_only: bool,
) -> torch.Tensor:
    """Return what attention gathers for the rows of `asking`, before its output projection."""
    asked = rotary.of_ends(layout) if rotary is not None and last_only else rotary
    query = _heads(attention.query, attention.query_norm, asking, attention, asked)
    key = _heads(attention.key, attention.key_norm, normal, attention, rotary)
    value = _heads(attention.value, None, normal, attention, None)
    width = attention.heads * attention.head_dim
    keys, values = layout.parts(key), layout.parts(value)
    if last_only:
        ends = torch.split(query, [one.samples for one in layout.layouts], dim=1)
        gathered = [
            _of_ends(attention, one, q, k, v, mask).reshape(len(asking), -1, width)
            for one, q, k, v, mask in zip(layout.layouts, ends, keys, values, masks, strict=True)
        ]
    else:
        gathered = [
            _of_own(attention, one, q, k, v, mask).reshape(len(asking), -1, width)
            for one, q, k, v, mask in zip(
                layout.layouts, layout.parts(query), keys, values, masks, strict=True
            )
        ]
        if layout.prefix:
            gathered.insert(
                0, _of_prefix(attention, layout.layouts[0], query, key, value, masks[0]).flatten(2)
            )
    return gathered[0] if len(gathered) == 1 else torch.cat(gathered, dim=1)


def _of_ends(
    attention: Attention,
    layout: Layout,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    masks: Masks,
) -> torch.Tensor:
    """Let the last tokens look at all of theirs: they see what a causal mask would let anybody see."""
    mask = None if masks.own is None else masks.own[..., -1:, :]
    asking = query.reshape(-1, 1, *query.shape[2:]).transpose(1, 2)
    return _attention(
        attention, asking, layout.heads_of_all(key), layout.heads_of_all(value), mask
    ).transpose(1, 2)


def _of_own(
    attention: Attention,
    layout: Layout,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    masks: Masks,
) -> torch.Tensor:
    """Let each sample's own tokens look at all of theirs."""
    return _attention(
        attention,
        layout.heads_of_own(query),
        layout.heads_of_all(key),
        layout.heads_of_all(value),
        masks.own,
        causal=masks.causal and not layout.prefix,
    ).transpose(1, 2)


def _of_prefix(
    attention: Attention,
    layout: Layout,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    masks: Masks,
) -> torch.Tensor:
    """Let the tokens that all samples share look at one another."""
    return _attention(
        attention,
        layout.heads_of_prefix(query),
        layout.heads_of_prefix(key),
        layout.heads_of_prefix(value),
        masks.prefix,
        causal=masks.causal,
    ).transpose(1, 2)


def _heads(
    projection: Projection, norm: Norm | None, x: torch.Tensor, attention: Attention, rotary: Rotary | None
) -> torch.Tensor:
    """Return queries, keys or values [copies, rows, heads, width]."""
    out = linear(x, projection.weight, projection.bias)
    if norm is not None and not attention.norm_by_head:
        out = normed(norm, out)
    out = out.view(*out.shape[:-1], -1, attention.head_dim)
    if norm is not None and attention.norm_by_head:
        out = normed(norm, out)
    return out if rotary is None or not attention.rotated else _rotated(out, rotary, attention.interleaved)


def _rotated(x: torch.Tensor, rotary: Rotary, interleaved: bool) -> torch.Tensor:
    """Turn the first numbers of each head; each pair's other one comes in with its sign in `rotary.sin`."""
    width = rotary.cos.shape[-1]
    turning = x[..., :width]
    if width == x.shape[-1]:
        turned = out = turning * rotary.cos
    else:
        out = x.clone()
        turned = out[..., :width].mul_(rotary.cos)
    first, second = _pairs(turning, interleaved)
    sin_first, sin_second = _pairs(rotary.sin, interleaved)
    into_first, into_second = _pairs(turned, interleaved)
    into_first.addcmul_(second, sin_first)
    into_second.addcmul_(first, sin_second)
    return out


def _pairs(x: torch.Tensor, interleaved: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if interleaved:
        return x[..., ::2], x[..., 1::2]
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def _attention(
    attention: Attention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """Return [batch, heads, queries, width]; masks are repeated for every copy."""
    if mask is not None and mask.shape[0] not in (1, len(query)):
        mask = mask.repeat(len(query) // mask.shape[0], 1, 1, 1)
    grouped = attention.kv_heads != attention.heads
    if attention.softcap is None:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=attention.scale, enable_gqa=grouped
        )
    if grouped:
        key, value = (
            part.repeat_interleave(attention.heads // attention.kv_heads, dim=1) for part in (key, value)
        )
    weights = torch.matmul(query * attention.scale, key.transpose(-1, -2))
    weights = weights.div_(attention.softcap).tanh_().mul_(attention.softcap)
    if causal:
        unseen = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).triu(1)
        weights = weights.masked_fill_(unseen, float("-inf"))
    if mask is not None:
        weights = weights.add_(mask)
    return torch.matmul(weights.softmax(-1, dtype=torch.float32).to(value.dtype), value)
