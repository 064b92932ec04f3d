"""How alike layers are: cosines between the residual streams that the untouched model has after each of its layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neuroscan_farm.engine.executor import Executor
from neuroscan_farm.engine.prompts import Batch
from neuroscan_farm.errors import ModelError


def layer_similarity(executor: Executor, batches: Sequence[Batch]) -> list[list[float]]:
    """Return [depth][depth]: the cosine of the last token's residuals after two layers, mean over all samples.

    neuro-scan takes the first sample alone. A residual of zeros is like nothing: its cosines are 0.

    Raises:
        ModelError: the family's residual is not [samples, tokens, hidden], or is not finite on these samples.
    """
    total: torch.Tensor | None = None
    samples = 0
    for ends in executor.baseline_ends(batches):
        if ends.dim() != 4 or ends.shape[2] != 1:
            raise ModelError(
                f"{type(executor.loaded.model).__name__}: its residual stream is not one vector for each token, so "
                "layers cannot be compared; use --strategy fast or exhaustive"
            )
        vectors = ends[:, :, 0].to("cpu", torch.float64)  # [layers, samples, hidden]
        if not torch.isfinite(vectors).all():
            raise ModelError(
                f"{type(executor.loaded.model).__name__}: the untouched model's residual stream is not finite in "
                f"{executor.loaded.dtype}, so layers cannot be compared; try --dtype float32"
            )
        norms = vectors.norm(dim=-1, keepdim=True)
        unit = torch.where(norms > 0, vectors / norms, 0.0)
        cosines = torch.einsum("ash,bsh->ab", unit, unit)
        total = cosines if total is None else total + cosines
        samples += vectors.shape[1]
    assert total is not None
    mean = total / samples
    rows: list[list[float]] = ((mean + mean.T) / 2).clamp(-1, 1).tolist()
    return rows
