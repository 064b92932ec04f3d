"""Paths and blocks: what `(i, j)` means, and that a path's text says the path and nothing else."""

from __future__ import annotations

import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.domain.paths import (
    MOST_LAYERS,
    Block,
    Component,
    LayerPath,
    component_of,
    layer_of,
    parse_blocks,
    step_of,
)
from neuroscan_farm.errors import RequestError

layers = st.lists(st.integers(0, 40), min_size=1, max_size=60).map(tuple)
visits = st.lists(
    st.tuples(
        st.integers(0, 12) | st.integers(MOST_LAYERS - 3, MOST_LAYERS - 1),
        st.sampled_from([None, *Component]),
    ),
    min_size=1,
    max_size=20,
)


@st.composite
def depths_and_blocks(draw: st.DrawFn) -> tuple[int, Block]:
    depth = draw(st.integers(1, 40))
    i = draw(st.integers(0, depth - 1))
    return depth, Block(i, draw(st.integers(i + 1, depth)), draw(st.integers(2, 4)))


@given(layers)
def test_the_text_of_a_path_reads_back_as_the_path(order: tuple[int, ...]) -> None:
    path = LayerPath(order)
    assert LayerPath.parse(str(path)) == path


@given(layers)
def test_two_paths_share_a_text_only_if_they_are_one_path(order: tuple[int, ...]) -> None:
    runs = LayerPath(order).runs()
    assert [layer for a, b in runs for layer in range(a, b)] == list(order)
    assert all(left[1] != right[0] for left, right in itertools.pairwise(runs)), "runs are maximal"


def test_every_block_of_every_small_model_runs_to_its_end_and_again_from_its_start() -> None:
    for depth in range(1, 13):
        for i in range(depth):
            for j in range(i + 1, depth + 1):
                path = LayerPath.duplicating([Block(i, j)], depth)
                assert path.layers == (*range(j), *range(i, depth)), (i, j, depth)


@given(depths_and_blocks())
def test_a_block_repeated_n_times_is_there_n_times_and_nothing_else_changes(drawn: tuple[int, Block]) -> None:
    depth, block = drawn
    path = LayerPath.duplicating([block], depth)
    repeated = list(range(block.i, block.j)) * block.times
    assert list(path) == [*range(block.i), *repeated, *range(block.j, depth)]


def _insert_slowly(layers: list[int], block: Block) -> list[int]:
    """Walk to the last visit of the block's end and put the further runs behind it."""
    last = max(k for k, layer in enumerate(layers) if layer == block.j - 1)
    again = [layer for _ in range(block.times - 1) for layer in range(block.i, block.j)]
    return layers[: last + 1] + again + layers[last + 1 :]


@given(st.integers(1, 20), st.data())
def test_several_blocks_are_each_inserted_after_the_last_occurrence_of_their_end(
    depth: int, data: st.DataObject
) -> None:
    starts = st.integers(0, depth - 1)
    blocks = data.draw(
        st.lists(
            starts.flatmap(
                lambda i: st.builds(Block, st.just(i), st.integers(i + 1, depth), st.integers(2, 3))
            ),
            max_size=4,
        )
    )
    expected = list(range(depth))
    for block in blocks:
        expected = _insert_slowly(expected, block)
    assert list(LayerPath.duplicating(blocks, depth)) == expected


def test_two_blocks_that_do_not_touch_read_as_people_write_them() -> None:
    path = LayerPath.duplicating(parse_blocks("3,5;6,8"), 10)
    assert str(path) == "0..4,3..7,6..9"


def test_a_block_named_twice_goes_behind_its_own_copy() -> None:
    assert str(LayerPath.duplicating(parse_blocks("1,3;1,3"), 5)) == "0..2,1..2,1..4"
    assert LayerPath.duplicating(parse_blocks("1,3;1,3"), 5) == LayerPath.duplicating(
        parse_blocks("1,3x3"), 5
    )


def test_no_block_at_all_is_the_untouched_model() -> None:
    assert LayerPath.duplicating([], 7) == LayerPath.identity(7)


@given(depths_and_blocks())
def test_a_duplicated_path_shares_exactly_j_steps_with_the_untouched_model(drawn: tuple[int, Block]) -> None:
    depth, block = drawn
    path = LayerPath.duplicating([block], depth)
    assert path.shared_prefix() == block.j
    assert path.evaluations() == len(path) - block.j


@given(layers)
def test_the_shared_prefix_is_the_longest_one(order: tuple[int, ...]) -> None:
    shared = LayerPath(order).shared_prefix()
    assert order[:shared] == tuple(range(shared))
    assert shared == len(order) or order[shared] != shared


def test_the_untouched_model_needs_no_evaluation_beyond_its_boundaries() -> None:
    assert LayerPath.identity(9).shared_prefix() == 9
    assert LayerPath.identity(9).evaluations() == 0


def test_a_path_that_starts_elsewhere_shares_nothing() -> None:
    assert LayerPath.parse("1..3").shared_prefix() == 0


@given(layers, st.integers(1, 50))
def test_skipped_layers_are_those_of_the_model_that_the_path_never_visits(
    order: tuple[int, ...], depth: int
) -> None:
    skipped = LayerPath(order).skipped(depth)
    assert list(skipped) == sorted(set(range(depth)) - set(order))


def test_a_duplication_skips_nothing_and_an_ablation_skips_what_it_leaves_out() -> None:
    assert LayerPath.parse("0..4,2..7").skipped(8) == ()
    assert LayerPath.parse("0..3,5..6").skipped(8) == (4, 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5..3", "runs backwards"),
        ("0..3,9..8", "9..8"),
        ("", "neither a layer nor a range"),
        ("0..3,", "neither a layer nor a range"),
        ("0-3", "'0-3'"),
        ("-1", "neither a layer nor a range"),
        ("0...3", "neither a layer nor a range"),
        ("a", "neither a layer nor a range"),
    ],
)
def test_a_text_that_is_no_path_is_refused_with_the_piece_that_is_wrong(text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said.replace(".", r"\.")):
        LayerPath.parse(text)


def test_a_path_without_layers_is_refused() -> None:
    with pytest.raises(RequestError, match="at least one layer"):
        LayerPath(())


def test_spaces_around_the_pieces_do_not_matter() -> None:
    assert LayerPath.parse(" 0..3 , 2..5 ") == LayerPath((0, 1, 2, 3, 2, 3, 4, 5))
    assert parse_blocks(" 3,5 ; (6, 8) x3 ") == (Block(3, 5), Block(6, 8, 3))


@given(layers, st.integers(1, 50))
def test_a_path_fits_a_model_exactly_if_all_its_layers_are_there(order: tuple[int, ...], depth: int) -> None:
    path = LayerPath(order)
    if max(order) < depth:
        path.check_depth(depth)
    else:
        with pytest.raises(RequestError, match=f"this model has {depth} layers"):
            path.check_depth(depth)


@pytest.mark.parametrize(
    "text", ["3,3", "5,3", "3", "3,5,7", "3;5", "3,5x1", "3,5x0", "", "3,5;", "-1,3", "3,5 times 2"]
)
def test_a_text_that_is_no_block_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="block"):
        parse_blocks(text)


def test_a_block_that_runs_once_is_refused_because_it_repeats_nothing() -> None:
    with pytest.raises(RequestError, match="x1 repeats nothing; x2 runs the block twice"):
        parse_blocks("3,5x1")


def test_a_block_beyond_the_model_is_refused_with_the_largest_end() -> None:
    with pytest.raises(
        RequestError, match=r"block 3,11 reaches beyond the model: it has 10 layers; use j <= 10"
    ):
        LayerPath.duplicating([Block(3, 11)], 10)


@given(depths_and_blocks())
def test_the_text_of_a_block_reads_back_as_the_block(drawn: tuple[int, Block]) -> None:
    _, block = drawn
    assert parse_blocks(str(block)) == (block,)


@pytest.mark.parametrize("text", ["0..99999999999", "0..9000,0..9000,0..9000,0..9000"])
def test_a_path_too_long_for_the_tables_is_refused_before_it_is_written_out(text: str) -> None:
    with pytest.raises(RequestError, match="too long; up to 32767"):
        LayerPath.parse(text)


def test_a_block_repeated_too_often_for_the_tables_is_refused() -> None:
    with pytest.raises(RequestError, match="too long; up to 32767"):
        LayerPath.duplicating(parse_blocks("1,3x99999999999"), 8)


@given(layers)
def test_the_runs_of_a_path_are_as_long_as_can_be_and_make_it_again(order: tuple[int, ...]) -> None:
    path = LayerPath(order)
    runs = path.runs()
    assert [layer for first, end in runs for layer in range(first, end)] == list(order) == list(path)
    assert all(before[1] != after[0] for before, after in itertools.pairwise(runs))
    assert LayerPath.of_runs(runs) == path
    assert LayerPath.of_runs([(layer, layer + 1) for layer in order]) == path
    assert hash(LayerPath.of_runs(runs)) == hash(path)
    assert (path.layers, len(path)) == (order, len(order))


@given(layers)
def test_the_shared_prefix_is_where_the_path_leaves_the_untouched_model(order: tuple[int, ...]) -> None:
    expected = next((k for k, layer in enumerate(order) if layer != k), len(order))
    assert LayerPath(order).shared_prefix() == expected
    assert LayerPath(order).evaluations() == len(order) - expected


@given(layers, layers)
def test_paths_are_ordered_and_equal_as_their_layers_are(
    one: tuple[int, ...], other: tuple[int, ...]
) -> None:
    left, right = LayerPath(one), LayerPath(other)
    assert (left < right, left <= right, left == right) == (one < other, one <= other, one == other)
    assert pickle.loads(pickle.dumps(left)) == left


@pytest.mark.parametrize("runs", [[], [(0, 0)], [(3, 1)], [(-1, 2)], [(0, 5), (2, 2)], [(0, 40_000)]])
def test_runs_that_make_no_path_are_refused(runs: list[tuple[int, int]]) -> None:
    with pytest.raises(RequestError):
        LayerPath.of_runs(runs)


@given(visits)
def test_a_path_of_components_says_which_layer_each_step_visits_and_what_of_it_runs(
    order: list[tuple[int, Component | None]],
) -> None:
    path = LayerPath(step_of(layer, only) for layer, only in order)
    assert [(layer_of(step), component_of(step)) for step in path.steps] == order
    assert path.layers == tuple(layer for layer, _ in order)
    assert path.whole == all(only is None for _, only in order)
    assert LayerPath.parse(str(path)) == path
    assert LayerPath.of_runs(path.runs()) == path
    assert max(path.steps) < 2**15, "steps are kept in 16 bits"


@given(visits, visits)
def test_two_paths_of_components_are_one_only_if_they_run_the_same(
    one: list[tuple[int, Component | None]], other: list[tuple[int, Component | None]]
) -> None:
    left, right = (LayerPath(step_of(*visit) for visit in order) for order in (one, other))
    assert (left == right, str(left) == str(right)) == (one == other, one == other)
    assert (left < right) == (left.steps < right.steps)


def test_components_are_written_behind_their_layers() -> None:
    path = LayerPath.parse("0..4,5:mlp,6..7:attention,8,8:mlp, 9:mlp")
    assert path.steps == (0, 1, 2, 3, 4, 20_005, 10_006, 10_007, 8, 20_008, 20_009)
    assert str(path) == "0..4,5:mlp,6..7:attention,8,8..9:mlp"
    assert path.layers == (0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9)


def test_a_layer_of_which_a_component_runs_is_not_skipped_and_not_the_untouched_models() -> None:
    path = LayerPath.parse("0..2,3:mlp,5")
    assert path.skipped(6) == (4,)
    assert (path.shared_prefix(), path.evaluations()) == (3, 2)
    assert LayerPath.parse("0:attention,1..5").shared_prefix() == 0
    with pytest.raises(RequestError, match="visits layer 5, but this model has 5 layers"):
        LayerPath.parse("0..3,5:mlp").check_depth(5)
    path.check_depth(6)


@pytest.mark.parametrize("text", ["40000", "9999", "9999:mlp", "9990..10001", "0..32000"])
def test_a_layer_beyond_what_a_step_can_say_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="can name layers 0 to 9998"):
        LayerPath.parse(text)


@pytest.mark.parametrize(
    "steps", [(9_999,), (19_999,), (29_999,), (9_998, 9_999, 10_000), (30_000,), (10**12,)]
)
def test_a_number_that_is_no_step_is_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="can name layers 0 to 9998"):
        LayerPath(steps)


@pytest.mark.parametrize("runs", [[(9_990, 10_010)], [(29_990, 30_010)], [(9_999, 10_000)]])
def test_a_run_over_the_gap_between_components_is_refused(runs: list[tuple[int, int]]) -> None:
    with pytest.raises(RequestError, match="can name layers 0 to 9998"):
        LayerPath.of_runs(runs)


def test_a_component_that_no_layer_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        RequestError, match=r"'5:ffn': a layer has no component 'ffn'; there are: attention, mlp"
    ):
        LayerPath.parse("0..4,5:ffn")


def test_each_component_is_the_other_ones_other() -> None:
    assert [component.other for component in Component] == [Component.MLP, Component.ATTENTION]
