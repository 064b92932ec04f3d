"""Activation functions on whole vectors: the same bits in a tensor of any size and with any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch.nn import functional

from neuroscan_farm.engine.lanes.aligned import Aligned

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "silu in place": lambda x: functional.silu(x.clone(), inplace=True),
    "the module": torch.nn.SiLU(),
    "gelu": functional.gelu,
    "gelu with tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "a method": lambda x: x.sigmoid(),
    "softplus": functional.softplus,
    "mish": functional.mish,
    "elu": functional.elu,
}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_element_has_the_same_bits_wherever_it_stands(name: str) -> None:
    function = FUNCTIONS[name]
    x = torch.randn(120_017, generator=torch.Generator().manual_seed(0)) * 2
    torch.set_num_threads(1)
    with Aligned():
        whole = function(x)
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            assert torch.equal(function(x), whole)
            for size in (1, 7, 31, 32, 100, 33_333, 65_537, 99_999):
                assert torch.equal(function(x[5 : 5 + size]), whole[5 : 5 + size])
    assert torch.allclose(whole, function(x), rtol=1e-5, atol=1e-7)


def test_without_it_they_do_not() -> None:
    x = torch.randn(3_200, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    whole = functional.silu(x)
    pieces = torch.cat([functional.silu(piece) for piece in x.split(31)])
    assert not torch.equal(whole, pieces)


def test_shapes_and_strides_are_kept_in_meaning() -> None:
    x = torch.randn(6, 10, 14).transpose(0, 2)[:, ::2]
    with Aligned():
        assert torch.allclose(functional.silu(x), functional.silu(x.contiguous()))
        assert functional.silu(x).shape == x.shape
