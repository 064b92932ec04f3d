"""One component of a layer: the same as a model whose other component was made to add nothing, in its weights."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from neuroscan_farm.domain.paths import Component, LayerPath, component_of
from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.engine import component_gate
from neuroscan_farm.engine.anatomy import find_anatomy
from neuroscan_farm.engine.boundaries import BoundaryCache
from neuroscan_farm.engine.component_gate import pass_component_gate
from neuroscan_farm.engine.components import Components, find_components
from neuroscan_farm.engine.executor import Executor
from neuroscan_farm.engine.gate import relative_difference
from neuroscan_farm.engine.lanes.fused import FusedLane
from neuroscan_farm.engine.loading import LoadedModel, load
from neuroscan_farm.engine.prompts import Batch, make_batches
from neuroscan_farm.engine.shard import execute_shard
from neuroscan_farm.engine.warm import choose_lane
from neuroscan_farm.errors import GateError
from neuroscan_farm.planning.facts import read_facts
from neuroscan_farm.probes.loader import load_probe_file
from tests.conftest import MakeRun
from tests.tiny_models import make_tiny, oracle_logits

# By family: whether the fused lane serves it, and what of a layer puts out what attention and mlp add.
FAMILIES = {
    "llama": (True, r"self_attn\.o_proj", r"mlp\.down_proj"),
    "gpt2": (True, r"attn\.c_proj", r"mlp\.c_proj"),
    "gemma2": (True, r"self_attn\.o_proj", r"mlp\.down_proj"),  # with norms after both
    "gpt_neox": (True, r"attention\.dense", r"mlp\.dense_4h_to_h"),  # side by side
    "cohere": (True, r"self_attn\.o_proj", r"mlp\.down_proj"),  # side by side, with one norm for both
    "opt": (True, r"self_attn\.out_proj", r"fc2"),  # without a module for the mlp
    "gptj": (False, r"attn\.out_proj", r"mlp\.fc_out"),
    "falcon": (False, r"self_attention\.dense", r"mlp\.dense_4h_to_h"),
    "mixtral": (
        False,
        r"self_attn\.o_proj",
        r"mlp\.experts\.(\d+\.)?(down_proj|w2)|block_sparse_moe\.experts\.\d+\.w2",
    ),
    "bloom": (False, r"self_attention\.dense", r"mlp\.dense_4h_to_h"),  # both add the residual themselves
}
PATHS = [
    LayerPath.parse(text)
    for text in (
        "0..2,3:mlp,4..5",
        "0..2,3:attention,4..5",
        "0:mlp,1..5",
        "0:attention,1..5",
        "0..4,5:mlp",
        "0..4,5:attention",
        "0..5:mlp",
        "0..5:attention",
        "0..1,2:attention,2:mlp,4..5",
        "0..3,1..2:mlp,3,4:attention,5",
        "0..3,3:mlp,3:mlp,4..5",
    )
]
DEPTH = 6


def batches_of(loaded: LoadedModel, probe_file: Path) -> list[Batch]:
    probe = load_probe_file(probe_file)
    return make_batches(loaded.tokenizer, [probe], prompt_format="raw", batch_size=16, max_tokens=None)


def executor_of(folder: Path, probe_file: Path, cache: Path, lane: str) -> tuple[Executor, list[Batch]]:
    facts, options = read_facts(folder), EngineOptions.model_validate({"lane": lane})
    loaded = load(folder, options)
    anatomy = find_anatomy(loaded.model, torch.tensor([[0, 1, 2, 3]]), depth=facts.depth)
    batches = batches_of(loaded, probe_file)
    executor = Executor(
        loaded,
        anatomy,
        fingerprint=facts.fingerprint,
        cache=BoundaryCache(cache, most_bytes=10**9),
        lane=choose_lane(loaded, anatomy, options, batches),
    )
    return executor, batches


def silenced_checkpoint(folder: Path, path: LayerPath, outputs: dict[Component, str], target: Path) -> Path:
    """Write the checkpoint along a path, with zeros in the weights that put out what is to be silent."""
    oracle_logits(folder, path.layers, torch.tensor([[1, 2]]))  # leaves the checkpoint behind
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(folder.with_name(f"{folder.name}-along-a-path"), target)
    tensors = load_file(target / "model.safetensors")
    for place, step in enumerate(path.steps):
        only = component_of(step)
        if only is None:
            continue
        pattern = re.compile(rf".*\.{place}\.({outputs[only.other]})(\.|$)")
        silent = [name for name in tensors if pattern.match(name)]
        assert silent, (path, place)
        for name in silent:
            tensors[name] = torch.zeros_like(tensors[name])
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("family", FAMILIES)
def test_components_equal_a_checkpoint_in_which_the_others_weights_are_zero(
    family: str, tmp_path: Path, probe_file: Path
) -> None:
    served, attention, mlp = FAMILIES[family]
    outputs = {Component.ATTENTION: attention, Component.MLP: mlp}
    folder = make_tiny(family, tmp_path / family)
    found: dict[str, dict[LayerPath, Any]] = {}
    for lane in ("general", "fused") if served else ("general",):
        executor, batches = executor_of(folder, probe_file, tmp_path / lane, lane)
        assert executor.lane.name == lane
        assert pass_component_gate(executor, batches) < 1e-5
        longest = max(batches, key=lambda batch: batch.token_ids.shape[1])
        found[lane] = executor.logits(PATHS, longest.token_ids)
    for path in PATHS:
        silenced = silenced_checkpoint(folder, path, outputs, tmp_path / "silenced")
        expected = oracle_logits(silenced, range(len(path)), longest.token_ids)
        for lane, ours in found.items():
            assert isinstance(ours[path], torch.Tensor), (lane, path, ours[path])
            assert relative_difference(ours[path], expected) < 5e-6, (lane, path)


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("mamba", {}, r"layer 0 has no attention and no mlp of a known name \(its parts are mixer\)"),
        ("lfm2", {}, "has no attention of a known name"),
        ("opt", {"do_layer_norm_before": False}, "does not return its input"),
    ],
)
def test_a_family_without_two_components_is_refused_by_name(
    family: str, changes: dict[str, Any], said: str, tmp_path: Path, probe_file: Path
) -> None:
    folder = make_tiny(family, tmp_path / family, **changes)
    executor, batches = executor_of(folder, probe_file, tmp_path / "cache", "general")
    with pytest.raises(GateError, match=said) as caught:
        pass_component_gate(executor, batches)
    assert type(executor.loaded.model).__name__ in str(caught.value)
    assert "--component layer" in str(caught.value)
    assert executor.lane.components is None


@pytest.fixture(params=["general", "fused"])
def proven(request: pytest.FixtureRequest, tiny_llama: Path, probe_file: Path, tmp_path: Path) -> Any:
    executor, batches = executor_of(tiny_llama, probe_file, tmp_path / "cache", request.param)
    pass_component_gate(executor, batches)
    return executor, batches


def test_a_row_of_components_has_the_same_bits_alone_and_in_any_company(proven: Any) -> None:
    executor, batches = proven
    whole = [LayerPath(k for k in range(DEPTH) if k not in (a, b)) for a in range(3) for b in range(a, DEPTH)]
    single = [
        LayerPath.parse(",".join(f"{k}:{only}" if k == a else str(k) for k in range(DEPTH)))
        for a in range(DEPTH)
        for only in Component
    ]
    tasks = [Task.of(path, probe_digests=["d"]) for path in dict.fromkeys([*PATHS, *whole, *single])]

    def rows(some: list[Task]) -> dict[Any, Any]:
        return {(m.task_id, m.sample_id): (m.outcome, m.score) for m in executor.measure(some, batches)}

    executor._calibration.shrink(1)
    alone: dict[Any, Any] = {}
    for task in tasks:
        alone |= rows([task])
    assert rows(tasks) == alone
    executor._calibration.shrink(10_000)
    assert rows(tasks) == alone
    assert rows(tasks[::3]) == {key: alone[key] for key in rows(tasks[::3])}


def test_the_model_is_left_as_it_was(proven: Any) -> None:
    executor, batches = proven
    model, ids = executor.loaded.model, batches[0].token_ids
    before = model(input_ids=ids).logits
    executor.logits(PATHS, ids)
    assert torch.equal(before, model(input_ids=ids).logits)
    assert not any(vars(part).get("forward") or part._forward_hooks for part in model.modules())


def test_components_are_put_back_when_a_layer_fails_in_between(proven: Any) -> None:
    executor, _ = proven
    layer = executor.anatomy.layers[2]

    def fail() -> None:
        with executor.lane.components.silenced(2, *Component):
            assert "forward" in vars(layer.mlp)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert "forward" not in vars(layer.mlp)
    assert "forward" not in vars(layer.self_attn)


def test_a_step_of_a_component_before_the_gate_fails_its_path_and_no_other(
    tiny_llama: Path, probe_file: Path, tmp_path: Path
) -> None:
    executor, batches = executor_of(tiny_llama, probe_file, tmp_path / "cache", "general")
    half, whole = LayerPath.parse("0..2,3:mlp,4..5"), LayerPath.parse("0..2,4..5")
    found = executor.logits([half, whole], batches[0].token_ids)
    assert isinstance(found[whole], torch.Tensor)
    assert not isinstance(found[half], torch.Tensor)
    assert "proven" in found[half].detail


class _Bent(nn.Module):
    """A layer that adds something of its own beside its attention and its mlp."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.self_attn, self.mlp, self.layer = layer.self_attn, layer.mlp, layer
        self.attention_type = "full_attention"

    def forward(self, hidden_states: torch.Tensor, **named: Any) -> torch.Tensor:
        after: torch.Tensor = self.layer(hidden_states, **named)
        return after + 0.01


def test_a_layer_that_adds_something_beside_its_components_is_refused(
    tiny_llama: Path, probe_file: Path, tmp_path: Path
) -> None:
    loaded = load(tiny_llama, EngineOptions())
    decoder = loaded.model.model
    decoder.layers = nn.ModuleList(_Bent(layer) for layer in decoder.layers)
    anatomy = find_anatomy(loaded.model, torch.tensor([[0, 1, 2, 3]]), depth=DEPTH)
    cache = BoundaryCache(tmp_path / "cache", most_bytes=10**9)
    executor = Executor(loaded, anatomy, fingerprint="bent", cache=cache)
    with pytest.raises(
        GateError, match="layer 0 does not return its input: it adds or scales something else"
    ):
        pass_component_gate(executor, batches_of(loaded, probe_file))


def test_a_fused_lane_that_runs_components_otherwise_is_refused_with_the_lane_that_would_do(
    tiny_llama: Path, probe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, batches = executor_of(tiny_llama, probe_file, tmp_path / "cache", "fused")
    right = FusedLane._run

    def otherwise(
        lane: FusedLane, inputs: Any, k: int, stack: Any, copies: int, only: Any, **named: Any
    ) -> Any:
        return right(lane, inputs, k, stack, copies, only.other if only and k == 4 else only, **named)

    monkeypatch.setattr(FusedLane, "_run", otherwise)
    with pytest.raises(GateError, match=r"layer 4 with its attention alone.*engine\.lane=general"):
        pass_component_gate(executor, batches)


def test_a_general_lane_that_silences_the_wrong_component_does_not_pass(
    tiny_llama: Path, probe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, batches = executor_of(tiny_llama, probe_file, tmp_path / "cache", "general")
    right = Components.silenced

    def wrong(components: Components, k: int, *silent: Component) -> Any:
        return right(components, k, *(only.other for only in silent))

    monkeypatch.setattr(Components, "silenced", wrong)
    with pytest.raises(GateError, match="differs from the model whose"):
        pass_component_gate(executor, batches)
    assert executor.lane.components is None


def test_a_model_whose_rounding_is_larger_than_the_tolerance_is_judged_by_its_own(
    tiny_llama: Path, probe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, batches = executor_of(tiny_llama, probe_file, tmp_path / "cache", "general")
    monkeypatch.setattr(component_gate, "tolerance_of", lambda dtype: 1e-12)
    assert 1e-12 < component_gate.pass_component_gate(executor, batches) < 1e-5


def test_norms_and_dropouts_named_after_a_component_are_not_taken_for_it(tiny_llama: Path) -> None:
    loaded = load(tiny_llama, EngineOptions())
    anatomy = find_anatomy(loaded.model, torch.tensor([[0, 1, 2, 3]]), depth=DEPTH)
    for layer in anatomy.layers:
        layer.add_module("resid_attn_dropout", nn.Dropout())
        layer.add_module("ln_mlp", nn.LayerNorm(4))
    components = find_components(anatomy, torch.tensor([[0, 1, 2, 3]]))
    components.prove(torch.tensor([[0, 1, 2, 3]]))


def test_rows_of_a_run_of_components_name_their_steps(make_run: MakeRun, warm: Any) -> None:
    run = make_run(
        analysis="ablation", parameters={"components": ["attention", "mlp"], "layers": "2"}, shard_size=2
    )
    for shard in run.shards():
        execute_shard(run, shard.shard_id, 1, worker="test", warm=warm)
    rows = run.parts.read().to_pylist()
    assert len(rows) == 3 * 8
    assert {tuple(row["path"]) for row in rows} == {
        (0, 1, 2, 3, 4, 5),
        (0, 1, 20_002, 3, 4, 5),
        (0, 1, 10_002, 3, 4, 5),
    }
    assert all(row["outcome"] == "ok" and row["skipped"] == [] and row["n_layers_run"] == 6 for row in rows)
    by_path: dict[tuple[int, ...], list[float]] = {}
    for row in rows:
        by_path.setdefault(tuple(row["path"]), []).append(row["log_odds"])
    assert len({tuple(values) for values in by_path.values()}) == 3, "each component matters"
    assert {task.path for shard in run.shards() for task in shard.tasks} == {
        LayerPath(path) for path in by_path
    }, "the plan on disk reads back"


def test_a_run_of_components_of_a_family_without_them_is_refused_before_it_spends_time(
    make_run: MakeRun, warm: Any, tmp_path: Path
) -> None:
    model = make_tiny("mamba", tmp_path / "mamba")
    run = make_run(analysis="ablation", model=str(model), parameters={"components": ["mlp"]})
    with pytest.raises(GateError, match=r"MambaForCausalLM.*cannot be run on their own"):
        execute_shard(run, run.shards()[0].shard_id, 1, worker="test", warm=warm)
    assert not run.parts.look().done
