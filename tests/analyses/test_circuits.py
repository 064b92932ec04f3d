"""Circuits: which pairs are tried is neuro-scan's choice, each once, and the work of exhaustive pairs is shared."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.analyses import get_analysis, read_request
from neuroscan_farm.analyses.circuits import CircuitsParameters
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.errors import RequestError, RunError
from neuroscan_farm.planning.packing import pack
from neuroscan_farm.planning.sizing import FIRST_SHARD_TASKS
from neuroscan_farm.planning.trie import evaluations

CIRCUITS = get_analysis("circuits")

Matrix = Sequence[Sequence[float]]


def expand(depth: int, **parameters: object) -> list[Task]:
    return CIRCUITS.expand(CircuitsParameters.model_validate(parameters), depth=depth, probe_digests=["d"])


def never() -> Matrix:
    raise AssertionError("nobody asked for similarity")


def next_stage(
    depth: int,
    tasks: Sequence[Task],
    effects: Mapping[str, float],
    matrix: Matrix | None = None,
    **parameters: object,
) -> list[Task]:
    return CIRCUITS.next_stage(
        CircuitsParameters.model_validate(parameters),
        depth=depth,
        probe_digests=["d"],
        tasks=tasks,
        effects={},
        sizes={task: abs(effect) for task, effect in effects.items()},
        similarity=never if matrix is None else lambda: matrix,
    )


def gone(tasks: Sequence[Task], depth: int) -> list[tuple[int, ...]]:
    return [task.path.skipped(depth) for task in tasks]


def effects_of(tasks: Sequence[Task], depth: int, by_layer: Mapping[int, float]) -> dict[str, float]:
    """The effect of leaving out each layer, by task; of the others none."""
    return {
        task.task_id: by_layer[layers[0]]
        for task in tasks
        if len(layers := task.path.skipped(depth)) == 1 and layers[0] in by_layer
    }


def neuro_scan_pairs(
    deltas: Mapping[int, float], depth: int, top: int, strategy: str, similarity: Matrix | None
) -> set[tuple[int, int]]:
    """The candidates of neuro-scan 0.2.3, written down once more, with ties broken by the layer.

    Where every sample changes alike, the size of the mean is the root mean square.
    """
    best = sorted(deltas, key=lambda layer: (-abs(deltas[layer]), layer))[:top]
    wanted = [(a, b) for a in best for b in best]
    wanted += [(a, a + step) for a in best for step in (-1, 1) if 0 <= a + step < depth]
    if strategy == "thorough" and similarity is not None:
        wanted += [(a, b) for a in range(depth) for b in range(a + 1, depth) if similarity[a][b] > 0.95]
    return {(min(pair), max(pair)) for pair in wanted if pair[0] != pair[1]}


@given(st.data())
def test_the_pairs_of_the_second_stage_are_those_of_neuro_scan(data: st.DataObject) -> None:
    depth = data.draw(st.integers(3, 16), "depth")
    top = data.draw(st.integers(0, 6), "top")
    strategy = data.draw(st.sampled_from(["fast", "thorough"]), "strategy")
    number = st.floats(-1, 1)
    deltas = {layer: data.draw(number) for layer in range(depth)}
    half = [[data.draw(number) for _ in range(depth)] for _ in range(depth)]
    similarity = [[half[min(a, b)][max(a, b)] for b in range(depth)] for a in range(depth)]
    first = expand(depth, strategy=strategy, top_layers=top)
    assert gone(first, depth) == [(), *((layer,) for layer in range(depth))]
    second = next_stage(
        depth,
        first,
        effects_of(first, depth, deltas),
        similarity if strategy == "thorough" else None,
        strategy=strategy,
        top_layers=top,
    )
    found = gone(second, depth)
    assert len(set(found)) == len(found)
    assert set(found) == neuro_scan_pairs(deltas, depth, top, strategy, similarity)
    assert all(task.stage == 1 and task.block is None for task in second)


@pytest.mark.parametrize("depth", [3, 4, 14, 80])
def test_exhaustive_is_every_single_layer_and_every_pair_in_one_stage(depth: int) -> None:
    tasks = expand(depth, strategy="exhaustive")
    assert not CIRCUITS.has_stages(CircuitsParameters(strategy="exhaustive"))
    singles = [(a,) for a in range(depth)]
    assert gone(tasks, depth) == [(), *singles, *itertools.combinations(range(depth), 2)]
    assert (
        next_stage(depth, tasks, dict.fromkeys((t.task_id for t in tasks), 1.0), strategy="exhaustive") == []
    )


@pytest.mark.parametrize("depth", [4, 14, 32, 80])
def test_the_evaluations_of_exhaustive_pairs_follow_the_formula(depth: int) -> None:
    paths = [task.path for task in expand(depth, strategy="exhaustive")]
    singles = [path for path in paths if len(path) == depth - 1]
    pairs = [path for path in paths if len(path) == depth - 2]
    assert evaluations(singles) == depth * (depth - 1) // 2
    assert (
        evaluations([*singles, *pairs]) == depth * (depth - 1) // 2 + depth * (depth - 1) * (depth - 2) // 6
    )
    # Without the singles' own ends, and with as much of the baseline as pairs branch off.
    alone = depth * (depth - 1) * (depth - 2) // 6 + (depth - 2) * (depth - 1) // 2
    assert evaluations(pairs) == alone
    assert sum(len(path) for path in pairs) == depth * (depth - 1) // 2 * (depth - 2)
    if depth == 80:
        assert sum(len(path) for path in pairs) == 246_480
        assert evaluations(pairs) + (depth - 2) == 85_319
        assert evaluations(paths) + depth == 85_400


@pytest.mark.parametrize("depth", [14, 32, 80])
def test_the_shards_of_exhaustive_pairs_share_all_but_a_few_percent_of_that(depth: int) -> None:
    tasks = expand(depth, strategy="exhaustive")
    shards = pack(tasks, most=FIRST_SHARD_TASKS)
    shared = depth + sum(evaluations([task.path for task in shard.tasks]) for shard in shards)
    assert shared < 1.05 * (depth + evaluations([task.path for task in tasks]))
    assert sum(len(task.path) for task in tasks) > 2.7 * shared


def test_named_pairs_come_with_their_single_layers_whatever_is_spared() -> None:
    tasks = expand(9, pairs=["7,1", "1,7", "2, 3"], skip_early=3, skip_late=3, top_layers=0)
    assert gone(tasks, 9) == [(), (1,), (2,), (3,), (4,), (5,), (7,), (1, 7), (2, 3)]
    assert next_stage(9, tasks, effects_of(tasks, 9, dict.fromkeys(range(9), 1.0)), top_layers=0) == []


def test_a_named_pair_is_not_measured_again_in_the_second_stage() -> None:
    tasks = expand(9, pairs=["3,4"], top_layers=1)
    effects = effects_of(tasks, 9, {layer: -float(layer == 4) for layer in range(9)})
    assert gone(next_stage(9, tasks, effects, top_layers=1, pairs=["3,4"]), 9) == [(4, 5)]


def test_spared_layers_make_no_pairs() -> None:
    parameters = {"skip_early": 2, "skip_late": 2, "top_layers": 2, "strategy": "thorough"}
    tasks = expand(8, **parameters)
    assert gone(tasks, 8) == [(), (2,), (3,), (4,), (5,)]
    effects = effects_of(tasks, 8, {2: 5.0, 3: 0.1, 4: 0.0, 5: -7.0})
    alike = [[1.0] * 8] * 8
    found = gone(next_stage(8, tasks, effects, alike, **parameters), 8)
    assert found == list(itertools.combinations(range(2, 6), 2))


def test_a_large_gain_makes_a_top_layer_as_a_large_loss_does_and_a_tie_goes_to_the_earlier_layer() -> None:
    tasks = expand(8, top_layers=2)
    effects = effects_of(tasks, 8, {0: 0.0, 1: 2.0, 2: 0.0, 3: 0.0, 4: -2.0, 5: 0.0, 6: 2.0, 7: 1.0})
    expected = [(0, 1), (1, 2), (1, 4), (3, 4), (4, 5)]
    assert gone(next_stage(8, tasks, effects, top_layers=2), 8) == expected
    assert gone(next_stage(8, tasks[::-1], dict(reversed(effects.items())), top_layers=2), 8) == expected


def test_a_layer_whose_task_failed_is_no_top_layer() -> None:
    tasks = expand(8, top_layers=1)
    effects = effects_of(tasks, 8, {layer: float(layer) for layer in range(7)})
    assert gone(next_stage(8, tasks, effects, top_layers=1), 8) == [(5, 6), (6, 7)]


def test_after_the_second_stage_the_plan_is_complete() -> None:
    tasks = expand(8, top_layers=2)
    effects = effects_of(tasks, 8, {layer: float(layer) for layer in range(8)})
    second = next_stage(8, tasks, effects, top_layers=2)
    assert second
    assert next_stage(8, [*tasks, *second], effects, top_layers=2) == []


def test_similarity_above_the_threshold_counts_and_at_it_does_not() -> None:
    tasks = expand(4, strategy="thorough", top_layers=0, similarity=0.5)
    matrix = [[1, 0.5, 0.2, 0.51], [0.5, 1, 0.1, 0.9], [0.2, 0.1, 1, -0.9], [0.51, 0.9, -0.9, 1]]
    effects = effects_of(tasks, 4, dict.fromkeys(range(4), 1.0))
    second = next_stage(4, tasks, effects, matrix, strategy="thorough", top_layers=0, similarity=0.5)
    assert gone(second, 4) == [(0, 3), (1, 3)]


def test_what_similarity_raises_is_passed_on() -> None:
    def missing() -> Matrix:
        raise RunError("similarity.json: no such file")

    tasks = expand(4, strategy="thorough")
    with pytest.raises(RunError, match=r"similarity\.json"):
        CIRCUITS.next_stage(
            CircuitsParameters(strategy="thorough"),
            depth=4,
            probe_digests=["d"],
            tasks=tasks,
            effects={},
            sizes=effects_of(tasks, 4, {1: 1.0}),
            similarity=missing,
        )


def test_where_the_baseline_failed_no_pair_is_chosen_and_its_similarity_is_not_asked_for() -> None:
    assert next_stage(4, expand(4, strategy="thorough"), {}, strategy="thorough") == []


@pytest.mark.parametrize("strategy", ["fast", "thorough", "exhaustive"])
def test_only_thorough_needs_similarity(strategy: str) -> None:
    parameters = CircuitsParameters.model_validate({"strategy": strategy})
    assert CIRCUITS.needs_similarity(parameters) == (strategy == "thorough")


@pytest.mark.parametrize(
    ("depth", "parameters", "said"),
    [
        (2, {}, "leaves out two layers at once, and this model has 2; it needs 3 or more"),
        (9, {"pairs": ["3,9"]}, "pair '3,9' names layer 9, but this model has 9 layers; use 0 to 8"),
        (9, {"skip_early": 5, "skip_late": 4}, "leave no layer: this model has 9 layers"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_with_the_mend(
    depth: int, parameters: dict[str, object], said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        expand(depth, **parameters)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"pairs": ["3,3"]}, "names layer 3 twice: a layer does not interact with itself; name two layers"),
        ({"pairs": ["3"]}, "pair '3': write two layers, as in 3,7"),
        ({"pairs": ["1,2,3"]}, "write two layers"),
        ({"pairs": ["a,b"]}, "write two layers"),
        ({"strategy": "slow"}, "'fast', 'thorough' or 'exhaustive'"),
        ({"similarity": 1.5}, "less than or equal to 1"),
        ({"top_layers": -1}, "greater than or equal to 0"),
        ({"top_layer": 3}, "did you mean top_layers"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_at_the_door(
    parameters: dict[str, object], said: str
) -> None:
    data = {"analysis": "circuits", "model": "demo", "probes": ["math"], "parameters": parameters}
    with pytest.raises(RequestError) as caught:
        read_request(data, where="test")
    assert said in str(caught.value)
