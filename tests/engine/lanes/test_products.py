"""A product with what follows it equals the steps one by one, and gives a row the same bits in any company."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from neuroscan_farm.engine.lanes import products
from neuroscan_farm.engine.lanes.products import ACTIVATIONS, QuickLinear, linear, quick_linears


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["fused", "plain"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "plain":
        monkeypatch.setattr(products, "_POINTWISE", None)
    return request.param


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 50])
@pytest.mark.parametrize("biased", [False, True])
def test_one_pass_equals_the_steps(rows: int, biased: bool) -> None:
    x, weight = torch.randn(2, rows, 24), torch.randn(40, 24) / 5
    bias = torch.randn(40) if biased else None
    other = torch.randn(2, rows, 40)
    plain = functional.linear(x, weight, bias)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, bias), plain)
        torch.testing.assert_close(linear(x, weight, bias, add=other), plain + other)
        torch.testing.assert_close(linear(x, weight, bias, multiply=other), plain * other)
        for name, activation in ACTIVATIONS.items():
            torch.testing.assert_close(linear(x, weight, bias, activation=name), activation(plain))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operation", ["silu", "gelu", "squared_relu", "add", "multiply"])
def test_a_row_has_the_same_bits_in_any_company(operation: str, dtype: torch.dtype) -> None:
    x, weight = torch.randn(67, 40).to(dtype), (torch.randn(37, 40) / 6).to(dtype)
    other = torch.randn(67, 37).to(dtype)

    def run(rows: slice) -> torch.Tensor:
        if operation in ACTIVATIONS:
            return linear(x[rows], weight, activation=operation)
        return linear(x[rows], weight, **{operation: other[rows]})

    with torch.inference_mode():
        together = run(slice(None))
        for size in (1, 2, 5, 8, 31):
            assert torch.equal(run(slice(3, 3 + size)), together[3 : 3 + size])


def test_a_wider_sum_is_made_in_the_wider_dtype() -> None:
    x, weight = torch.randn(9, 16).bfloat16(), torch.randn(8, 16).bfloat16()
    residual = torch.randn(9, 8) * 1000
    with torch.inference_mode():
        total = linear(x, weight, add=residual)
    assert total.dtype == torch.float32
    assert torch.equal(total, residual + linear(x, weight))


def test_operands_may_be_parts_and_transposed() -> None:
    x, weight, other = torch.randn(12, 48)[:, ::2], torch.randn(24, 40).t(), torch.randn(40, 12).t()
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, add=other), functional.linear(x, weight) + other)


def test_linear_modules_become_quick_and_ordinary_again() -> None:
    class Special(nn.Linear):
        pass

    block = nn.Sequential(
        nn.Linear(8, 16), nn.SiLU(), Special(16, 8), nn.Sequential(nn.Linear(8, 8, bias=False))
    )
    x = torch.randn(5, 8)
    with torch.inference_mode():
        before = block(x)
        assert quick_linears([block, block]) == 2
        assert quick_linears([block]) == 0
        assert [type(module) for module in block.modules() if isinstance(module, nn.Linear)] == [
            QuickLinear,
            Special,
            QuickLinear,
        ]
        torch.testing.assert_close(block(x), before)
        twin = copy.copy(block[0])
        twin._parameters = {"weight": nn.Parameter(torch.zeros(16, 8)), "bias": nn.Parameter(torch.ones(16))}
        assert torch.equal(twin(x), torch.ones(5, 16)), "a twin has its own weights"
        assert quick_linears([block], quick=False) == 2
        assert type(block[0]) is nn.Linear
        assert torch.equal(block(x), before)


def test_a_quick_linear_can_still_be_trained() -> None:
    layer = nn.Linear(4, 4)
    quick_linears([layer])
    layer(torch.ones(2, 4)).sum().backward()
    assert layer.weight.grad is not None
