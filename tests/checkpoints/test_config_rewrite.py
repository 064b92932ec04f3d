"""A config along a path: what speaks of layers is re-ordered, and what does not is left alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.checkpoints.config_rewrite import rewritten
from neuroscan_farm.domain.paths import LayerPath

PATH = LayerPath.parse("0..2,1..3")  # of 4 layers
paths = st.lists(st.integers(0, 3), min_size=1, max_size=12).map(lambda layers: LayerPath(tuple(layers)))


@pytest.mark.parametrize(
    ("said", "along"),
    [
        ({"num_hidden_layers": 4, "hidden_size": 4}, {"num_hidden_layers": 6, "hidden_size": 4}),
        ({"n_layer": 4, "num_blocks": 4}, {"n_layer": 6, "num_blocks": 6}),
        ({"layer_types": list("abcd")}, {"layer_types": list("abcbcd")}),
        ({"sizes": [1, 2, 3, 4], "eos_token_id": [1, 2, 3, 4]}, {"sizes": [1, 2, 3, 2, 3, 4], "eos_token_id": [1, 2, 3, 4]}),
        ({"no_rope_layers": [1, 0, 1, 0]}, {"no_rope_layers": [1, 0, 1, 0, 1, 0]}),
        ({"mlp_only_layers": [1]}, {"mlp_only_layers": [1, 3]}),
        ({"mlp_only_layers": []}, {"mlp_only_layers": []}),
        ({"ple_layer_ids": [2]}, {"ple_layer_ids": [2, 4]}),  # counted from 1
        ({"linear_attn_config": {"kda_layers": [1, 2], "full_attn_layers": [3, 4]}},
         {"linear_attn_config": {"kda_layers": [1, 2, 4], "full_attn_layers": [3, 5, 6]}}),
        ({"first_k_dense_replace": 1}, {"first_k_dense_replace": 1}),
        ({"first_k_dense_replace": 3}, {"first_k_dense_replace": 5}),
        ({"first_k_dense_replace": 2}, {"first_k_dense_replace": 2}),  # no number tells it: the proof will refuse it
        ({"max_window_layers": 4}, {"max_window_layers": 6}),
        ({"max_window_layers": 28}, {"max_window_layers": 30}),
        ({"moe_layer_end_index": 3}, {"moe_layer_end_index": 5}),
        ({"num_nextn_predict_layers": 1}, {"num_nextn_predict_layers": 0}),
        ({"block_types": ["r", "r", "a"]}, {"block_types": list("rrarar")}),
        ({"attention_types": [[["global", "local"], 2]]},
         {"attention_types": [[["global", "local", "global", "local", "global", "local"], 1]]}),
        ({"per_layer_config": {"1": "x"}}, {"per_layer_config": {"1": "x", "3": "x"}}),
        ({"id2label": {"0": "a", "1": "b"}}, {"id2label": {"0": "a", "1": "b"}}),
        ({"text_config": {"num_hidden_layers": 4, "layer_types": list("abcd")}, "vision_config": {"n_layer": 4}},
         {"text_config": {"num_hidden_layers": 6, "layer_types": list("abcbcd")}, "vision_config": {"n_layer": 4}}),
    ],
)  # fmt: skip
def test_what_speaks_of_layers_is_re_ordered(said: dict[str, Any], along: dict[str, Any]) -> None:
    assert rewritten(said, PATH, depth=4) == along


SAID = {
    "num_hidden_layers": 4, "layer_types": list("abcd"), "mlp_only_layers": [1, 2], "ple_layer_ids": [1, 4],
    "first_k_dense_replace": 2, "per_layer_config": {"0": 1, "3": 2}, "block_types": ["r", "r", "a", "r"],
}  # fmt: skip


def test_the_untouched_order_changes_nothing() -> None:
    assert rewritten(SAID, LayerPath.identity(4), depth=4) == SAID


@given(paths)
def test_every_place_says_of_its_layer_what_the_model_said(path: LayerPath) -> None:
    new = rewritten(SAID, path, depth=4)
    assert new["num_hidden_layers"] == len(path)
    assert new["layer_types"] == ["abcd"[layer] for layer in path]
    for name, base in (("mlp_only_layers", 0), ("ple_layer_ids", 1)):
        kinds = [layer + base in SAID[name] for layer in path]  # type: ignore[operator]
        assert [place + base in new[name] for place in range(len(path))] == kinds
    assert SAID["num_hidden_layers"] == 4, "what was given is not touched"
