"""The trie of paths: every path is spelt by its chain of nodes, and nothing that two paths share is run twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.domain.paths import Block, Component, LayerPath
from neuroscan_farm.planning.trie import PathTrie, evaluations

paths_of_any_kind = st.lists(
    st.lists(st.integers(0, 5), min_size=1, max_size=12).map(lambda layers: LayerPath(tuple(layers))),
    max_size=20,
)


def spelt(trie: PathTrie, end: int | None) -> tuple[int, ...]:
    layers: list[int] = []
    start = None
    while end is not None:
        node = trie.nodes[end]
        layers.append(node.layer)
        start, end = node.start, node.parent
    assert start is not None
    return (*range(start), *reversed(layers))


@given(paths_of_any_kind)
def test_every_path_is_spelt_by_its_chain(paths: list[LayerPath]) -> None:
    trie = PathTrie.of(paths)
    assert set(trie.ends) == set(paths)
    for path, end in trie.ends.items():
        if end is None:
            assert path.layers == tuple(range(len(path)))
        else:
            assert spelt(trie, end) == path.layers


@given(paths_of_any_kind)
def test_there_is_one_node_for_each_prefix_beyond_the_baseline(paths: list[LayerPath]) -> None:
    prefixes = {
        path.layers[:length] for path in paths for length in range(path.shared_prefix() + 1, len(path) + 1)
    }
    assert evaluations(paths) == len(prefixes)


@given(paths_of_any_kind)
def test_visits_follow_the_layers_upwards_and_no_node_comes_before_its_parent(paths: list[LayerPath]) -> None:
    trie = PathTrie.of(paths)
    seen: set[int] = set()
    descents = 0
    last = -1
    for layer, members in trie.visits():
        descents += layer <= last
        last = layer
        for node in members:
            assert trie.nodes[node].layer == layer
            assert trie.nodes[node].parent is None or trie.nodes[node].parent in seen
        seen |= set(members)
    assert seen == set(range(len(trie.nodes)))
    assert descents <= max((node.sweep for node in trie.nodes), default=0)


@given(paths_of_any_kind)
def test_the_order_of_the_paths_does_not_matter(paths: list[LayerPath]) -> None:
    assert PathTrie.of(paths) == PathTrie.of(reversed(paths))


@given(paths_of_any_kind)
def test_the_shares_of_the_work_add_up(paths: list[LayerPath]) -> None:
    trie = PathTrie.of(paths)
    shares = trie.shares()
    assert abs(sum(shares.values()) - bool(trie.nodes)) < 1e-9
    assert all(share >= 0 for share in shares.values())


def test_the_full_grid_needs_one_sweep_and_the_known_number_of_evaluations() -> None:
    depth = 80
    grid = [
        LayerPath.duplicating([Block(i, j)], depth) for i in range(depth) for j in range(i + 1, depth + 1)
    ]
    trie = PathTrie.of(grid)
    assert len(grid) == 3_240
    assert len(trie.nodes) == depth * (depth + 1) * (2 * depth + 1) // 6 == 173_880
    assert [layer for layer, _ in trie.visits()] == list(range(depth))


def test_all_pairs_of_skipped_layers_branch_off_the_single_ones() -> None:
    depth = 80

    def without(*layers: int) -> LayerPath:
        return LayerPath(tuple(k for k in range(depth) if k not in layers))

    singles = [without(a) for a in range(depth)]
    pairs = [without(a, b) for a in range(depth) for b in range(a + 1, depth)]
    alone = sum(depth - a - 1 for a in range(depth))
    on_top = sum(depth - b - 1 for a in range(depth) for b in range(a + 1, depth))
    assert evaluations([*singles, *pairs]) == alone + on_top == 85_320


def test_a_step_of_a_component_is_a_node_of_its_own_at_its_layers_visit() -> None:
    whole, mlp, attention = (
        LayerPath.parse(text) for text in ("0..1,2,2..3", "0..1,2:mlp,3", "0..1,2:attention,3")
    )
    trie = PathTrie.of([whole, mlp, attention])
    assert evaluations([whole, mlp, attention]) == 2 + 2 + 2
    of_layer_2 = {
        node.only
        for layer, members in trie.visits()
        if layer == 2
        for node in map(trie.nodes.__getitem__, members)
    }
    assert of_layer_2 == {None, Component.MLP, Component.ATTENTION}
    assert [layer for layer, _ in trie.visits()] == [2, 3], "all of them in one sweep"


def test_both_components_of_a_layer_one_after_the_other_take_two_sweeps() -> None:
    trie = PathTrie.of([LayerPath.parse("0..1,2:attention,2:mlp,3")])
    assert [(node.layer, node.sweep, node.only) for node in trie.nodes] == [
        (2, 0, Component.ATTENTION),
        (2, 1, Component.MLP),
        (3, 1, None),
    ]
