"""Duplication: the grid is layer-scan's, nothing is tried twice, and sparse-first refines around the best."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.analyses import get_analysis
from neuroscan_farm.analyses.duplication import DuplicationParameters
from neuroscan_farm.domain.paths import Block, LayerPath
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.errors import RequestError

DUPLICATION = get_analysis("duplication")
PROBES = ["0123456789abcdef"]


def expand(depth: int, **parameters: object) -> list[Task]:
    return DUPLICATION.expand(
        DuplicationParameters.model_validate(parameters), depth=depth, probe_digests=PROBES
    )


def blocks_of(tasks: list[Task]) -> list[tuple[int, int]]:
    return [(task.block.i, task.block.j) for task in tasks if task.block is not None]


def layer_scan_grid(
    depth: int, min_block: int, step: int, skip_early: int, skip_late: int
) -> list[tuple[int, int]]:
    """The ranges of layer-scan 0.2.2, written down once more."""
    return [
        (i, j)
        for i in range(skip_early, depth - skip_late, step)
        for j in range(i + min_block, depth - skip_late + 1, step)
    ]


@given(st.data())
def test_the_grid_is_that_of_layer_scan(data: st.DataObject) -> None:
    depth = data.draw(st.integers(1, 24), "depth")
    skip_early = data.draw(st.integers(0, depth - 1), "skip_early")
    skip_late = data.draw(st.integers(0, depth - 1 - skip_early), "skip_late")
    min_block = data.draw(st.integers(1, depth - skip_early - skip_late), "min_block")
    step = data.draw(st.integers(1, 5), "step")
    tasks = expand(depth, min_block=min_block, step=step, skip_early=skip_early, skip_late=skip_late)
    assert blocks_of(tasks) == layer_scan_grid(depth, min_block, step, skip_early, skip_late)


@pytest.mark.parametrize("depth", [1, 2, 7, 32, 80])
def test_the_full_grid_holds_every_block_and_the_column_of_the_last_boundary(depth: int) -> None:
    tasks = expand(depth)
    assert len(tasks) == 1 + depth * (depth + 1) // 2
    assert {i for i, j in blocks_of(tasks) if j == depth} == set(range(depth))


@given(st.integers(1, 20), st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_the_baseline_comes_first_and_no_path_comes_twice(
    depth: int, longest: int, times: int, sparse: bool
) -> None:
    tasks = expand(depth, max_block=longest, times=times + 1, sparse_first=sparse)
    assert tasks[0].is_baseline(depth)
    assert len({task.path for task in tasks}) == len(tasks) == len({task.task_id for task in tasks})


@given(st.integers(1, 20), st.integers(1, 20))
def test_max_block_takes_the_longer_blocks_out_of_the_grid_and_no_other(depth: int, longest: int) -> None:
    everything = blocks_of(expand(depth))
    assert blocks_of(expand(depth, max_block=longest)) == [(i, j) for i, j in everything if j - i <= longest]


def test_each_path_is_that_of_its_block() -> None:
    for task in expand(9)[1:]:
        assert task.block is not None
        assert task.path == LayerPath.duplicating([task.block], 9)


def test_named_blocks_replace_the_grid_and_keep_their_order() -> None:
    tasks = expand(10, blocks=["3,5", "1,2;6,8", "4,6x3"], min_block=99)
    assert [str(task.path) for task in tasks] == ["0..9", "0..4,3..9", "0..1,1..7,6..9", "0..5,4..5,4..9"]
    assert blocks_of(tasks) == [(3, 5)], "only a plain block has a place in the (i, j) plane"


def test_named_paths_may_skip_reverse_and_repeat() -> None:
    tasks = expand(6, paths=["0..2,4..5", "5,4,3,2,1,0", "0,0,0"])
    assert [task.path.layers for task in tasks[1:]] == [(0, 1, 2, 4, 5), (5, 4, 3, 2, 1, 0), (0, 0, 0)]
    assert blocks_of(tasks) == []


def test_a_configuration_named_in_two_ways_is_one_task() -> None:
    tasks = expand(6, blocks=["1,3", "(1, 3)"], paths=["0..2,1..5", "0..5"])
    assert len(tasks) == 2
    assert tasks[0].is_baseline(6)


@pytest.mark.parametrize(
    ("depth", "parameters", "said"),
    [
        (
            36,
            {"min_block": 90},
            "min_block is 90 but this model has 36 layers, of which 36 may be in a block; use 1 to 36",
        ),
        (
            36,
            {"min_block": 31, "skip_early": 4, "skip_late": 2},
            "of which 30 may be in a block; use 1 to 30",
        ),
        (
            6,
            {"skip_early": 3, "skip_late": 3},
            "leave no layer: this model has 6 layers; their sum must be below 6",
        ),
        (6, {"skip_early": 9}, "leave no layer"),
        (
            6,
            {"min_block": 3, "max_block": 2},
            "max_block is 2 and min_block 3; max_block must not be smaller",
        ),
        (6, {"blocks": ["2,7"]}, "block 2,7 reaches beyond the model: it has 6 layers; use j <= 6"),
        (6, {"blocks": ["1,2;5,9"]}, "block 5,9 reaches beyond the model"),
        (6, {"paths": ["0..6"]}, "visits layer 6, but this model has 6 layers; use 0 to 5"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_with_the_mend(
    depth: int, parameters: dict[str, object], said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        expand(depth, **parameters)
    assert said in str(caught.value)


def next_stage(depth: int, tasks: list[Task], effects: dict[str, float], **parameters: object) -> list[Task]:
    return DUPLICATION.next_stage(
        DuplicationParameters.model_validate(parameters),
        depth=depth,
        probe_digests=PROBES,
        tasks=tasks,
        effects=effects,
        sizes={},
        similarity=list,
    )


def effects_by_block(tasks: list[Task], best: dict[tuple[int, int], float]) -> dict[str, float]:
    return {
        task.task_id: best.get((task.block.i, task.block.j), -1.0) if task.block else 0.0 for task in tasks
    }


def test_the_first_stage_of_sparse_first_is_the_coarse_grid() -> None:
    assert blocks_of(expand(20, sparse_first=True, sparse_step=5, step=2)) == layer_scan_grid(20, 1, 5, 0, 0)


@given(st.data())
def test_the_second_stage_refines_around_the_best_within_the_coarse_step(data: st.DataObject) -> None:
    depth = data.draw(st.integers(6, 18), "depth")
    parameters = {
        "sparse_first": True,
        "sparse_step": data.draw(st.integers(2, 5), "sparse_step"),
        "step": data.draw(st.integers(1, 2), "step"),
        "refine_top": data.draw(st.integers(1, 4), "refine_top"),
        "skip_early": data.draw(st.integers(0, 2), "skip_early"),
        "skip_late": data.draw(st.integers(0, 2), "skip_late"),
        "max_block": data.draw(st.none() | st.integers(2, 8), "max_block"),
    }
    first = expand(depth, **parameters)
    effects = {task.task_id: data.draw(st.floats(-3, 3), "effect") for task in first}
    second = next_stage(depth, first, effects, **parameters)

    best = sorted(first[1:], key=lambda task: (-effects[task.task_id], task.path.layers))[
        : parameters["refine_top"]
    ]
    radius = parameters["sparse_step"] - 1
    fine = range(-radius, radius + 1, parameters["step"])
    around = {
        (task.block.i + di, task.block.j + dj)
        for task in best
        if task.block
        for di, dj in itertools.product(fine, fine)
    }
    longest = parameters["max_block"] or depth
    fitting = {
        (i, j)
        for i, j in layer_scan_grid(depth, 1, 1, parameters["skip_early"], parameters["skip_late"])
        if j - i <= longest
    }
    assert set(blocks_of(second)) == (around & fitting) - set(blocks_of(first))
    assert len({task.path for task in second}) == len(second)
    assert all(task.stage == 1 for task in second)


def test_a_tie_is_broken_by_the_block_whatever_order_the_tasks_are_in() -> None:
    parameters = {"sparse_first": True, "sparse_step": 4, "refine_top": 2}
    first = expand(16, **parameters)
    level = dict.fromkeys((task.task_id for task in first), 0.5)
    forwards = next_stage(16, first, level, **parameters)
    backwards = next_stage(16, first[::-1], dict(reversed(level.items())), **parameters)
    assert [task.task_id for task in forwards] == [task.task_id for task in backwards]


def test_refinement_leaves_out_tasks_that_failed_and_never_refines_around_the_baseline() -> None:
    parameters = {"sparse_first": True, "sparse_step": 4, "refine_top": 1}
    first = expand(16, **parameters)
    effects = effects_by_block(first, {(0, 1): 9.0, (8, 13): 5.0})
    failed = next(task for task in first if task.block == Block(0, 1))
    del effects[failed.task_id]
    second = next_stage(16, first, effects, **parameters)
    assert second
    assert all(abs(i - 8) <= 3 and abs(j - 13) <= 3 for i, j in blocks_of(second))


def test_where_every_coarse_task_failed_the_plan_is_complete() -> None:
    first = expand(16, sparse_first=True)
    assert next_stage(16, first, {}, sparse_first=True) == []


def test_after_the_refinement_the_plan_is_complete() -> None:
    parameters = {"sparse_first": True, "sparse_step": 4}
    first = expand(16, **parameters)
    effects = effects_by_block(first, {(4, 9): 1.0})
    second = next_stage(16, first, effects, **parameters)
    assert second
    assert next_stage(16, [*first, *second], effects, **parameters) == []


def test_sparse_first_refines_blocks_that_run_three_times_as_it_does_others() -> None:
    parameters = {"sparse_first": True, "sparse_step": 4, "refine_top": 1, "times": 3}
    first = expand(16, **parameters)
    centre = LayerPath.duplicating([Block(8, 13, 3)], 16)
    effects = {task.task_id: 1.0 if task.path == centre else 0.0 for task in first}
    second = {task.path for task in next_stage(16, first, effects, **parameters)}
    near = {LayerPath.duplicating([Block(i, j, 3)], 16) for i in range(5, 12) for j in range(10, 17) if i < j}
    assert second == near - {task.path for task in first}


@pytest.mark.parametrize(
    "parameters", [{}, {"sparse_first": True, "blocks": ["1,2"]}, {"sparse_first": True, "paths": ["0..3"]}]
)
def test_only_a_sparse_grid_has_a_second_stage(parameters: dict[str, object]) -> None:
    assert not DUPLICATION.has_stages(DuplicationParameters.model_validate(parameters))
    first = expand(8, **parameters)
    effects = {task.task_id: 1.0 for task in first}
    assert next_stage(8, first, effects, **parameters) == []


def test_an_unknown_analysis_names_the_nearest() -> None:
    with pytest.raises(
        RequestError, match=r"'duplicaton' is not known; there are: .*did you mean duplication"
    ):
        get_analysis("duplicaton")
