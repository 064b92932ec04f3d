"""Activation functions whose result does not depend on where an element stands.

On a CPU, torch computes most elements of an activation by vectors and the few at the end of each thread's part one by
one, with another approximation: the last bits of an element then depend on the size of the tensor and on the number of
threads. Here every element goes through the vectors, because parts are filled up to whole ones. (Found by comparing
3,200 random numbers with the same numbers in pieces of 31, torch 2.13: these functions differed, in 2 to 28 % of them.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_INEXACT: frozenset[Any] = frozenset(
    {
        functional.silu,
        functional.gelu,
        functional.softplus,
        functional.mish,
        functional.elu,
        functional.sigmoid,
        torch.sigmoid,
        torch.exp2,
        torch.Tensor.sigmoid,
        torch.Tensor.exp2,
        torch._C._nn.silu,
        torch._C._nn.gelu,
        torch._C._nn.softplus,
    }
)
_VECTORS = 32  # elements of one step of torch's vectorised loops, at most
_GRAIN = 32_768  # elements below which torch does not share out an element-wise function over threads


class Aligned(TorchFunctionMode):
    """While this is entered, the activation functions above give the same bits for an element wherever it stands."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func`, on whole vectors where it is one of the functions that need it."""
        kwargs = kwargs or {}
        if func in _INEXACT and args and args[0].device.type == "cpu":
            return _on_whole_vectors(
                func, args[0], args[1:], {k: v for k, v in kwargs.items() if k != "inplace"}
            )
        return func(*args, **kwargs)


def _on_whole_vectors(
    func: Callable[..., torch.Tensor], x: torch.Tensor, rest: Sequence[Any], kwargs: Mapping[str, Any]
) -> torch.Tensor:
    size = x.numel()
    filled = _filled(size)
    if filled == size and x.is_contiguous():
        return func(x, *rest, **kwargs)
    room = x.new_zeros(filled)
    room[:size].view(x.shape).copy_(x)
    return func(room, *rest, **kwargs)[:size].view(x.shape)


def _filled(size: int) -> int:
    """Return the smallest size, `size` or more, that torch shares out over its threads in whole vectors.

    Most functions are shared out in parts of at least `_GRAIN` elements, gelu in as many parts as there are threads.
    """
    threads = torch.get_num_threads()
    while True:
        parts = 1 if size < _GRAIN else min(threads, math.ceil(size / _GRAIN))
        multiple = math.lcm(parts, threads) * _VECTORS
        filled = math.ceil(size / multiple) * multiple
        if filled == size:
            return size
        size = filled
