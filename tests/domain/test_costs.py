"""What a path costs, counted by hand."""

from __future__ import annotations

import pytest

from neuroscan_farm.domain.costs import Cost, cost_of
from neuroscan_farm.domain.paths import Block, LayerPath

PARAMETERS, KV_BYTES = (10, 20, 30, 40), (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("path", "cost"),
    [
        (LayerPath.identity(4), Cost(0, 0, 0, 1.0)),
        (LayerPath.duplicating([Block(1, 3)], 4), Cost(2, 50, 6, 1.5)),
        (LayerPath.duplicating([Block(3, 4, 3)], 4), Cost(2, 80, 16, 1.5)),
        (LayerPath.parse("0..1,3"), Cost(-1, -30, -4, 0.75)),
        (LayerPath.parse("3,3,3,3"), Cost(0, 60, 17, 1.0)),
    ],
    ids=str,
)
def test_a_path_costs_what_its_visits_add(path: LayerPath, cost: Cost) -> None:
    assert cost_of(path, 4, PARAMETERS, KV_BYTES) == cost


def test_what_the_model_does_not_tell_is_absent_and_not_zero() -> None:
    path = LayerPath.duplicating([Block(0, 1)], 4)
    assert cost_of(path, 4) == Cost(1, None, None, 1.25)
    assert cost_of(LayerPath.parse("0,1:mlp,2:attention,3"), 4, PARAMETERS) == Cost(
        0, None, None, 1.0, in_part=2
    )
    assert cost_of(path, 4, PARAMETERS) == Cost(1, 10, None, 1.25)


def test_half_a_layer_has_no_known_parameters_and_counts_as_one_visit() -> None:
    path = LayerPath.parse("0..1,2:mlp,3")
    assert cost_of(path, 4, PARAMETERS, KV_BYTES) == Cost(0, None, None, 1.0, in_part=1)
