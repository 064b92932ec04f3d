"""Checkpoints of many families: what `materialize` writes answers as the oracle's does, or is refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from neuroscan_farm.checkpoints.materialize import materialize
from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.engine.gate import relative_difference
from neuroscan_farm.engine.warm import WarmModel
from neuroscan_farm.errors import ModelError
from neuroscan_farm.store.run_directory import RunDirectory
from tests.families.oracle import oracle_logits
from tests.families.tiny_configs import VOCABULARY
from tests.paper_models import paper_plan, paper_probe
from tests.tiny_models import make_tiny

PATHS = ("0..3,1..5", "0..1,3..5")
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {}, "mistral": {}, "qwen2": {}, "qwen3": {}, "mixtral": {}, "gpt2": {}, "gpt_neo": {}, "gpt_neox": {},
    "falcon": {}, "opt": {}, "phi3": {}, "bloom": {}, "mamba": {}, "cohere2": {},
    "gemma2": {},  # sliding and full attention in turn
    "gemma3_text": {},
    "gemma3n_text": {},  # tensors that hold layer beside layer, and lists of sizes
    "gpt_oss": {},
    "smollm3": {},  # no_rope_layers
    "qwen3_next": {},  # hybrid
    "qwen3_moe": {},  # mlp_only_layers
    "nemotron_h": {},  # kinds of layers in another list
    "recurrent_gemma": {},  # kinds that are repeated over the depth
}  # fmt: skip
TOKENS = torch.randint(5, VOCABULARY, (2, 18), generator=torch.Generator().manual_seed(1))


def run_of(folder: Path, tmp_path: Path, **changes: Any) -> RunDirectory:
    """A run of the model, of which nothing is measured."""
    return prepare(
        paper_plan(folder, paper_probe(tmp_path / "p.json"), **changes), tmp_path / "run", executor="local"
    )


def own_logits(folder: Path, *, attention: str | None = None) -> torch.Tensor:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
    )
    assert not [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    model.eval()
    with torch.inference_mode():
        rows = [model(input_ids=prompt[None], use_cache=False).logits[0, -1] for prompt in TOKENS]
    return torch.stack(rows).float()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_answers_as_one_that_other_code_made(family: str, tmp_path: Path) -> None:
    folder = make_tiny(family, tmp_path / "model", **FAMILIES[family])
    run = run_of(folder, tmp_path)
    for number, text in enumerate(PATHS):
        path = LayerPath.parse(text)
        made = materialize(run, path, tmp_path / f"out-{number}")
        theirs = oracle_logits(folder, path.layers, TOKENS)
        assert relative_difference(own_logits(made.folder), theirs) < 2e-6, path


@pytest.mark.parametrize(
    ("family", "path", "reason"),
    [
        ("deepseek_v3", "0..3,1..5", "layer 1 and is not: the new config makes it of other modules"),
        ("dots1", "0..5,0..5", "layer 0 and is not"),
        ("jamba", "0..3,1..5", "and is not"),
        ("zamba", "0..1,3..5", "transformers cannot build its model"),
    ],
)
def test_what_no_config_of_the_family_can_say_is_refused_and_nothing_is_left(
    family: str, path: str, reason: str, tmp_path: Path
) -> None:
    run = run_of(make_tiny(family, tmp_path / "model"), tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(ModelError, match=rf"path {path} cannot be a checkpoint of this family: .*({reason})"):
        materialize(run, LayerPath.parse(path), tmp_path / "out")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("family", "path", "count"), [("deepseek_v3", "0,0..1,3..5,5", 3), ("dots1", "0..5,5", 2)]
)
def test_dense_layers_that_stay_first_are_counted_anew(
    family: str, path: str, count: int, tmp_path: Path
) -> None:
    folder = make_tiny(family, tmp_path / "model")
    made = materialize(run_of(folder, tmp_path), LayerPath.parse(path), tmp_path / "out")
    dense = json.loads((folder / "config.json").read_text())["first_k_dense_replace"]
    assert sum(k < dense for k in LayerPath.parse(path)) == count
    assert json.loads((made.folder / "config.json").read_text())["first_k_dense_replace"] == count
    theirs = oracle_logits(folder, LayerPath.parse(path).layers, TOKENS)
    assert relative_difference(own_logits(made.folder), theirs) < 2e-6


# Configs as the hub has them from older versions: what each layer is, is told by numbers alone. And a path along which
# these numbers would tell something else.
BY_NUMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3_text": ("0..1,1..5", {"sliding_window_pattern": 3, "sliding_window": 4}),
    "cohere2": ("0..1,1..5", {"sliding_window_pattern": 2, "sliding_window": 4}),
    "qwen2": ("0..3,1..5", {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 4}),
    "smollm3": ("0..1,1..5", {"no_rope_layer_interval": 2}),
    "qwen3_next": ("0..1,1..5", {"full_attention_interval": 4}),
}


@pytest.mark.parametrize("family", BY_NUMBERS)
def test_kinds_of_layers_that_only_numbers_tell_are_said_outright(
    family: str, tmp_path: Path, warm: WarmModel
) -> None:
    folder = make_tiny(family, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    lists = [name for name in ("layer_types", "no_rope_layers") if config.pop(name, None) is not None]
    assert lists
    text, numbers = BY_NUMBERS[family]
    (folder / "config.json").write_text(json.dumps({**config, **numbers}))
    run, path = run_of(folder, tmp_path), LayerPath.parse(text)
    made = materialize(run, path, tmp_path / "out")
    written = json.loads((made.folder / "config.json").read_text())
    assert any(len(written.get(name) or ()) == len(path) for name in lists)
    executor, _ = warm.ready_for(run)
    ours = executor.logits([path], TOKENS)[path]
    assert isinstance(ours, torch.Tensor)
    assert relative_difference(own_logits(made.folder, attention=executor.loaded.attention), ours) < 1e-5
