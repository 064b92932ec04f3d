"""The machine's matrix-product peak as a contender: the best rate of the two libraries over a few shapes, each round.

A rate is the mean over a burst of a fifth of a second, not the best single call, so that what disturbs the others
disturbs it too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from protocol import Answer, serve

_BURST_SECONDS = 0.2
# Rows, inputs, outputs: what layers of the benchmark's models come to, and what libraries like.
_SHAPES = ((1024, 2048, 2048), (2048, 1024, 2752), (2048, 2752, 1024), (3200, 512, 1408), (4096, 512, 512))


def load(*, threads: int) -> Answer:
    """Make the operands."""
    torch.set_num_threads(threads)
    for rows, inputs, outputs in _SHAPES:
        _OPERANDS.append((torch.randn(rows, inputs), torch.randn(outputs, inputs)))
    return {}


def round_() -> Answer:
    """Return the best rate of this round, in floating-point operations per second, and what reached it."""
    rates = {}
    with torch.inference_mode():
        for x, w in _OPERANDS:
            for library, product in _LIBRARIES.items():
                rates[f"{library} {x.shape[0]}x{x.shape[1]}x{w.shape[0]}"] = _rate(product, x, w)
    best = max(rates, key=lambda name: rates[name])
    return {"flops_per_second": rates[best], "of": best, "seconds": 0.0}


def _rate(product: Callable[..., torch.Tensor], x: torch.Tensor, w: torch.Tensor) -> float:
    product(x, w)
    calls, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < _BURST_SECONDS:
        product(x, w)
        calls += 1
    return 2.0 * x.shape[0] * x.shape[1] * w.shape[0] * calls / seconds


def _onednn(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")


_OPERANDS: list[tuple[torch.Tensor, torch.Tensor]] = []
_LIBRARIES: dict[str, Callable[..., torch.Tensor]] = {"MKL": F.linear}
if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _LIBRARIES["oneDNN"] = _onednn


if __name__ == "__main__":
    serve({"load": load, "round": round_})
