"""Controls: random windows of the same length, distinct, the same on every machine, as many as there are."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.analyses import get_analysis, read_request
from neuroscan_farm.analyses.controls import control_blocks
from neuroscan_farm.analyses.duplication import DuplicationParameters
from neuroscan_farm.domain.paths import Block, parse_blocks
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.errors import RequestError

DUPLICATION = get_analysis("duplication")


def expand(depth: int, **parameters: object) -> list[Task]:
    return DUPLICATION.expand(
        DuplicationParameters.model_validate(parameters), depth=depth, probe_digests=["d"]
    )


@given(st.integers(2, 20), st.integers(1, 30), st.data())
def test_windows_of_one_block_are_distinct_as_long_as_it_and_not_itself(
    depth: int, count: int, data: st.DataObject
) -> None:
    i = data.draw(st.integers(0, depth - 1))
    block = Block(i, data.draw(st.integers(i + 1, depth)), data.draw(st.integers(2, 3)))
    found = control_blocks([block], count=count, first=0, end=depth)
    assert len(set(found)) == len(found) == min(count, depth - (block.j - block.i))
    for (window,) in found:
        assert (window.j - window.i, window.times) == (block.j - block.i, block.times)
        assert window != block
        assert window.i >= 0
        assert window.j <= depth
    assert found == control_blocks([block], count=count, first=0, end=depth)


def test_when_all_are_asked_for_all_are_there() -> None:
    found = control_blocks([Block(3, 5)], count=99, first=2, end=9)
    assert {window.i for (window,) in found} == {2, 4, 5, 6, 7}


def test_several_blocks_keep_their_lengths_and_order_and_do_not_overlap() -> None:
    blocks = parse_blocks("1,3;6,7x3")
    found = control_blocks(blocks, count=10_000, first=0, end=8)
    expected = {
        (Block(a, a + 2), Block(b, b + 1, 3))
        for a, b in itertools.product(range(8), repeat=2)
        if a + 2 <= b < 8
    } - {blocks}
    assert set(found) == expected


def test_the_windows_of_a_deep_model_are_drawn_evenly() -> None:
    blocks = [Block(0, 2), Block(5, 6), Block(9, 12)]  # many thousands of placements: drawn, not written out
    found = control_blocks(blocks, count=3_000, first=0, end=60)
    assert len(set(found)) == 3_000
    starts = Counter(first.i < 27 for first, _, _ in found)
    # The first of three windows begins in the lower half far more often than not; the last one mirrors it.
    mirrored = Counter(last.j > 60 - 27 for _, _, last in found)
    assert starts[True] / 3_000 == pytest.approx(mirrored[True] / 3_000, abs=0.04)
    assert 0.8 < starts[True] / 3_000 < 0.95


def test_a_block_that_fills_the_room_has_no_controls() -> None:
    assert control_blocks([Block(0, 8)], count=5, first=0, end=8) == []
    assert control_blocks([Block(0, 8)], count=5, first=2, end=8) == []


def test_controls_come_after_the_named_blocks_and_none_is_one_of_them() -> None:
    tasks = expand(12, blocks=["3,6", "4,7"], controls=4)
    blocks = [task.block for task in tasks]
    assert blocks[:3] == [None, Block(3, 6), Block(4, 7)]
    assert len(blocks) == len(set(blocks)) == 1 + 2 + 4 + 4  # of ten windows, eight are not named
    assert all(block is not None and block.j - block.i == 3 for block in blocks[1:])


def test_controls_keep_to_the_layers_that_are_not_spared() -> None:
    tasks = expand(12, blocks=["5,6"], controls=99, skip_early=4, skip_late=3)
    assert {task.block for task in tasks[1:]} == {Block(k, k + 1) for k in range(4, 9)}


def test_controls_of_blocks_that_run_three_times_run_three_times() -> None:
    tasks = expand(8, blocks=["2,4x3"], controls=2)
    assert {len(task.path) for task in tasks[1:]} == {8 + 2 * 2}


def test_no_controls_is_the_request_as_it_was() -> None:
    assert expand(12, blocks=["3,6"]) == expand(12, blocks=["3,6"], controls=0)


def test_a_grid_has_no_controls() -> None:
    data = {"analysis": "duplication", "model": "demo", "probes": ["math"], "parameters": {"controls": 3}}
    with pytest.raises(RequestError, match="no block is named for them to be like"):
        read_request(data, where="test")
