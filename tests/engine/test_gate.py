"""The gate lets a true replay through and names the fact where the replay would be false."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel

from neuroscan_farm.demo import MODEL_DIR
from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.engine.anatomy import find_anatomy
from neuroscan_farm.engine.boundaries import BoundaryCache
from neuroscan_farm.engine.executor import Executor
from neuroscan_farm.engine.gate import pass_gate
from neuroscan_farm.engine.loading import LoadedModel, load
from neuroscan_farm.engine.prompts import Batch, make_batches
from neuroscan_farm.errors import GateError, ModelError, WorkerError
from neuroscan_farm.probes.loader import load_probe_file
from tests.tiny_models import make_tiny


def _executor(loaded: LoadedModel, depth: int, cache: Path) -> Executor:
    anatomy = find_anatomy(loaded.model, torch.tensor([[0, 1, 2, 3]]), depth=depth)
    return Executor(loaded, anatomy, fingerprint="test", cache=BoundaryCache(cache, most_bytes=10**9))


def _batches(loaded: LoadedModel, probe_file: Path) -> list[Batch]:
    probe = load_probe_file(probe_file)
    return make_batches(loaded.tokenizer, [probe], prompt_format="raw", batch_size=16, max_tokens=None)


def test_a_sound_model_passes_and_is_left_as_it_was(
    tiny_llama: Path, probe_file: Path, tmp_path: Path
) -> None:
    loaded = load(tiny_llama, EngineOptions())
    batches = _batches(loaded, probe_file)
    before = loaded.model(input_ids=batches[0].token_ids).logits
    assert pass_gate(_executor(loaded, 6, tmp_path), batches) < 1e-5
    assert loaded.model.config.num_hidden_layers == 6
    assert len(loaded.model.model.layers) == 6
    assert not any("forward" in vars(layer) for layer in loaded.model.model.layers)
    assert torch.equal(before, loaded.model(input_ids=batches[0].token_ids).logits)


def test_a_rebuilt_model_that_blows_up_its_own_rounding_is_judged_by_that(tmp_path: Path) -> None:
    """Its last layer run twice moves the bundled model by 1.1e-5 on these prompts: by rounding, and nothing else."""
    samples = [{"prompt": f"{a}+1=", "answer": str(a + 1)} for a in range(1, 6)]
    (tmp_path / "short.json").write_text(json.dumps({"name": "short", "samples": samples}))
    loaded = load(MODEL_DIR, EngineOptions())
    batches = _batches(loaded, tmp_path / "short.json")
    assert pass_gate(_executor(loaded, 14, tmp_path), batches) < 1e-4


def test_a_bidirectional_model_is_refused_as_not_causal(
    tiny_llama: Path, probe_file: Path, tmp_path: Path
) -> None:
    loaded = load(tiny_llama, EngineOptions())
    config = BertConfig(
        vocab_size=len(loaded.tokenizer),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        is_decoder=False,
    )
    bert = BertLMHeadModel(config).eval()
    batches = _batches(loaded, probe_file)
    changed = LoadedModel(
        bert, loaded.tokenizer, loaded.device, "cpu", "float32", "sdpa", loaded.folder, loaded.placement
    )
    with pytest.raises(GateError, match="not causal"):
        pass_gate(_executor(changed, 3, tmp_path), batches)


class _Leaky(nn.Module):
    """A layer that adds what the layer before it left behind: state that crosses layers beside the residual."""

    left: torch.Tensor | None = None

    def __init__(self, layer: nn.Module, first: bool) -> None:
        super().__init__()
        self.layer = layer
        self.first = first
        self.attention_type = "full_attention"

    def forward(self, hidden_states: torch.Tensor, **named: Any) -> torch.Tensor:
        out: torch.Tensor = self.layer(hidden_states, **named)
        if not self.first and _Leaky.left is not None:
            out = out + 0.5 * _Leaky.left
        _Leaky.left = out.detach().clone()
        return out


def test_state_that_crosses_layers_is_found_out(tiny_llama: Path, probe_file: Path, tmp_path: Path) -> None:
    loaded = load(tiny_llama, EngineOptions())
    layers = loaded.model.model.layers
    loaded.model.model.layers = nn.ModuleList([_Leaky(layer, k == 0) for k, layer in enumerate(layers)])
    with pytest.raises(GateError, match=r"differs from the (untouched|physically rebuilt) model"):
        pass_gate(_executor(loaded, 6, tmp_path), _batches(loaded, probe_file))


def test_weights_that_are_missing_are_refused_and_not_made_up(tiny_llama: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    weights = {name: value for name, value in model.state_dict().items() if "layers.3.mlp" not in name}
    model.save_pretrained(tmp_path / "broken", state_dict=weights)
    for file in tiny_llama.glob("tokenizer*"):
        (tmp_path / "broken" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match=r"weights are missing, such as .*layers\.3\.mlp"):
        load(tmp_path / "broken", EngineOptions())


def test_a_truncated_weight_file_is_a_clear_error(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "truncated"
    folder.mkdir()
    for file in tiny_llama.iterdir():
        data = file.read_bytes()
        (folder / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder, EngineOptions())


def test_pickled_weights_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in tiny_llama.iterdir():
        name = "pytorch_model.bin" if file.suffix == ".safetensors" else file.name
        (folder / name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        load(folder, EngineOptions())


def test_layers_that_depend_on_their_own_index_are_refused_because_a_merged_model_would_differ(
    probe_file: Path, tmp_path: Path
) -> None:
    loaded = load(make_tiny("gpt2", tmp_path / "m", scale_attn_by_inverse_layer_idx=True), EngineOptions())
    with pytest.raises(GateError, match="their own index"):
        pass_gate(_executor(loaded, 6, tmp_path), _batches(loaded, probe_file))


class _Placed(nn.Module):
    """A layer that looks at its own index while it runs."""

    def __init__(self, layer: nn.Module, layer_idx: int) -> None:
        super().__init__()
        self.layer = layer
        self.layer_idx = layer_idx
        self.attention_type = "full_attention"

    def forward(self, hidden_states: torch.Tensor, **named: Any) -> torch.Tensor:
        out: torch.Tensor = self.layer(hidden_states, **named)
        return out * (1 + 0.2 * self.layer_idx)


def test_layers_that_look_at_their_index_while_they_run_are_found_out(
    tiny_llama: Path, probe_file: Path, tmp_path: Path
) -> None:
    loaded = load(tiny_llama, EngineOptions())
    placed = nn.ModuleList([_Placed(layer, k) for k, layer in enumerate(loaded.model.model.layers)])
    loaded.model.model.layers = placed
    with pytest.raises(GateError, match=r"a duplicated block .* such as their own index"):
        pass_gate(_executor(loaded, 6, tmp_path), _batches(loaded, probe_file))
    assert [layer.layer_idx for layer in loaded.model.model.layers] == list(range(6)), (
        "everything is put back"
    )


class _NeedsCache(nn.Module):
    """A layer that cannot do without what the model does not pass to it when it is replayed."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.attention_type = "full_attention"
        self.calls = 0

    def forward(self, hidden_states: torch.Tensor, **named: Any) -> torch.Tensor:
        self.calls += 1
        if (
            self.calls > 3
        ):  # the look at its anatomy, the untouched model, the causality check: then it is replayed
            raise KeyError("per_layer_input")
        out: torch.Tensor = self.layer(hidden_states, **named)
        return out


def test_a_family_whose_layers_cannot_be_replayed_is_refused_with_what_went_wrong(
    tiny_llama: Path, probe_file: Path, tmp_path: Path
) -> None:
    loaded = load(tiny_llama, EngineOptions())
    loaded.model.model.layers = nn.ModuleList([_NeedsCache(layer) for layer in loaded.model.model.layers])
    with pytest.raises(GateError, match=r"running its layers one by one failed: KeyError: 'per_layer_input'"):
        pass_gate(_executor(loaded, 6, tmp_path), _batches(loaded, probe_file))


def test_a_device_that_is_not_there_is_a_clear_error(tiny_llama: Path) -> None:
    if torch.cuda.is_available():  # then it is there
        return
    with pytest.raises(WorkerError, match="torch sees no CUDA device"):
        load(tiny_llama, EngineOptions(device="cuda"))
    with pytest.raises(WorkerError, match="names 2 devices, but torch sees 0"):
        load(tiny_llama, EngineOptions(), memory_mb=(10, 10))
