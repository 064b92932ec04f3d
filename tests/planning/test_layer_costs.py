"""What a layer costs, from headers and config alone, is what the model itself has and keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, DynamicCache

from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.planning.facts import read_facts
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.paper_models import paper_model, paper_plan, paper_probe
from tests.tiny_models import make_tiny

LISTS = {
    "llama": "model.layers", "qwen3": "model.layers", "gemma2": "model.layers", "mixtral": "model.layers",
    "phi3": "model.layers", "gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers", "opt": "model.decoder.layers",
    "falcon": "transformer.h", "bloom": "transformer.h", "gemma3_text": "model.layers",
}  # fmt: skip


@pytest.mark.parametrize("family", LISTS)
def test_parameters_and_cache_bytes_are_those_of_the_loaded_model(family: str, tmp_path: Path) -> None:
    facts = read_facts(make_tiny(family, tmp_path / family, sliding_window=64))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / family, dtype=torch.float32)
    layers = model.get_submodule(LISTS[family])
    assert facts.layer_parameters == tuple(sum(p.numel() for p in layer.parameters()) for layer in layers)
    cache = DynamicCache()
    with torch.inference_mode():
        model(torch.arange(5)[None], past_key_values=cache, use_cache=True)
    kept = tuple((one.keys.nbytes + one.values.nbytes) // 5 for one in cache.layers)
    assert facts.layer_kv_bytes == kept


@pytest.mark.parametrize("family", ["mamba", "deepseek_v3", "jamba", "qwen3_next", "lfm2"])
def test_what_keeps_more_or_other_things_than_keys_and_values_is_unknown(family: str, tmp_path: Path) -> None:
    facts = read_facts(make_tiny(family, tmp_path / family))
    assert facts.layer_kv_bytes is None
    assert facts.layer_parameters is not None
    assert len(facts.layer_parameters) == facts.depth


def test_packed_weights_are_not_counted_and_masks_are_no_parameters(tmp_path: Path) -> None:
    layer = {
        "up.weight": torch.zeros(3, 4),
        "attn.bias": torch.zeros(1, 1, 8, 8),
        "rot.inv_freq": torch.zeros(4),
    }
    for name, extra in {"plain": {}, "packed": {"up.qweight": torch.zeros(3, 4, dtype=torch.int32)}}.items():
        folder = paper_model(tmp_path / name, num_hidden_layers=2)
        tensors = {f"h.{k}.{inner}": t.clone() for k in range(2) for inner, t in {**layer, **extra}.items()}
        save_file(tensors, folder / "model.safetensors")
    assert read_facts(tmp_path / "plain").layer_parameters == (12, 12)
    assert read_facts(tmp_path / "packed").layer_parameters is None


def test_layers_that_only_predict_further_tokens_are_no_layers_of_the_model(tmp_path: Path) -> None:
    folder = paper_model(tmp_path / "m", num_hidden_layers=2)
    save_file({f"model.layers.{k}.w": torch.zeros(k + 1, 2) for k in range(3)}, folder / "model.safetensors")
    assert read_facts(folder).layer_parameters == (2, 4)


def test_a_model_whose_files_do_not_tell_has_no_costs(tmp_path: Path) -> None:
    facts = read_facts(paper_model(tmp_path / "m"))
    assert facts.layer_parameters is facts.layer_kv_bytes is None


def test_the_manifest_carries_the_costs_and_an_old_one_without_them_opens(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    assert run.manifest.layer_parameters is not None
    assert RunDirectory.open(run.root).manifest == run.manifest
    old = prepare(
        paper_plan(paper_model(tmp_path / "m"), paper_probe(tmp_path / "p.json")),
        tmp_path / "r",
        executor="local",
    )
    written = json.loads((old.root / "manifest.json").read_text())
    for name in ("layer_parameters", "layer_kv_bytes"):
        assert written.pop(name) is None
    (old.root / "manifest.json").write_text(json.dumps(written))
    assert RunDirectory.open(old.root).manifest == old.manifest
