"""Matrix products of layers, with what follows them done in the same pass.

On a CPU, oneDNN's product is a little faster than the library that torch's own linear uses, gives a row the same bits
whatever the other rows are (from two on) and whatever the number of threads, and applies an activation, a product or
a sum while the result is still in a register. Elsewhere, and where torch was built without it, plain torch does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from neuroscan_farm.engine.lanes.aligned import Aligned

# Products of fewer rows take other kernels, whose sums round differently: rows are repeated up to this many.
FEWEST_ROWS = 8


def _squared_relu(x: torch.Tensor) -> torch.Tensor:
    return functional.relu(x).square()


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "squared_relu": _squared_relu,
}
# The same as oneDNN knows them: its name, and the algorithm where it has several.
_FUSED_ACTIVATIONS = {
    "silu": ("swish", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}


def _find_pointwise() -> Any:
    if not torch._C._has_mkldnn:
        return None
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return found if found is not None and "binary" in found.overloads() else None


_POINTWISE = _find_pointwise()
_FUSED_DTYPES = {torch.float32}
if _POINTWISE is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    _FUSED_DTYPES.add(torch.bfloat16)  # no faster than torch's own, but rounded once and not after every step


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: str | None = None,
    multiply: torch.Tensor | None = None,
    add: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `x @ weight.T + bias`, and one thing more at most: activated, multiplied or added to elementwise.

    Args:
        x: [..., in].
        weight: [out, in].
        bias: [out].
        activation: a name in `ACTIVATIONS`.
        multiply: [..., out].
        add: [..., out]; where it has a wider dtype than `x`, the sum is made in that one.
    """
    rows = x.reshape(-1, x.shape[-1])
    other = multiply if multiply is not None else add
    if other is not None:
        other = other.reshape(-1, other.shape[-1])
    count = len(rows)
    if 0 < count < FEWEST_ROWS:
        repeats = -(-FEWEST_ROWS // count)
        rows = rows.repeat(repeats, 1)
        other = None if other is None else other.repeat(repeats, 1)
    operation = activation if other is None else "mul" if multiply is not None else "add"
    out = _product(rows, weight, bias, operation, other)
    return out[:count].view(*x.shape[:-1], out.shape[-1])


def _product(
    rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    operation: str | None,
    other: torch.Tensor | None,
) -> torch.Tensor:
    fused = _has_fused_product(rows, weight)
    if fused and other is None and (operation is None or operation in _FUSED_ACTIVATIONS):
        name, algorithm = _FUSED_ACTIVATIONS.get(operation or "", ("none", ""))
        out: torch.Tensor = _POINTWISE(rows, weight, bias, name, [], algorithm)
        return out
    if fused and other is not None and other.dtype == rows.dtype:
        # oneDNN reads the other operand as it lies in memory
        joined: torch.Tensor = _POINTWISE.binary(rows, other.contiguous(), weight, bias, operation)
        return joined
    plain = _plain_product(rows, weight, bias)
    if other is None:
        if operation is None:
            return plain
        with Aligned():
            return ACTIVATIONS[operation](plain)
    if other.dtype != plain.dtype:
        return other + plain if operation == "add" else other * plain
    return plain.add_(other) if operation == "add" else plain.mul_(other)


def _plain_product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if _has_fused_product(rows, weight):
        out: torch.Tensor = _POINTWISE(rows, weight, bias, "none", [], "")
        return out
    return functional.linear(rows, weight, bias)


def _has_fused_product(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        _POINTWISE is not None
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in _FUSED_DTYPES
        and x.numel() > 0
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    )


class QuickLinear(nn.Linear):
    """An `nn.Linear` that makes its product with oneDNN where it can; an ordinary one is turned into it and back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x @ weight.T + bias`."""
        return _plain_product(x, self.weight, self.bias)


def quick_linears(layers: Iterable[nn.Module], *, quick: bool = True) -> int:
    """Let the linear modules inside these layers use oneDNN's product, or, with `quick=False`, no longer.

    Only modules of exactly torch's class are touched, by giving them another class: weights, names and shallow
    copies are not. Doing it twice does it once.

    Returns:
        How many modules were changed.
    """
    before, after = (nn.Linear, QuickLinear) if quick else (QuickLinear, nn.Linear)
    found = {id(module): module for layer in layers for module in layer.modules() if type(module) is before}
    for module in found.values():
        module.__class__ = after
    return len(found)
