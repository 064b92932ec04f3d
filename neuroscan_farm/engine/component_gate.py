"""The gate for paths that run one component of a layer: passed, where a run has any, before it spends time.

Every layer must have an attention and an mlp and return its input when both are silent; the fused lane, where it runs,
must equal the model's own layer with one of them silent; and paths with such steps must equal the model's own forward
with what that component returned put aside.
"""

from __future__ import annotations

import logging
from typing import Any

from neuroscan_farm.domain.paths import Component, LayerPath, step_of
from neuroscan_farm.engine.anatomy import Anatomy, architecture_fact, attempt_forward, stack_of
from neuroscan_farm.engine.components import Components, find_components
from neuroscan_farm.engine.executor import Executor
from neuroscan_farm.engine.gate import ROUNDINGS, effect_of_rounding, relative_difference, tolerance_of
from neuroscan_farm.engine.lanes.fused import FusedLane
from neuroscan_farm.engine.lanes.lane import layer_kinds
from neuroscan_farm.engine.prompts import Batch
from neuroscan_farm.engine.replay import last_tokens
from neuroscan_farm.engine.sweep import Failure
from neuroscan_farm.errors import GateError

log = logging.getLogger(__name__)

_SAMPLES = 2
_MOST_KINDS = 4  # of layers whose paths are compared as a whole; each costs two passes of the model


def pass_component_gate(executor: Executor, batches: list[Batch]) -> float:
    """Prove, once for an executor, that it runs components as the model does; return the largest difference seen.

    Raises:
        GateError: a fact does not hold; the message names it, and the family.
    """
    if executor.lane.components is not None:
        return 0.0
    loaded, anatomy = executor.loaded, executor.anatomy
    family = f"{type(loaded.model).__name__} ({stack_of(anatomy.layers)})"
    longest = max(batches, key=lambda batch: batch.token_ids.shape[1])
    token_ids = longest.token_ids[:_SAMPLES].to(loaded.device)
    tolerance = tolerance_of(loaded.dtype)
    components = find_components(anatomy, token_ids)
    components.prove(token_ids, ensure=loaded.layers.ensure)
    if isinstance(executor.lane, FusedLane):
        differs = executor.lane.prove(
            [batch.token_ids.to(loaded.device) for batch in batches],
            tolerance=tolerance,
            ensure=loaded.layers.ensure,
            components=components,
        )
        if differs is not None:
            raise GateError(
                f"{family}: the fused lane does not run the components of this model ({differs}); "
                "use --set engine.lane=general"
            )
    executor.lane.components = components
    try:
        worst = _compare(executor, components, token_ids, family, tolerance)
    except BaseException:
        executor.lane.components = None
        raise
    log.info("component gate passed for %s: largest relative difference %.1e", family, worst)
    return worst


def _compare(
    executor: Executor, components: Components, token_ids: Any, family: str, tolerance: float
) -> float:
    anatomy, model = executor.anatomy, executor.loaded.model
    few: dict[str, Any] = {"use_cache": False, **last_tokens(model, 1)}
    to_prove = {
        _path_with(len(anatomy.layers), k, only): (k, only)
        for k in _some_layers(anatomy)
        for only in Component
    }
    with architecture_fact(model, "running components of its layers"):
        ours = executor.logits(list(to_prove), token_ids)
    worst = 0.0
    for path, (k, only) in to_prove.items():
        found = ours[path]
        if isinstance(found, Failure):
            raise GateError(f"{family}: running the {only} of layer {k} alone failed: {found.detail}")
        with components.silenced_after_all(k, only.other):
            theirs = attempt_forward(
                model, f"silencing the {only.other} of layer {k}", input_ids=token_ids, **few
            ).logits[:, -1]
            difference, allowed = relative_difference(found, theirs), tolerance
            if not difference <= allowed:
                # A deep model may blow up what was rounded; then it does so by itself.
                allowed = max(allowed, ROUNDINGS * effect_of_rounding(anatomy, token_ids, theirs, few))
        if not difference <= allowed:
            raise GateError(
                f"{family}: the path with the {only} of layer {k} alone ({path}) differs from the model whose "
                f"{only.other} there is silent by {difference:.1e} of the largest logit (allowed {allowed:.0e}); "
                "leave out whole layers (--component layer)"
            )
        worst = max(worst, difference)
    return worst


def _some_layers(anatomy: Anatomy) -> list[int]:
    """Return the last layer, whose end is run in another way, and one of each kind of layers, as far as they are few."""
    of_kind: dict[str, int] = {}
    for k, kind in enumerate(layer_kinds(anatomy.layers)):
        of_kind.setdefault(kind, k)
    return sorted({*list(of_kind.values())[:_MOST_KINDS], len(anatomy.layers) - 1})


def _path_with(depth: int, k: int, only: Component) -> LayerPath:
    return LayerPath(step_of(layer, only if layer == k else None) for layer in range(depth))
