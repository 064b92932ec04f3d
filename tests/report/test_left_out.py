"""What a path leaves out, read from its steps."""

from __future__ import annotations

import pytest

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.report.left_out import LeftOut, left_out_by, without_text


@pytest.mark.parametrize(
    ("path", "gone", "name"),
    [
        ("0..1,3..5", [(2, "layer")], "without 2"),
        ("1..5", [(0, "layer")], "without 0"),
        ("0..4", [(5, "layer")], "without 5"),
        ("0,2,4..5", [(1, "layer"), (3, "layer")], "without 1 and 3"),
        ("1,3,5", [(0, "layer"), (2, "layer"), (4, "layer")], "without 0, 2 and 4"),
        ("0..2,3:mlp,4..5", [(3, "attention")], "without attention of 3"),
        ("0..2,3:attention,4..5", [(3, "mlp")], "without mlp of 3"),
        ("0..2,3:mlp,5", [(3, "attention"), (4, "layer")], "without attention of 3 and 4"),
    ],
)
def test_what_is_left_out_is_read_from_the_path(path: str, gone: list[tuple[int, str]], name: str) -> None:
    found = left_out_by(LayerPath.parse(path), 6)
    assert found == tuple(LeftOut(*one) for one in gone)
    assert without_text(found) == name


@pytest.mark.parametrize(
    "path", ["0..5", "0..3,2..5", "0..2,2,4..5", "1,0,2..5", "0..2,3:mlp,3:attention,4..5", "0..2,3,3:mlp,5"]
)
def test_what_runs_a_layer_twice_or_changes_the_order_is_no_ablation(path: str) -> None:
    assert left_out_by(LayerPath.parse(path), 6) is None


def test_a_path_that_leaves_out_most_of_the_model_has_no_short_name() -> None:
    assert without_text(left_out_by(LayerPath.parse("9"), 10)) is None
