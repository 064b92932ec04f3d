"""The gate: proof, on the model at hand, that replayed layers are the model. Passed before a run spends time.

Three facts are checked on a few real prompts. The model is causal. The identity path, run by the executor from
single layers, equals the untouched model. Paths with a duplicated block, a skipped layer and a repeated first or last
layer equal the same model with its layer list physically rebuilt, run by its own forward.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch

from neuroscan_farm.domain.paths import Block, LayerPath
from neuroscan_farm.engine.anatomy import (
    Anatomy,
    architecture_fact,
    attempt_forward,
    stack_of,
)
from neuroscan_farm.engine.executor import Executor
from neuroscan_farm.engine.prompts import Batch
from neuroscan_farm.engine.replay import last_tokens
from neuroscan_farm.engine.sweep import Failure
from neuroscan_farm.errors import GateError

log = logging.getLogger(__name__)

# Largest difference of a logit, as a share of the largest logit: the same arithmetic in other shapes rounds differently.
_TOLERANCE = {"float32": 1e-5, "bfloat16": 4e-2, "float16": 5e-3}
_SAMPLES = 2
ROUNDINGS = 4  # each layer rounds some such number of times


def pass_gate(executor: Executor, batches: list[Batch]) -> float:
    """Prove the executor on this model; return the largest relative difference seen.

    Raises:
        GateError: a fact does not hold; the message names it.
    """
    model, anatomy = executor.loaded.model, executor.anatomy
    family = f"{type(model).__name__} ({stack_of(anatomy.layers)})"
    longest = max(batches, key=lambda batch: batch.token_ids.shape[1])  # which masks matter most for
    token_ids = longest.token_ids[:_SAMPLES].to(executor.loaded.device)
    tolerance = tolerance_of(executor.loaded.dtype)
    # Of all tokens, the logits of a long prompt may take more memory than the model.
    few: dict[str, Any] = {"use_cache": False, **last_tokens(model, 2)}
    untouched = attempt_forward(model, "its own forward", input_ids=token_ids, **few).logits
    if not torch.isfinite(untouched[:, -1]).all():
        raise GateError(
            f"{family}: the untouched model's own logits are not finite in {executor.loaded.dtype}; "
            + (
                "its weights are damaged"
                if executor.loaded.dtype == "float32"
                else "try --dtype float32 or bfloat16"
            )
        )

    if token_ids.shape[1] > 1:
        changed = token_ids.clone()
        changed[:, -1] = token_ids[:, 0].where(token_ids[:, 0] != token_ids[:, -1], token_ids[:, -1] ^ 1)
        other = attempt_forward(model, "its own forward", input_ids=changed, **few).logits
        difference = relative_difference(other[:, :-1], untouched[:, :-1])
        if difference > tolerance:
            raise GateError(
                f"{family}: not causal: changing the last token moved earlier logits by {difference:.1e} of the largest; "
                "only decoders can be scanned (if it is one, try --attention eager)"
            )

    depth = len(anatomy.layers)
    identity = LayerPath.identity(depth)
    to_prove = _paths_to_prove(depth)
    with architecture_fact(model, "running its layers one by one"):
        ours = executor.logits([identity, *(path for _, path in to_prove)], token_ids)
    worst = relative_difference(
        _run(ours, identity, family, "running its layers one by one"), untouched[:, -1]
    )
    if not worst <= tolerance:  # a deep model may blow up what was rounded; then it does so by itself
        tolerance = max(tolerance, ROUNDINGS * effect_of_rounding(anatomy, token_ids, untouched[:, -1], few))
    if not worst <= tolerance:
        raise GateError(
            f"{family}: the identity path differs from the untouched model by {worst:.1e} of the largest logit "
            f"(allowed {tolerance:.0e}): state crosses its layers outside the residual stream; not supported"
        )
    for fact, path in to_prove:
        found = _run(ours, path, family, f"running its layers with {fact} ({path})")
        with anatomy.rebuilt(path) as rebuilt:
            theirs = attempt_forward(
                rebuilt, f"rebuilding it with {fact} ({path})", input_ids=token_ids, **few
            ).logits[:, -1]
            difference, allowed = relative_difference(found, theirs), tolerance
            if not difference <= allowed:
                # As above: the rebuilt model may blow up what the untouched one does not.
                allowed = max(tolerance, ROUNDINGS * effect_of_rounding(anatomy, token_ids, theirs, few))
        if not difference <= allowed:
            raise GateError(
                f"{family}: the path with {fact} ({path}) differs from the physically rebuilt model by {difference:.1e} "
                f"of the largest logit (allowed {allowed:.0e}): its layers depend on more than the residual stream, such "
                "as their own index; not supported"
            )
        worst = max(worst, difference)
    log.info("gate passed for %s: largest relative difference %.1e", family, worst)
    return worst


def tolerance_of(dtype: str) -> float:
    """Return how far two ways of the same arithmetic may differ, as a share of the largest number."""
    return _TOLERANCE.get(dtype, 1e-5)


def effect_of_rounding(
    anatomy: Anatomy, token_ids: torch.Tensor, untouched: torch.Tensor, few: dict[str, Any]
) -> float:
    """Return how far the model's own logits move when each layer's output is off by one unit of rounding."""
    generator = torch.Generator().manual_seed(0)

    def round_off(_: torch.nn.Module, __: object, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple | list) else output
        signs = torch.randint(0, 2, first.shape, generator=generator).to(first.device) * 2 - 1
        moved = first * (1 + signs * torch.finfo(first.dtype).eps)
        return type(output)((moved, *output[1:])) if isinstance(output, tuple | list) else moved

    handles = [layer.register_forward_hook(round_off) for layer in anatomy.layers]
    try:
        moved = attempt_forward(anatomy.model, "its own forward", input_ids=token_ids, **few).logits
    finally:
        for handle in handles:
            handle.remove()
    return relative_difference(moved[:, -1], untouched)


def _run(
    ours: dict[LayerPath, torch.Tensor | Failure], path: LayerPath, family: str, tried: str
) -> torch.Tensor:
    found = ours[path]
    if isinstance(found, Failure):
        raise GateError(f"{family}: {tried} failed: {found.detail}; this family is not supported")
    return found


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest absolute difference as a share of the largest absolute value of `theirs`.

    A path may overflow in the model itself: what is not finite must be so on both sides, and is not compared.
    """
    finite = torch.isfinite(theirs)
    if not torch.equal(torch.isfinite(ours), finite):
        return math.inf
    if not finite.any():
        return 0.0
    ours, theirs = ours[finite].float(), theirs[finite].float()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))


def _paths_to_prove(depth: int) -> list[tuple[str, LayerPath]]:
    middle = Block(depth // 3, max(depth // 3 + 1, 2 * depth // 3))
    paths = [
        ("a duplicated block", LayerPath.duplicating([middle], depth)),
        ("its first layer repeated", LayerPath.duplicating([Block(0, 1)], depth)),
        ("its last layer repeated", LayerPath.duplicating([Block(depth - 1, depth)], depth)),
    ]
    if depth > 1:
        kept = [k for k in range(depth) if k != depth // 2]
        paths.append(("a skipped layer", LayerPath(tuple(kept))))
    return paths
