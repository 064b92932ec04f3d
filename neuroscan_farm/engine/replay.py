"""What the model itself computes before its first layer and after its last.

The model's own forward builds embeddings, masks and rotary inputs: it runs once per batch with its layers standing
aside, and what each layer would have been called with is kept. After the last layer the model's own forward takes
over again: final norm, head and logit scaling are its own code too.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from neuroscan_farm.engine.anatomy import Anatomy, LayerCall


def prepare(anatomy: Anatomy, token_ids: torch.Tensor) -> tuple[torch.Tensor, list[LayerCall]]:
    """Run the model up to its layers on `token_ids` [samples, tokens].

    Returns:
        The residual before layer 0, [samples, tokens, hidden], and what each layer is called with.
    """
    kept: list[LayerCall] = []
    first: list[torch.Tensor] = []

    def keep(k: int, positional: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor:
        residual, call = LayerCall.split(positional, named)
        if k == 0:
            first.append(residual)
        kept.append(call)
        return residual

    with torch.inference_mode(), anatomy.intercepted(keep):
        anatomy.model(input_ids=token_ids, use_cache=False, **last_tokens(anatomy.model, 1))
    return first[0], kept


def last_logits(anatomy: Anatomy, token_ids: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return the last token's logits [rows, vocabulary].

    The model's own forward runs with its layers standing aside and `ends` put in the last one's place.

    Args:
        anatomy: the model.
        token_ids: the prompts that the rows belong to, [rows, tokens].
        ends: the residual at boundary L, all of it or the last token's, [rows, tokens or 1, hidden].
    """
    if ends.dim() == 3:
        token_ids = token_ids[:, -ends.shape[1] :]
    last = len(anatomy.layers) - 1

    def answer(k: int, positional: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor:
        passed, _ = LayerCall.split(positional, named)
        return ends.to(passed.device) if k == last else passed

    with torch.inference_mode(), anatomy.intercepted(answer):
        output = anatomy.model(input_ids=token_ids, use_cache=False, **last_tokens(anatomy.model, 1))
    logits: torch.Tensor = output.logits[:, -1]
    return logits


def last_tokens(model: torch.nn.Module, count: int) -> dict[str, int]:
    """Return the argument that asks a model for the logits of its last tokens alone, where it knows one."""
    return (
        {"logits_to_keep": count} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    )
