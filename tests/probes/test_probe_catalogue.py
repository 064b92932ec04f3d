"""How a name or a path becomes a probe."""

import json
from pathlib import Path

import pytest

import neuroscan_farm.probes.catalogue as catalogue_module
from neuroscan_farm.errors import ProbeError
from neuroscan_farm.probes.catalogue import builtin_names, catalogue, load_probe


def test_the_instruction_probes_are_built_in():
    assert {"math", "eq", "json"} <= set(builtin_names())
    assert list(builtin_names()) == sorted(builtin_names())


def test_every_built_in_probe_loads_and_is_named_as_its_file():
    for name in builtin_names():
        assert load_probe(name).name == name


def test_no_two_built_in_files_have_one_name():
    files = [
        p for p in Path(catalogue_module.__file__).parent.joinpath("builtin").iterdir() if p.suffix != ".md"
    ]
    assert len(files) == len(builtin_names())


def test_the_catalogue_lists_each_built_in_probe_with_what_a_reader_needs():
    entries = catalogue()
    assert tuple(entry.name for entry in entries) == builtin_names()
    math = next(entry for entry in entries if entry.name == "math")
    assert math.n_samples == 30
    assert "geometry" in math.categories
    assert math.description.startswith(math.first_line)
    assert "\n" not in math.first_line


def test_an_unknown_name_gets_the_nearest_ones_and_the_other_way():
    with pytest.raises(ProbeError) as caught:
        load_probe("maths")
    message = str(caught.value)
    assert message.startswith('unknown probe "maths"; accepted: ')
    assert "did you mean math" in message
    assert ".json, .yaml, .yml" in message


def test_a_name_near_to_nothing_gets_the_whole_list():
    with pytest.raises(ProbeError, match="choose one of these") as caught:
        load_probe("zzzzzz")
    assert all(name in str(caught.value) for name in ("math", "eq", "json"))


def test_a_path_loads_a_file(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(
        json.dumps({"name": "own", "samples": [{"prompt": "1 + 1 =", "answer": 2}]}), encoding="utf-8"
    )
    assert load_probe(path).name == "own"
    assert load_probe(str(path)) == load_probe(path)


def test_a_path_that_is_not_there_is_named():
    with pytest.raises(ProbeError, match=r"gone\.yaml: no such file"):
        load_probe("gone.yaml")


def test_a_built_in_name_wins_over_a_file_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "math").write_text("not a probe", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_probe("math").name == "math"
