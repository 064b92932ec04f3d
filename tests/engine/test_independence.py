"""Layers that are reached by more than the residual stream are refused, and the message names by what."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.engine.anatomy import LayerCall, find_anatomy
from neuroscan_farm.engine.independence import (
    CallAside,
    Visit,
    arguments_by_name,
    require_no_crossing_state,
    require_no_place,
)
from neuroscan_farm.errors import GateError, ModelError
from tests.tiny_models import tiny_model

RESIDUAL = torch.ones(1, 2, 4)
TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10]])


class _Layer(nn.Module):
    """Adds what it is told to add."""

    def __init__(self, scale: float = 1.0, layer_idx: int = 0, kept: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.scale = scale
        self.layer_idx = layer_idx
        self.register_buffer("kept", torch.tensor(kept), persistent=False)

    def forward(
        self, hidden: torch.Tensor, extra: Any = None, place: int = 0, count: int = 1
    ) -> torch.Tensor:
        return hidden * self.scale + (0.0 if extra is None else extra) + (place % 2) * count


def visit(layer: nn.Module, before: torch.Tensor, *positional: Any, **named: Any) -> Visit:
    call = LayerCall(positional, named, None)
    arguments = arguments_by_name(layer, positional, named)
    return Visit(layer, before, call, arguments, call(layer, before), torch.Tensor, 0)


def aside(layer: nn.Module, *positional: Any, **named: Any) -> CallAside:
    return CallAside(LayerCall(positional, named, None), arguments_by_name(layer, positional, named))


def chain(*calls: dict[str, Any], scale: float = 1.0) -> list[Visit]:
    visits, residual = [], RESIDUAL
    for named in calls:
        visits.append(visit(_Layer(scale), residual, **named))
        residual = visits[-1].after
    return visits


def test_layers_that_only_read_the_residual_are_independent() -> None:
    visits = chain({"extra": 0.5}, {"extra": 0.5})
    require_no_crossing_state("Model", visits, [aside(one.layer, extra=0.5) for one in visits])


def test_an_argument_of_the_layers_before_is_named() -> None:
    visits = chain({"extra": None}, {"extra": torch.tensor(2.0)})
    alone = [aside(one.layer, extra=None) for one in visits]
    with pytest.raises(
        GateError, match="Model: layer 1 depends on `extra`, which comes from the layers before"
    ):
        require_no_crossing_state("Model", visits, alone)


def test_an_argument_of_the_layers_before_that_changes_nothing_is_none() -> None:
    visits = chain({"extra": None}, {"extra": torch.tensor(0.0)})
    require_no_crossing_state("Model", visits, [aside(one.layer, extra=None) for one in visits])


def test_a_dict_that_is_filled_on_the_way_is_seen_as_it_was() -> None:
    shared: dict[str, torch.Tensor] = {}
    before = arguments_by_name(_Layer(), (shared,), {})
    shared["keys"] = torch.ones(1)
    assert before == {"extra": []}
    assert arguments_by_name(_Layer(), (shared,), {}) == {"extra": ["keys", torch.ones(1)]}


def test_a_model_that_works_between_two_layers_is_refused() -> None:
    visits = [*chain({}), visit(_Layer(), RESIDUAL / 2)]
    with pytest.raises(GateError, match="changes the residual stream between its layers 0 and 1"):
        require_no_crossing_state("Model", visits, [aside(one.layer) for one in visits])


def test_a_layer_that_uses_the_place_it_is_told_is_refused() -> None:
    visits = chain({"place": 0}, {"place": 1})
    alone = [aside(one.layer, place=k) for k, one in enumerate(visits)]
    with pytest.raises(GateError, match=r"depend on their own index \(place\)"):
        require_no_crossing_state("Model", visits, alone)


def test_a_number_that_happens_to_be_the_place_of_one_layer_is_none() -> None:
    visits = chain({"count": 1, "extra": 1.0}, {"count": 1, "extra": 1.0}, {"count": 1, "extra": 1.0})
    require_no_crossing_state("Model", visits, [aside(one.layer, count=1, extra=1.0) for one in visits])


def constants(layers: list[nn.Module], **config: Any) -> None:
    require_no_place("Model", layers, [SimpleNamespace(**config)], place_names=("layer_idx",))


def test_numbers_that_a_layer_was_given_because_of_its_place_are_named() -> None:
    with pytest.raises(GateError, match=r"depend on their own index \(kept, scale\)"):
        constants([_Layer(scale=0.5**k, kept=float(k)) for k in range(4)])


def test_what_the_config_says_of_each_layer_and_what_only_numbers_it_is_no_constant_of_place() -> None:
    constants([_Layer(layer_idx=k) for k in range(4)])
    constants([_Layer(scale=1.0 + k % 2) for k in range(4)], kinds=["a", "b", "a", "b"])
    constants([_Layer(scale=1.0 + k % 2) for k in range(4)], special_layers=[1, 3])
    with pytest.raises(GateError, match="scale"):
        constants([_Layer(scale=1.0 + k % 2) for k in range(4)], kinds=["a", "a", "b", "b"])


def test_layers_that_are_scaled_by_the_depth_are_refused() -> None:
    constants([_Layer(), _Layer()], scale_depth=None)
    with pytest.raises(GateError, match=r"scaled by how many there are \(scale_depth\)"):
        constants([_Layer(), _Layer()], scale_depth=1.4)


def test_why_a_list_of_the_right_length_is_not_the_decoder_is_said() -> None:
    with pytest.raises(ModelError, match="layers, of which 3 are not called"):
        find_anatomy(tiny_model("mllama").eval(), TOKENS, depth=6)
    with pytest.raises(ModelError, match="layers, called 36 times; layers, called 12 times"):
        find_anatomy(tiny_model("hrm_text").eval(), TOKENS, depth=6)


def test_inputs_that_a_model_makes_for_all_layers_at_once_are_reordered_with_them_and_put_back() -> None:
    model: Any = tiny_model("gemma3n_text").eval()
    anatomy = find_anatomy(model, TOKENS, depth=6)
    with torch.inference_mode():
        before = model(input_ids=TOKENS, use_cache=False).logits
        with anatomy.rebuilt(LayerPath.parse("0..3,1..5")) as rebuilt:
            assert not torch.allclose(rebuilt(input_ids=TOKENS, use_cache=False).logits, before)
        assert torch.equal(model(input_ids=TOKENS, use_cache=False).logits, before)
