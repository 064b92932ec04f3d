"""Running single layers with the arguments that the model itself computed for them.

The model's own forward builds embeddings, masks and rotary inputs: it runs once per batch with its layers standing
aside, and what each layer would have been called with is kept. After the last layer the model's own forward takes
over again: final norm, head and logit scaling are its own code too.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from neuroscan_farm.engine.anatomy import Anatomy, LayerCall


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch that is ready to run: the first residual and each layer's own arguments."""

    token_ids: torch.Tensor  # [samples, tokens], on the model's device
    embedded: torch.Tensor  # boundary 0: the residual before layer 0, [samples, tokens, hidden]
    calls: tuple[LayerCall, ...]  # one for each layer of the model


def prepare_batch(anatomy: Anatomy, token_ids: torch.Tensor) -> Prepared:
    """Run the model up to its layers on `token_ids` [samples, tokens] and keep what each layer is called with."""
    kept: list[LayerCall] = []
    first: list[torch.Tensor] = []

    def keep(k: int, positional: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor:
        residual, call = LayerCall.split(positional, named)
        if k == 0:
            first.append(residual)
        kept.append(call)
        return residual

    with torch.inference_mode(), anatomy.intercepted(keep):
        anatomy.model(input_ids=token_ids, use_cache=False, **_last_only(anatomy.model))
    return Prepared(token_ids, first[0], tuple(kept))


def run_layers(
    anatomy: Anatomy, prepared: Prepared, residual: torch.Tensor, layers: tuple[int, ...]
) -> torch.Tensor:
    """Run `layers` one after the other on `residual` [samples, tokens, hidden]; return the residual after the last."""
    with torch.inference_mode():
        for k in layers:
            residual = prepared.calls[k](anatomy.layers[k], residual)
    return residual


def last_logits(anatomy: Anatomy, prepared: Prepared, residual: torch.Tensor) -> torch.Tensor:
    """Return the last token's logits [samples, vocabulary] for the residual at boundary L.

    The model's own forward runs with its layers standing aside and `residual` put in the last one's place.
    """
    token_ids = prepared.token_ids
    if residual.dim() == 3:  # only the last token's norm and head are needed
        residual, token_ids = residual[:, -1:], token_ids[:, -1:]
    last = len(anatomy.layers) - 1

    def answer(k: int, positional: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor:
        passed, _ = LayerCall.split(positional, named)
        return residual.to(passed.device) if k == last else passed

    with torch.inference_mode(), anatomy.intercepted(answer):
        output = anatomy.model(input_ids=token_ids, use_cache=False, **_last_only(anatomy.model))
    logits: torch.Tensor = output.logits[:, -1]
    return logits


def _last_only(model: torch.nn.Module) -> dict[str, int]:
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
