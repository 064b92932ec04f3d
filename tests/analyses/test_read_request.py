"""The door of requests: what is unknown or wrong is named, all of it at once, and what is saved reads back."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.analyses import read_request
from neuroscan_farm.analyses.duplication import DuplicationParameters
from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.domain.requests import AnalysisRequest, EngineOptions
from neuroscan_farm.errors import RequestError
from neuroscan_farm.store.run_directory import request_yaml

GOOD: dict[str, Any] = {"analysis": "duplication", "model": "demo", "probes": ["math"]}


def refusal(data: Any) -> str:
    with pytest.raises(RequestError) as caught:
        read_request(data, where="full_grid.yaml")
    return str(caught.value)


def test_the_least_that_a_request_needs_is_analysis_model_and_probes() -> None:
    request = read_request(GOOD, where="test")
    assert request.parameters == DuplicationParameters()
    assert request.engine == EngineOptions()
    assert request.metric is Metric.LOG_ODDS


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mdoel": "x"}, "full_grid.yaml: mdoel is not known; did you mean model?"),
        ({"parameters": {"min_blok": 3}}, "parameters.min_blok is not known; did you mean min_block?"),
        ({"engine": {"dtpye": "float32"}}, "engine.dtpye is not known; did you mean dtype?"),
        ({"engine": {"zzz": 1}}, "engine.zzz is not known; accepted are: backend, dtype, device"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_right_one(change: dict[str, Any], said: str) -> None:
    assert said in refusal(GOOD | change)


@pytest.mark.parametrize("name", ["model", "probes"])
def test_a_missing_field_is_named(name: str) -> None:
    assert f"full_grid.yaml: {name} is missing" in refusal(
        {key: value for key, value in GOOD.items() if key != name}
    )


def test_a_request_without_an_analysis_names_those_there_are() -> None:
    assert "analysis is missing; there are: duplication" in refusal({"model": "demo"})


def test_several_problems_are_listed_at_once_each_with_its_place() -> None:
    said = refusal(
        GOOD
        | {
            "probes": [],
            "shard_size": 0,
            "metric": "accuracy",
            "parameters": {"min_block": 0, "stepp": 2},
            "engine": {"dtype": "int3"},
        }
    )
    lines = said.splitlines()
    assert all(line.startswith("full_grid.yaml: ") for line in lines)
    for name in (
        "probes",
        "shard_size",
        "metric",
        "parameters.min_block",
        "parameters.stepp",
        "engine.dtype",
    ):
        assert any(line.startswith(f"full_grid.yaml: {name} is ") for line in lines), (name, said)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"blocks": ["31;34"]}, "write I,J for layers I..J-1, as in 31,34"),
        ({"blocks": ["34,31"]}, "need 0 <= i < j"),
        ({"blocks": ["1,3x1"]}, "x1 repeats nothing"),
        ({"paths": ["0..15,31..11"]}, "'31..11' runs backwards"),
        ({"paths": ["0-15"]}, "neither a layer nor a range such as 11..31"),
    ],
)
def test_blocks_and_paths_are_read_at_the_door(parameters: dict[str, Any], said: str) -> None:
    assert said in refusal(GOOD | {"parameters": parameters})


def test_a_block_written_without_its_list_is_refused_with_the_form_that_is_accepted() -> None:
    assert "parameters.blocks is '31,34'" in refusal(GOOD | {"parameters": {"blocks": "31,34"}})


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
fields = st.sampled_from(
    [*AnalysisRequest.model_fields, *DuplicationParameters.model_fields, *EngineOptions.model_fields]
)


@given(st.dictionaries(fields | st.text(max_size=6) | st.integers(), nested, max_size=6), st.booleans())
def test_whatever_a_yaml_file_holds_it_is_a_request_or_is_refused_in_our_own_words(
    data: dict[Any, Any], named: bool
) -> None:
    if named:
        data = GOOD | data
    said = None
    try:
        request = read_request(data, where="any.yaml")
    except RequestError as error:
        said = str(error)
    assert request.analysis == "duplication" if said is None else "any.yaml" in said or "analysis" in said


names = st.text(min_size=1, max_size=12)
blocks = st.tuples(st.integers(0, 40), st.integers(1, 9), st.integers(2, 5)).map(
    lambda drawn: f"{drawn[0]},{drawn[0] + drawn[1]}x{drawn[2]}"
)


@st.composite
def requests(draw: st.DrawFn) -> AnalysisRequest:
    return AnalysisRequest(
        analysis="duplication",
        model=draw(names),
        revision=draw(st.none() | names | st.sampled_from(["1e5", "0123456", "null", "yes", "2026-11-20"])),
        probes=tuple(
            draw(st.lists(names | st.sampled_from(["on", "1.5", "~", "a: b", "#c"]), min_size=1, max_size=3))
        ),
        metric=draw(st.sampled_from(Metric)),
        parameters=DuplicationParameters(
            min_block=draw(st.integers(1, 99)),
            max_block=draw(st.none() | st.integers(1, 99)),
            step=draw(st.integers(1, 9)),
            times=draw(st.integers(2, 5)),
            blocks=tuple(draw(st.lists(blocks, max_size=2))),
            paths=tuple(draw(st.lists(st.sampled_from(["0..3", "5,4,3", "0"]), max_size=2))),
            sparse_first=draw(st.booleans()),
        ),
        engine=EngineOptions(
            dtype=draw(st.sampled_from(["auto", "float32", "bfloat16"])),
            batch_size=draw(st.integers(1, 99)),
            trust_remote_code=draw(st.booleans()),
        ),
        shard_size=draw(st.integers(1, 999)),
    )


@given(requests())
def test_a_saved_request_reads_back_as_the_request(request: AnalysisRequest) -> None:
    assert read_request(yaml.safe_load(request_yaml(request)), where="request.yaml") == request


@given(requests())
def test_a_saved_request_says_every_default(request: AnalysisRequest) -> None:
    saved = yaml.safe_load(request_yaml(request))
    assert set(saved) == set(AnalysisRequest.model_fields)
    assert set(saved["parameters"]) == set(DuplicationParameters.model_fields)
    assert set(saved["engine"]) == set(EngineOptions.model_fields)


def test_a_request_cannot_be_changed_once_it_is_read() -> None:
    request = read_request(GOOD, where="test")
    with pytest.raises(ValueError, match="frozen"):
        request.model = "other"  # type: ignore[misc]


def test_the_general_lane_and_a_float32_residual_are_refused_together() -> None:
    engine = {"lane": "general", "residual": "float32"}
    with pytest.raises(RequestError, match="the general lane does not do; use lane auto or fused"):
        read_request({**GOOD, "engine": engine}, where="scan.yaml")
