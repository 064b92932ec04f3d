"""Streamed layers: the same numbers as the resident model, two layers in memory, and clear words when it cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.engine.anatomy import find_anatomy
from neuroscan_farm.engine.loading import LoadedModel, load
from neuroscan_farm.engine.replay import prepare
from neuroscan_farm.engine.weights.streaming import ResidentLayers, StreamedLayers
from neuroscan_farm.errors import ModelError, WorkerError
from neuroscan_farm.planning.memory import LEAST_WORK_BYTES
from tests.tiny_models import FAMILIES, make_tiny

ROOT = Path(__file__).parents[2]
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12], [9, 3, 4, 4, 5, 6, 7, 1]])
OPTIONS = EngineOptions()


def logits_of(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return logits


def streamed(folder: Path, options: EngineOptions = OPTIONS) -> tuple[LoadedModel, StreamedLayers]:
    loaded = load(folder, options, stream=True)
    assert isinstance(loaded.layers, StreamedLayers)
    return loaded, loaded.layers


def present(loaded: LoadedModel) -> set[int]:
    """The layers of which any weight is in memory."""
    layers = find_layers(loaded.model)
    return {k for k, layer in enumerate(layers) if not all(p.is_meta for p in layer.parameters())}


def find_layers(model: nn.Module) -> nn.ModuleList:
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_streamed_model_gives_the_same_bits_as_a_resident_one(family: str, tmp_path: Path) -> None:
    folder = make_tiny(family, tmp_path / family)
    expected = logits_of(load(folder, OPTIONS).model)
    loaded, layers = streamed(folder)
    for _ in range(2):  # the second time into slots that other layers have used
        assert torch.equal(logits_of(loaded.model), expected)
    assert layers.traffic.most_present == 2
    assert layers.traffic.prefetched == 2 * 5, "every layer but the first was under way when it was asked for"
    bounded = load(folder, OPTIONS, memory_limit_mb=100_000)  # read by ourselves, but resident
    assert isinstance(bounded.layers, ResidentLayers)
    assert torch.equal(logits_of(bounded.model), expected)
    layers.close()


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt2"])
@pytest.mark.parametrize(
    ("stored", "wanted"), [("bfloat16", "float32"), ("float32", "bfloat16"), ("float16", "auto")]
)
def test_weights_are_cast_as_transformers_casts_them(
    family: str, stored: str, wanted: str, tmp_path: Path
) -> None:
    folder = make_tiny(family, tmp_path / family)
    file = folder / "model.safetensors"
    weights = {name: tensor.to(getattr(torch, stored)) for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    options = EngineOptions(dtype=wanted)
    expected = logits_of(load(folder, options).model)
    loaded, layers = streamed(folder, options)
    assert loaded.dtype == ("float32" if wanted == "auto" else wanted)
    assert torch.equal(logits_of(loaded.model), expected)
    layers.close()


def test_a_checkpoint_in_several_files_is_streamed(tmp_path: Path) -> None:
    folder = make_tiny("qwen2", tmp_path / "model")
    expected = logits_of(load(folder, OPTIONS).model)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index: dict[str, str] = {}
    for number in range(3):
        part = {name: weights[name] for name in sorted(weights)[number::3]}
        save_file(part, folder / f"model-{number}.safetensors", metadata={"format": "pt"})
        index |= dict.fromkeys(part, f"model-{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    loaded, layers = streamed(folder)
    assert torch.equal(logits_of(loaded.model), expected)
    layers.close()


def test_at_most_two_layers_have_memory_and_the_rest_cannot_be_used_by_mistake(tmp_path: Path) -> None:
    loaded, layers = streamed(make_tiny("llama", tmp_path / "model"))
    assert present(loaded) == set()
    seen: list[set[int]] = []
    for layer in find_layers(loaded.model):
        layer.register_forward_hook(lambda *_: seen.append(present(loaded)))
    logits_of(loaded.model)
    assert [max(layers) for layers in seen] == list(range(6)), "the next one's memory is not yet in its place"
    assert max(len(layers) for layers in seen) <= 2
    assert layers.present() <= 2
    largest = max(sum(p.numel() * 4 for p in layer.parameters()) for layer in find_layers(loaded.model))
    assert layers.slot_bytes <= 2 * (largest + 64 * 16)
    absent = next(find_layers(loaded.model)[0].parameters())
    assert absent.shape == (32, 32)
    for use in (
        lambda: nn.functional.linear(torch.zeros(1, 32), absent),
        lambda: absent.T,
        lambda: absent * 2,
    ):
        with torch.inference_mode(), pytest.raises(RuntimeError, match="of a weight that is not in memory"):
            use()
    layers.close()
    assert present(loaded) == set()


def test_layers_can_be_asked_for_in_any_order_with_or_without_a_guess(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "model")
    whole = find_layers(load(folder, OPTIONS).model)
    loaded, layers = streamed(folder)
    here = find_layers(loaded.model)
    layers.follow(list(here))
    order: list[tuple[int, int | None]] = [
        (3, 1), (1, 0), (5, 5), (5, 0), (2, 4), (2, 3), (3, None), (3, 4), (0, 1), (1, 2),
    ]  # fmt: skip
    for k, then in order:
        layers.ensure(k, then)
        assert all(
            torch.equal(p, q) for p, q in zip(here[k].parameters(), whole[k].parameters(), strict=True)
        )
        assert present(loaded) <= {k, *[before for before, _ in order]}
        assert layers.present() <= 2
    layers.close()


def test_what_stands_aside_loads_nothing(tmp_path: Path) -> None:
    loaded, layers = streamed(make_tiny("llama", tmp_path / "model"))
    anatomy = find_anatomy(loaded.model, IDS, depth=6)
    before = layers.traffic.loads
    prepare(anatomy, IDS)
    assert layers.traffic.loads == before
    layers.close()


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "mamba"])
def test_a_rebuilt_layer_list_streams_too(family: str, tmp_path: Path) -> None:
    path = LayerPath((0, 1, 2, 1, 2, 4, 5, 5))
    folder = make_tiny(family, tmp_path / family)
    resident = load(folder, OPTIONS).model
    loaded, layers = streamed(folder)
    results = []
    for model in (resident, loaded.model):
        with find_anatomy(model, IDS, depth=6).rebuilt(path) as rebuilt:
            results.append(logits_of(rebuilt))
    assert torch.equal(*results)
    layers.close()


def test_a_weight_file_that_is_cut_short_is_refused_at_the_start(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"model\.safetensors: cut short: tensor .* fetch the model again"):
        load(folder, OPTIONS, stream=True)


def test_a_weight_file_that_is_cut_short_later_ends_the_shard_and_not_the_thread(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "model")
    loaded, layers = streamed(folder)
    layers.follow(list(find_layers(loaded.model)))
    file = folder / "model.safetensors"
    content = file.read_bytes()
    with file.open("r+b") as opened:
        opened.truncate(len(content) // 2)

    def one_pass() -> None:  # also by reading ahead, whose error waits until its layer is asked for
        for k in range(6):
            layers.ensure(k, (k + 1) % 6)

    for _ in range(2):
        with pytest.raises(ModelError, match=r"ends inside tensor .*fetch the model again"):
            one_pass()
    file.write_bytes(content)
    layers.ensure(3, 4)
    layers.ensure(4)
    layers.close()


def test_a_layer_of_the_wrong_shape_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.mlp.down_proj.weight"] = torch.zeros(32, 47)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"model\.layers\.2\.mlp\.down_proj\.weight .*\[32, 47\].*\[32, 48\]"
    ):
        load(folder, OPTIONS, stream=True)


def test_a_missing_weight_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"1 weights are missing, such as model\.layers\.2\.mlp\.down_proj\.weight"
    ):
        load(folder, OPTIONS, stream=True)


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="quantized checkpoints cannot be streamed"):
        load(folder, OPTIONS, stream=True)


def test_what_cannot_be_streamed_stays_in_memory_where_it_fits(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_list(*_: object, **__: object) -> None:
        raise ModelError("found no list")

    monkeypatch.setattr("neuroscan_farm.engine.loading.build_skeleton", no_list)
    bounded = load(tiny_llama, OPTIONS, memory_limit_mb=100_000)
    assert isinstance(bounded.layers, ResidentLayers)
    assert bounded.work_bytes
    with pytest.raises(ModelError, match="found no list"):
        load(tiny_llama, OPTIONS, memory_limit_mb=100)


def test_a_model_that_does_not_fit_in_what_is_free_is_streamed_unasked(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tiny_llama, OPTIONS).model
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    least = LEAST_WORK_BYTES + size - 1
    monkeypatch.setattr("neuroscan_farm.engine.loading.process_bytes", lambda: 0)
    monkeypatch.setattr("neuroscan_farm.engine.loading.available_bytes", lambda: least)
    loaded = load(tiny_llama, OPTIONS)
    assert isinstance(loaded.layers, StreamedLayers)
    assert "do not fit in" in loaded.memory
    assert torch.equal(logits_of(loaded.model), logits_of(model))
    loaded.layers.close()
    monkeypatch.setattr("neuroscan_farm.engine.loading.available_bytes", lambda: 2 * least)
    assert isinstance(load(tiny_llama, OPTIONS).layers, ResidentLayers)


def test_streaming_and_a_split_over_several_devices_exclude_each_other(tiny_llama: Path) -> None:
    with pytest.raises(WorkerError, match="--stream with a --gpu-split over 2 devices"):
        load(tiny_llama, OPTIONS, memory_mb=(100, 100), stream=True)


def test_a_limit_that_even_streaming_cannot_keep_names_the_smallest_that_will_do(tiny_llama: Path) -> None:
    with pytest.raises(
        WorkerError, match=r"does not fit in 0\.10 GB even .* --memory-limit (\d+)$"
    ) as caught:
        load(tiny_llama, OPTIONS, memory_limit_mb=100)
    least = int(str(caught.value).rpartition(" ")[2])
    assert load(tiny_llama, OPTIONS, memory_limit_mb=least + 50).work_bytes


_CHILD = """
import json, re, sys
from pathlib import Path
from neuroscan_farm.dispatch.devices import DeviceSet, pin
pin(DeviceSet(None, (), 1))
import torch
torch.set_num_threads(1)
from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.engine.loading import load
loaded = load(Path(sys.argv[1]), EngineOptions(), memory_limit_mb=int(sys.argv[2]))
with torch.inference_mode():
    logits = loaded.model(input_ids=torch.tensor([[5, 6, 7, 8]]), use_cache=False).logits[0, -1, :4].tolist()
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"streamed": loaded.layers.streamed, "peak": peak, "logits": logits, "work": loaded.work_bytes}))
"""


def test_a_process_stays_below_its_limit_with_a_model_that_is_larger(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    size = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 24, "head_dim": 64}
    config = AutoConfig.for_model(
        "llama", **size, num_attention_heads=12, num_key_value_heads=12, vocab_size=64
    )
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config).state_dict()
    make_tiny("llama", folder)  # for its tokenizer
    config.save_pretrained(folder)
    weights = {name: (torch.randn(tensor.shape) / 16).bfloat16() for name, tensor in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    stored = 2 * (folder / "model.safetensors").stat().st_size  # in float32, as it is run
    limit = 640
    assert stored > 1.05 * limit * 1e6
    results = []
    for megabytes in (limit, 4000):
        command = [sys.executable, "-P", "-c", _CHILD, str(folder), str(megabytes)]
        output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=200)
        results.append(json.loads(output.stdout))
    small, large = results
    assert (small["streamed"], large["streamed"]) == (True, False)
    assert small["peak"] <= limit * 1e6 * 1.1
    assert small["peak"] + small["work"] <= limit * 1e6 * 1.1
    assert large["peak"] > stored
    assert small["logits"] == large["logits"]


def test_the_next_layer_is_read_while_this_one_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuroscan_farm.engine.weights.layer_sources import Sources

    loaded, layers = streamed(make_tiny("llama", tmp_path / "model"))
    layers.follow(list(find_layers(loaded.model)))
    events: list[str] = []
    real = Sources.fill

    def slowly(self: Sources, *arguments: object) -> None:
        events.append(self.first_target.split(".")[2])
        real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Sources, "fill", slowly)
    layers.ensure(0, 1)
    deadline = time.monotonic() + 20
    while "1" not in events and time.monotonic() < deadline:
        time.sleep(0.01)
    assert events.index("1") > 0, "layer 1 is read though nobody has asked for more than layer 0"
    layers.ensure(1)
    assert layers.traffic.prefetched == 1
    layers.close()
