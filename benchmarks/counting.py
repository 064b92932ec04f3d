"""What a set of paths costs in theory: layer evaluations, and the products of matrices that they cannot do without.

An evaluation is one layer on all samples once. `naive` runs every path from the embedding; `shared` starts each from
the baseline's boundary; `minimal` also runs what two paths have in common once: the nodes of their trie. The
baseline's own evaluations are in all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Steps = tuple[int, ...]  # a path's layers in order


@dataclass(frozen=True, slots=True)
class Work:
    """What a set of paths on a probe comes to."""

    naive: int  # layer evaluations
    shared: int
    minimal: int
    flops: float  # of the minimal evaluations, each in full
    flops_strict: (
        float  # with the last layer only as far as the logits need it, and a common prefix only once
    )


def work_of(
    paths: Sequence[Steps], config: dict[str, Any], lengths: Sequence[int], *, common: int = 0
) -> Work:
    """Count the work of `paths` and of the baseline, on prompts of these lengths in tokens.

    Args:
        paths: layer orders, with the baseline or without.
        config: the model's config.json, of a Llama- or Qwen2-shaped family.
        lengths: tokens of each prompt.
        common: how many first tokens all prompts have in common.
    """
    depth = int(config["num_hidden_layers"])
    different = {tuple(path) for path in paths} - {tuple(range(depth))}
    starts = {path: shared_prefix(path) for path in different}
    nodes = {path[: k + 1] for path in different for k in range(starts[path], len(path))}
    minimal = depth + len(nodes)
    # A node at the end of a path where no other path goes on: only its last token is looked at.
    parents = {node[:-1] for node in nodes}
    leaves = sum(node not in parents for node in nodes)
    leaves += depth not in starts.values()  # the baseline's own last layer, unless a path starts behind it
    once = layer_flops(config, lengths, common=common)
    last = last_layer_flops(config, lengths, common=common)
    return Work(
        naive=depth + sum(map(len, different)),
        shared=depth + sum(len(path) - starts[path] for path in different),
        minimal=minimal,
        flops=minimal * layer_flops(config, lengths),
        flops_strict=(minimal - leaves) * once + leaves * last,
    )


def shared_prefix(path: Steps) -> int:
    """Return how many first steps of a path equal the untouched model's."""
    return next((k for k, layer in enumerate(path) if layer != k), len(path))


def layer_flops(config: dict[str, Any], lengths: Sequence[int], *, common: int = 0) -> float:
    """Return the floating-point operations of the products in one layer: 2·M·K·N each, attention where it is causal.

    The first `common` tokens are counted once instead of once for each prompt.
    """
    hidden, queries, keys, inner = _widths(config)
    per_token = 2.0 * hidden * (2 * queries + 2 * keys + 3 * inner)
    again = len(lengths) - 1
    attended = sum(map(_attended, lengths)) - again * _attended(common)
    return per_token * (sum(lengths) - again * common) + 4.0 * queries * attended


def last_layer_flops(config: dict[str, Any], lengths: Sequence[int], *, common: int = 0) -> float:
    """Return the same of a last layer whose other tokens nobody looks at: keys and values of all, the rest of one."""
    hidden, queries, keys, inner = _widths(config)
    tokens = sum(lengths) - (len(lengths) - 1) * common
    of_all = 2.0 * hidden * 2 * keys * tokens
    of_one = 2.0 * hidden * (2 * queries + 3 * inner) * len(lengths)
    return of_all + of_one + 4.0 * queries * sum(lengths)


def _attended(length: int) -> float:
    """How many pairs of tokens look at each other in a causal prompt."""
    return length * (length + 1) / 2


def _widths(config: dict[str, Any]) -> tuple[int, int, int, int]:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head = int(config.get("head_dim") or hidden // heads)
    keys = int(config.get("num_key_value_heads") or heads) * head
    return hidden, heads * head, keys, int(config["intermediate_size"])
