"""Facts of a model without its weights: what is no decoder is refused in words, and content has one fingerprint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.demo import MODEL_DIR
from neuroscan_farm.errors import ModelError, NeuroscanError
from neuroscan_farm.planning.facts import fingerprint, read_facts
from tests.paper_models import LLAMA, paper_model


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_facts(folder)
    return str(caught.value)


def test_the_facts_of_a_folder_are_those_of_its_config(tmp_path: Path) -> None:
    facts = read_facts(paper_model(tmp_path / "tiny"))
    assert (facts.name, facts.model_type, facts.depth, facts.hidden_size) == ("tiny", "llama", 6, 32)
    assert (facts.max_tokens, facts.dtype, facts.weight_bytes) == (128, "float32", len(b"no weights"))


def test_the_bundled_model_is_a_decoder_of_twelve_to_sixteen_layers() -> None:
    assert 12 <= read_facts(MODEL_DIR).depth <= 16


@pytest.mark.parametrize(
    ("depth", "width"), [("n_layer", "n_embd"), ("num_layers", "d_model"), ("n_layers", "hidden_size")]
)
def test_the_names_that_other_families_give_to_depth_and_width_are_known(
    tmp_path: Path, depth: str, width: str
) -> None:
    changes: dict[str, Any] = {"num_hidden_layers": None, "hidden_size": None, depth: 9, width: 16}
    facts = read_facts(paper_model(tmp_path / "tiny", **changes))
    assert (facts.depth, facts.hidden_size) == (9, 16)


@pytest.mark.parametrize("name", ["layers_block_type", "layer_types"])
def test_a_depth_that_only_a_list_of_kinds_tells_is_found(tmp_path: Path, name: str) -> None:
    changes: dict[str, Any] = {"num_hidden_layers": None, name: ["mamba", "attention", "mlp"] * 3}
    assert read_facts(paper_model(tmp_path / "tiny", **changes)).depth == 9


def test_the_text_part_of_a_larger_model_is_what_is_scanned(tmp_path: Path) -> None:
    folder = paper_model(
        tmp_path / "nested",
        architectures=["Gemma3ForConditionalGeneration"],
        model_type="gemma3",
        num_hidden_layers=None,
        hidden_size=None,
        text_config={"num_hidden_layers": 4, "hidden_size": 8, "model_type": "gemma3_text"},
        vision_config={"num_hidden_layers": 27},
    )
    facts = read_facts(folder)
    assert (facts.depth, facts.hidden_size, facts.model_type) == (4, 8, "gemma3_text")


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "config.json is missing; give a folder in Hugging Face's form" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("text", ["{", "", "\x00", '{"num_hidden_layers": 6,}', "[1]", "null", '"config"'])
def test_a_config_that_is_no_json_object_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    folder = paper_model(tmp_path / "broken")
    (folder / "config.json").write_text(text)
    said = refusal(folder)
    assert str(folder / "config.json") in said
    assert "fetch the model again" in said


def test_a_config_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = paper_model(tmp_path / "broken")
    (folder / "config.json").write_bytes(b"\xff\xfe\xfa{}")
    assert "cannot be read" in refusal(folder)


def test_an_encoder_is_refused_by_its_class(tmp_path: Path) -> None:
    folder = paper_model(tmp_path / "bert", architectures=["BertForMaskedLM"], model_type="bert")
    said = refusal(folder)
    assert "BertForMaskedLM is no decoder language model; a class such as LlamaForCausalLM is needed" in said


def test_an_encoder_decoder_is_refused_by_what_its_config_says(tmp_path: Path) -> None:
    folder = paper_model(
        tmp_path / "t5",
        architectures=["T5ForConditionalGeneration"],
        model_type="t5",
        is_encoder_decoder=True,
        num_hidden_layers=None,
        num_layers=6,
    )
    assert "t5 is an encoder-decoder; only decoder-only models can be scanned" in refusal(folder)


def test_a_model_that_is_no_decoder_is_told_so_before_it_is_asked_for_its_depth(tmp_path: Path) -> None:
    folder = paper_model(
        tmp_path / "clip", architectures=["CLIPModel"], model_type="clip", num_hidden_layers=None
    )
    assert "CLIPModel is no decoder language model" in refusal(folder)


@pytest.mark.parametrize("depth", [None, "six", 0, -1, True, 6.5])
def test_a_config_without_a_depth_is_refused_with_the_names_that_are_accepted(
    tmp_path: Path, depth: Any
) -> None:
    said = refusal(paper_model(tmp_path / "flat", num_hidden_layers=depth))
    assert "the number of layers is missing" in said
    assert "num_hidden_layers, n_layer" in said


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.dictionaries(
        st.sampled_from([*LLAMA, "text_config", "is_encoder_decoder", "torch_dtype"]), json_values
    )
)
def test_whatever_a_config_says_it_is_a_model_or_is_refused_in_our_own_words(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-config"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    said = None
    try:
        facts = read_facts(folder)
    except NeuroscanError as error:
        said = str(error)
    assert facts.depth >= 1 if said is None else str(folder) in said


def test_a_model_has_the_same_fingerprint_wherever_it_lies_and_whatever_it_is_called(tmp_path: Path) -> None:
    here = paper_model(tmp_path / "here")
    there = shutil.copytree(here, tmp_path / "deep" / "down" / "another-name")
    assert fingerprint(here) == fingerprint(there)


@pytest.mark.parametrize("place", [0, 4_095, 65_535, 70_000, 1_500_000, 2_999_999])
def test_one_changed_byte_in_a_sampled_block_of_the_weights_is_another_model(
    tmp_path: Path, place: int
) -> None:
    weights = bytearray(3_000_000)
    blocks = [(len(weights) - 65_536) * k // 17 for k in range(18)]
    sampled = next((start for start in blocks if start <= place < start + 65_536), None)
    before = fingerprint(paper_model(tmp_path / "before", weights=bytes(weights)))
    weights[place] ^= 1
    after = fingerprint(paper_model(tmp_path / "after", weights=bytes(weights)))
    assert (before != after) == (sampled is not None)


def test_small_weight_files_are_covered_whole(tmp_path: Path) -> None:
    weights = bytearray(300_000)
    known = {fingerprint(paper_model(tmp_path / "plain", weights=bytes(weights)))}
    for place in range(0, 300_000, 30_011):
        changed = bytearray(weights)
        changed[place] = 1
        known.add(fingerprint(paper_model(tmp_path / str(place), weights=bytes(changed))))
    assert len(known) == 1 + len(range(0, 300_000, 30_011))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_another_config_or_tokenizer_is_another_model(tmp_path: Path, name: str) -> None:
    folder = paper_model(tmp_path / "tiny")
    before = fingerprint(folder)
    (folder / name).write_text((folder / name).read_text() + "\n")
    assert fingerprint(folder) != before


def test_weights_under_another_name_or_of_another_size_are_another_model(tmp_path: Path) -> None:
    folder = paper_model(tmp_path / "tiny")
    before = fingerprint(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    renamed = fingerprint(folder)
    with (folder / "model-00001-of-00001.safetensors").open("ab") as file:
        file.write(b"\0")
    assert len({before, renamed, fingerprint(folder)}) == 3


def test_what_is_no_part_of_the_model_does_not_change_its_fingerprint(tmp_path: Path) -> None:
    folder = paper_model(tmp_path / "tiny")
    before = fingerprint(folder)
    (folder / "README.md").write_text("a model")
    assert fingerprint(folder) == before


def test_a_snapshot_from_the_hub_is_known_by_its_commit(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = paper_model(tmp_path / "models--acme--tiny" / "snapshots" / commit)
    assert fingerprint(folder) == f"hub-{commit}"
    assert fingerprint(paper_model(tmp_path / "snapshots" / "latest")) != f"hub-{commit}"
