"""Norms: what kind of normalisation a module is, and the same in few passes over memory."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_EPS_NAMES = ("variance_epsilon", "eps", "epsilon")
_KINDS = ((False, 0.0), (False, 1.0), (True, 0.0))  # centred, offset: RMSNorm, Gemma's RMSNorm, LayerNorm


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation over the last dimension."""

    module: nn.Module
    centred: bool  # whether the mean is subtracted: LayerNorm, not RMSNorm
    offset: float  # what is added to the weight
    eps: float

    @property
    def weight(self) -> torch.Tensor | None:
        """The weight as it is now."""
        weight: torch.Tensor | None = getattr(self.module, "weight", None)
        return weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias as it is now."""
        bias: torch.Tensor | None = getattr(self.module, "bias", None)
        return bias


def normed(norm: Norm, x: torch.Tensor) -> torch.Tensor:
    """Return `x` [..., width], normalised; narrow floats are summed in float32."""
    weight, bias = norm.weight, norm.bias
    weight = None if weight is None else weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    if norm.offset and weight is not None:
        weight = weight + norm.offset
    if norm.centred:
        return functional.layer_norm(x, x.shape[-1:], weight, bias, norm.eps)
    if x.device.type != "cpu" or x.dtype != torch.float32:
        out = functional.rms_norm(x, x.shape[-1:], weight, norm.eps)
    else:  # fewer passes over memory than torch's own
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        out = x * scale.square_().div_(float(x.shape[-1])).add_(norm.eps).rsqrt_()
        out = out if weight is None else out.mul_(weight)
    return out if bias is None else out + bias


def recognise_norm(module: nn.Module) -> Norm | None:
    """Say what kind of norm a module is, by what a twin of it with weights of its own makes of small numbers."""
    sizes = {name: parameter.shape for name, parameter in module.named_parameters()}
    eps = next(
        (found for name in _EPS_NAMES if isinstance(found := getattr(module, name, None), float)), None
    )
    if not set(sizes) <= {"weight", "bias"} or any(len(size) != 1 for size in sizes.values()) or eps is None:
        return None
    generator = torch.Generator().manual_seed(0)
    twin = copy.copy(module)
    twin.__dict__ = {**module.__dict__, "_parameters": dict(module._parameters)}
    for name, size in sizes.items():
        weight = torch.rand(size, generator=generator) + 0.5
        twin._parameters[name] = nn.Parameter(weight, requires_grad=False)
    x = torch.randn(3, _width(module), generator=generator) * 0.01 + 0.005  # small enough for eps to show
    with torch.inference_mode():
        theirs = type(module).forward(twin, x)
        for centred, offset in _KINDS:
            ours = normed(Norm(twin, centred, offset, eps), x)
            if torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5):
                return Norm(module, centred, offset, eps)
    return None


def _width(module: nn.Module) -> int:
    for parameter in module.parameters():
        return len(parameter)
    shape: Any = getattr(module, "normalized_shape", 64)
    return int(shape[-1]) if isinstance(shape, tuple | list) else int(shape)
