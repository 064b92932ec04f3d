"""Ablation: one layer at a time is left out, or one component of it, and every door refuses what makes no sense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.analyses import get_analysis, read_request
from neuroscan_farm.analyses.ablation import AblationParameters
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.errors import RequestError

ABLATION = get_analysis("ablation")


def expand(depth: int, **parameters: object) -> list[Task]:
    return ABLATION.expand(AblationParameters.model_validate(parameters), depth=depth, probe_digests=["d"])


def texts(tasks: list[Task]) -> list[str]:
    return [str(task.path) for task in tasks]


def test_every_layer_is_left_out_once_after_the_baseline() -> None:
    assert texts(expand(4)) == ["0..3", "1..3", "0,2..3", "0..1,3", "0..2"]


def test_a_component_is_left_out_by_running_the_other_one_alone() -> None:
    assert texts(expand(3, components=["attention"])) == ["0..2", "0:mlp,1..2", "0,1:mlp,2", "0..1,2:mlp"]
    assert texts(expand(3, components=["mlp"])) == [
        "0..2",
        "0:attention,1..2",
        "0,1:attention,2",
        "0..1,2:attention",
    ]


def test_all_components_at_once_are_three_tasks_for_each_layer() -> None:
    tasks = expand(5, components=["layer", "attention", "mlp"])
    assert len(tasks) == len({task.path for task in tasks}) == 1 + 3 * 5
    assert tasks[0].is_baseline(5)
    assert not any(task.is_baseline(5) for task in tasks[1:])
    assert all(task.block is None and task.stage == 0 for task in tasks)


@given(st.integers(2, 30), st.data())
def test_skipping_early_and_late_leaves_the_layers_between(depth: int, data: st.DataObject) -> None:
    early = data.draw(st.integers(0, depth - 1))
    late = data.draw(st.integers(0, depth - 1 - early))
    tasks = expand(depth, skip_early=early, skip_late=late)
    assert [task.path.skipped(depth) for task in tasks[1:]] == [(k,) for k in range(early, depth - late)]


def test_named_layers_are_left_out_in_their_order() -> None:
    tasks = expand(12, layers="9,0..2")
    assert [task.path.skipped(12) for task in tasks[1:]] == [(0,), (1,), (2,), (9,)]


def test_one_layer_may_be_a_number_in_a_file() -> None:
    assert len(expand(6, layers=3)) == 2


def test_there_is_one_stage_and_no_look_at_similarity() -> None:
    parameters = AblationParameters()
    assert not ABLATION.has_stages(parameters)
    assert not ABLATION.needs_similarity(parameters)

    def never() -> list[list[float]]:
        raise AssertionError

    further = ABLATION.next_stage(
        parameters, depth=4, probe_digests=["d"], tasks=expand(4), effects={}, sizes={}, similarity=never
    )
    assert further == []


@pytest.mark.parametrize(
    ("depth", "parameters", "said"),
    [
        (6, {"layers": "4..7"}, "layers '4..7' names layer 7, but this model has 6 layers; use 0 to 5"),
        (
            6,
            {"skip_early": 4, "skip_late": 2},
            "leave no layer: this model has 6 layers; their sum must be below 6",
        ),
        (1, {}, "this model has one layer, and nothing is left without it"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_with_the_mend(
    depth: int, parameters: dict[str, object], said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        expand(depth, **parameters)
    assert said in str(caught.value)


def test_the_components_of_an_only_layer_can_be_left_out() -> None:
    assert texts(expand(1, components=["attention", "mlp"])) == ["0", "0:mlp", "0:attention"]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"layers": "0..3,2"}, "a layer is named twice"),
        ({"layers": "3:mlp"}, "what is left out of them in components"),
        ({"layers": "five"}, "neither a layer nor a range"),
        ({"layers": "3", "skip_early": 1}, "leave skip_early and skip_late out"),
        ({"components": []}, "name at least one of layer, attention and mlp"),
        ({"components": ["mlp", "mlp"]}, "a component is named twice"),
        ({"components": ["head"]}, "'layer', 'attention' or 'mlp'"),
        ({"component": ["mlp"]}, "did you mean components"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_at_the_door(
    parameters: dict[str, object], said: str
) -> None:
    data = {"analysis": "ablation", "model": "demo", "probes": ["math"], "parameters": parameters}
    with pytest.raises(RequestError) as caught:
        read_request(data, where="test")
    assert said in str(caught.value)


def test_a_task_is_the_same_whoever_asks_for_its_path() -> None:
    duplication = get_analysis("duplication")
    asked = duplication.expand(
        duplication.parameters.model_validate({"paths": ["0..1,2:mlp,3..5"]}), depth=6, probe_digests=["d"]
    )
    ablated = expand(6, components=["attention"], layers="2")
    assert asked[1].task_id == ablated[1].task_id
    assert asked[1].path == LayerPath.parse("0..1,2:mlp,3..5")
