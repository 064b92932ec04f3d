"""mergekit files: what is written comes back as the path."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.errors import RequestError
from neuroscan_farm.report.checkpoint import checkpoint_dtype, model_reference
from neuroscan_farm.report.mergekit import (
    mergekit_verdict,
    mergekit_warnings,
    mergekit_yaml,
    path_of_mergekit,
)
from tests.report.conftest import MakeRun

SOURCE, OTHER = "{model: a, layer_range: [0, 1]}", "{model: b, layer_range: [0, 1]}"

paths = st.lists(st.integers(0, 90), min_size=1, max_size=40).map(lambda layers: LayerPath(tuple(layers)))
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@given(paths, names, names)
def test_what_is_written_comes_back_as_the_path(path: LayerPath, model: str, note: str) -> None:
    text = mergekit_yaml(path, model=model, dtype="bfloat16", model_type="qwen3", notes=[note])
    assert path_of_mergekit(text) == path
    assert yaml.safe_load(text)["dtype"] == "bfloat16"


@given(paths)
def test_there_is_one_source_per_slice_and_one_slice_per_ascending_run(path: LayerPath) -> None:
    data = yaml.safe_load(mergekit_yaml(path, model="a/b", dtype="float32", model_type="llama"))
    assert data["merge_method"] == "passthrough"
    assert [part["sources"][0]["layer_range"] for part in data["slices"]] == [
        list(run) for run in path.runs()
    ]
    assert {len(part["sources"]) for part in data["slices"]} == {1}


@given(names)
def test_the_model_is_named_so_that_mergekit_reads_the_same_name(model: str) -> None:
    data = yaml.safe_load(mergekit_yaml(LayerPath((0,)), model=model, dtype="float32", model_type="llama"))
    named = data["slices"][0]["sources"][0]["model"]
    if "+" in model or "@" in model:  # mergekit splits a text there, but no mapping
        assert named == {"model": {"path": model}}
    else:
        assert named == model


def test_a_hub_revision_stands_behind_the_id() -> None:
    text = mergekit_yaml(LayerPath((0,)), model="a/b", revision="v2", dtype="float32", model_type="llama")
    assert yaml.safe_load(text)["slices"][0]["sources"][0]["model"] == "a/b@v2"


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma2", "gemma3_text", "gpt_neox", "cohere"])
def test_families_on_which_mergekit_fails_carry_a_warning(family: str) -> None:
    text = mergekit_yaml(LayerPath((0,)), model="m", dtype="float32", model_type=family)
    assert f"# WARNING: mergekit 0.1.5 with transformers 5.23, family {family}: it fails" in text


@pytest.mark.parametrize("family", ["smollm3", "opt", "gpt_oss"])
def test_a_silently_wrong_family_is_named_as_that_and_the_way_out_is_told(family: str) -> None:
    assert mergekit_verdict(family) == "silently wrong"
    warnings = mergekit_warnings(family)
    assert "SILENTLY WRONG" in warnings[0]
    assert "neuroscan-farm materialize" in warnings[-1]
    assert "neuroscan-farm verify" in warnings[-1]


def test_an_exact_family_has_no_warning_and_an_untried_one_has() -> None:
    assert mergekit_warnings("llama") == []
    text = mergekit_yaml(LayerPath((0,)), model="m", dtype="float32", model_type="llama")
    assert "family llama: exact; neuroscan-farm verify" in text
    assert "was not tried" in mergekit_warnings("nemotron")[0]


def test_a_path_that_runs_layers_in_part_has_no_file() -> None:
    with pytest.raises(RequestError):
        mergekit_yaml(LayerPath.parse("0..4,5:mlp"), model="m", dtype="float32", model_type="llama")


@pytest.mark.parametrize(
    "text",
    [
        "merge_method: linear",
        "merge_method: passthrough",
        "- 1",
        "{",
        "a: 1\n---\nb: 2",
        "merge_method: passthrough\nslices: [{sources: [" + ", ".join([SOURCE] * 2) + "]}]",
        "merge_method: passthrough\nslices: [{sources: [" + SOURCE + "]}, {sources: [" + OTHER + "]}]",
    ],
)  # fmt: skip
def test_what_is_no_passthrough_of_one_model_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="mergekit file"):
        path_of_mergekit(text)


def _safetensors(path: Path, dtypes: dict[str, int]) -> None:
    header, start = {}, 0
    for number, (dtype, size) in enumerate(dtypes.items()):
        header[f"w{number}"] = {"dtype": dtype, "shape": [size], "data_offsets": [start, start + size]}
        start += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * start)


def test_the_dtype_is_that_of_most_stored_weights_whatever_the_config_says(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"dtype": "bfloat16"}')
    _safetensors(tmp_path / "model.safetensors", {"F32": 400, "I64": 8000, "F16": 20})
    assert checkpoint_dtype(tmp_path) == "float32"


@pytest.mark.parametrize(
    "config",
    ['{"torch_dtype": "float16"}', '{"text_config": {"dtype": "float16"}}', '{"dtype": "torch.float16"}'],
)
def test_without_safetensors_the_dtype_is_the_configs(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    assert checkpoint_dtype(tmp_path) == "float16"


def test_a_folder_that_says_no_dtype_has_none(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    assert checkpoint_dtype(tmp_path) is None


def test_a_local_model_is_an_absolute_folder_and_a_hub_model_its_id(
    make_run: MakeRun, tmp_path: Path
) -> None:
    local = make_run(model="models/x", model_folder=str(tmp_path / "models" / "x"))
    snapshot = "/cache/models--acme--tiny/snapshots/0a1b"
    hub = make_run(model="acme/tiny", model_folder=snapshot)
    copied = make_run(model=snapshot, model_folder=snapshot)
    assert model_reference(local.manifest, local.request()) == (str(tmp_path / "models" / "x"), None)
    assert model_reference(hub.manifest, hub.request()) == ("acme/tiny", None)
    assert model_reference(copied.manifest, copied.request()) == (snapshot, None)
