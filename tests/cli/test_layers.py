"""Where a request's fields come from: flag > --set > NEUROSCAN_* > --config > user file > default."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuroscan_farm.cli.layers import request_from
from neuroscan_farm.domain.requests import AnalysisRequest
from neuroscan_farm.errors import RequestError
from neuroscan_farm.settings import load_settings, user_file

LEAST: dict[str, Any] = {"analysis": "duplication", "model": "demo", "probes": ["math"]}


def ask(
    flags: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    sets: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> AnalysisRequest:
    return request_from(
        LEAST if flags is None else flags, config=config, sets=sets, environment=environment or {}
    )


def write_user_file(text: str) -> Path:
    user_file().parent.mkdir(parents=True, exist_ok=True)
    user_file().write_text(text)
    return user_file()


def request_file(folder: Path, **fields: Any) -> Path:
    path = folder / "request.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


SOURCES = ["flag", "set", "environment", "config", "user file"]
PLACES = {"dtype": "engine", "min_block": "parameters", "shard_size": None}
VALUES = {
    "dtype": ["float32", "bfloat16", "float16", "float32", "bfloat16"],
    "min_block": [5, 4, 3, 2, 9],
    "shard_size": [50, 40, 30, 20, 90],
}


@pytest.mark.parametrize("field", PLACES)
@pytest.mark.parametrize("given", [pair for n in (1, 2, 5) for pair in itertools.combinations(range(5), n)])
def test_the_earlier_source_wins_field_by_field(tmp_path: Path, field: str, given: tuple[int, ...]) -> None:
    section, values = PLACES[field], VALUES[field]

    def nested(value: Any) -> dict[str, Any]:
        return {section: {field: value}} if section else {field: value}

    flags, sets, environment, config = dict(LEAST), [], {}, None
    for source in given:
        match SOURCES[source]:
            case "flag":
                flags[field] = values[source]
            case "set":
                sets.append(f"{section}.{field}={values[source]}" if section else f"{field}={values[source]}")
            case "environment":
                environment[f"NEUROSCAN_{field.upper()}"] = str(values[source])
            case "config":
                config = request_file(tmp_path, **nested(values[source]))
            case "user file":
                write_user_file(yaml.safe_dump({"request": nested(values[source])}))
    request = ask(flags, config=config, sets=sets, environment=environment)
    assert getattr(getattr(request, section) if section else request, field) == values[given[0]]


def test_what_no_source_says_is_the_default() -> None:
    assert ask().engine.dtype == "auto"


def test_two_sources_may_each_say_a_part_of_a_section(tmp_path: Path) -> None:
    config = request_file(tmp_path, parameters={"min_block": 3, "step": 2}, engine={"dtype": "float32"})
    request = ask({**LEAST, "step": 5}, config=config, sets=["parameters.skip_late=1"])
    assert (request.parameters.min_block, request.parameters.step, request.parameters.skip_late) == (3, 5, 1)  # type: ignore[attr-defined]
    assert request.engine.dtype == "float32"


def test_a_whole_request_may_come_from_a_file(tmp_path: Path) -> None:
    assert ask({}, config=request_file(tmp_path, **LEAST)).model == "demo"


def test_probes_in_the_environment_are_separated_by_commas() -> None:
    request = ask({"analysis": "duplication", "model": "demo"}, environment={"NEUROSCAN_PROBES": "math,eq"})
    assert request.probes == ("math", "eq")


def test_an_empty_variable_says_nothing() -> None:
    assert ask(environment={"NEUROSCAN_DTYPE": ""}).engine.dtype == "auto"


def test_a_list_in_a_flag_replaces_the_list_of_a_file(tmp_path: Path) -> None:
    config = request_file(tmp_path, parameters={"blocks": ["1,2", "3,4"]})
    assert ask({**LEAST, "blocks": ["5,6"]}, config=config).parameters.blocks == ("5,6",)  # type: ignore[attr-defined]
    assert ask({**LEAST, "blocks": []}, config=config).parameters.blocks == ("1,2", "3,4")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        (
            {"sets": ["parameters.step"]},
            "--set parameters.step: write a.b=c, such as --set parameters.step=2",
        ),
        ({"sets": ["parameters.step=["]}, "--set parameters.step=[: '[' is no YAML value"),
        ({"sets": ["parameters.stepp=2"]}, "parameters.stepp is not known; did you mean step?"),
        ({"sets": ["engine=7"]}, "engine is 7"),
        ({"sets": ["parameters=7"]}, "parameters is 7"),
        ({"sets": ["=7"]}, "is not known"),
        ({"sets": ["revision.name=7"]}, "revision is {'name': 7}"),
        ({"environment": {"NEUROSCAN_STEP": "["}}, "NEUROSCAN_STEP: '[' is no YAML value"),
        ({"environment": {"NEUROSCAN_STEP": "two"}}, "parameters.step is 'two'"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        ask(**keywords)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a: [", "not YAML"),
        (b"- a\n- b\n", "a request is a mapping with analysis:, model: and probes:"),
        (b"", "a request is a mapping"),
        (b"\xff\xfe\xfa", "cannot be read"),
        (b"mdoel: x\n", "mdoel is not known; did you mean model?"),
        (b"analysis: ablation\n", "analysis is ablation, but the command says duplication; leave one out"),
    ],
)
def test_a_file_that_is_no_request_is_refused_with_its_name(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "full_grid.yaml"
    path.write_bytes(text)
    with pytest.raises(RequestError) as caught:
        ask(config=path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere\.yaml: cannot be read"):
        ask(config=tmp_path / "nowhere.yaml")


def test_without_an_analysis_the_mend_is_named() -> None:
    with pytest.raises(
        RequestError, match="no analysis; name one, such as `run duplication`, or give --config"
    ):
        ask({"model": "demo"})


@pytest.mark.parametrize(
    "text", ["a: [", "requests: {}\n", "- 1\n", "request: [1]\n", "settings: 3\n", "request: words\n"]
)
def test_a_user_file_that_cannot_be_used_is_refused_with_its_name(text: str) -> None:
    path = write_user_file(text)
    for read in (ask, load_settings):
        with pytest.raises(RequestError) as caught:
            read()
        assert str(path) in str(caught.value)


def test_settings_come_from_the_environment_before_the_user_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write_user_file("settings: {queue: lab, cache_gb: 5, runs_dir: ~/scans}\n")
    monkeypatch.setenv("NEUROSCAN_QUEUE", "night")
    settings = load_settings()
    assert (settings.queue, settings.cache_gb) == ("night", 5)
    assert settings.runs_dir == Path("~/scans").expanduser()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CACHE_GB", "-1"),
        ("CACHE_GB", "much"),
        ("QUEUE", "a b"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_LEVEL", "debug"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"NEUROSCAN_{name}", value)
    with pytest.raises(RequestError, match=f"NEUROSCAN_{name} is '{value}': "):
        load_settings()


def test_a_wrong_value_in_the_user_file_is_not_blamed_on_the_environment() -> None:
    path = write_user_file("settings: {cache_gb: -1}\n")
    with pytest.raises(RequestError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"{path}: settings.cache_gb is -1: ")


def test_an_unknown_setting_in_the_user_file_is_named() -> None:
    write_user_file("settings: {chache_gb: 1}\n")
    with pytest.raises(RequestError, match=r"settings.chache_gb is not known; accepted: runs_dir, cache_dir"):
        load_settings()
