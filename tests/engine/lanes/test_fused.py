"""The fused lane computes what the model's own layers compute, on fewer rows, and says so where it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from neuroscan_farm.engine.anatomy import Anatomy, find_anatomy
from neuroscan_farm.engine.lanes import fused
from neuroscan_farm.engine.lanes.fused import FusedInputs, FusedLane, fused_lane
from neuroscan_farm.engine.lanes.general import GeneralLane
from neuroscan_farm.engine.lanes.lane import samples_of
from neuroscan_farm.engine.lanes.shared_prefix import Arrangement, Layout
from neuroscan_farm.engine.replay import last_logits
from tests.tiny_models import FAMILIES, make_tiny, oracle_logits

# fmt: off
RECOGNISED = [
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2",
    "gemma3_text", "phi3", "granite", "olmo2", "stablelm", "starcoder2",
    "gpt_neox", "phi", "cohere", "gpt2", "opt", "smollm3",
]
# fmt: on
FOREIGN = sorted(set(FAMILIES) - set(RECOGNISED))
EAGER = {"gemma2", "gptj", "bloom", "mamba"}  # these families have no other attention here
PATH = (0, 1, 2, 3, 1, 2, 3, 4, 5)
SHARED = 12  # tokens that the prompts have in common, where they have any

MakeAnatomy = Callable[..., Anatomy]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a family's tiny model."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = make_tiny(family, tmp_path_factory.mktemp("models") / family)
        return made[family]

    return folder


@pytest.fixture
def anatomy_of(folder_of: Callable[[str], Path]) -> MakeAnatomy:
    """Return the anatomy of a family's tiny model."""

    def load(family: str, *, dtype: torch.dtype = torch.float32) -> Anatomy:
        attention = {"attn_implementation": "eager"} if family in EAGER else {}
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder_of(family), dtype=dtype, **attention
        )
        return find_anatomy(model.eval().requires_grad_(False), prompts(1), depth=6)

    return load


def prompts(samples: int = 4, tokens: int = 20, *, shared: int = 0) -> torch.Tensor:
    """Random prompts, of which the first tokens may be the same."""
    token_ids = torch.randint(3, 60, (samples, tokens), generator=torch.Generator().manual_seed(1))
    token_ids[:, :shared] = token_ids[:1, :shared]
    return token_ids


def lane_of(anatomy: Anatomy, **options: Any) -> FusedLane:
    lane, reason = fused_lane(anatomy, **options)
    assert lane is not None, reason
    return lane


def run(lane: FusedLane, inputs: FusedInputs, path: tuple[int, ...]) -> torch.Tensor:
    """Return the end of a path."""
    unit = inputs.embedded
    for k in path[:-1]:
        unit = lane.run(inputs, k, unit, 1)
    return lane.run_last(inputs, path[-1], unit, 1)


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shared", [0, SHARED])
@pytest.mark.parametrize("family", RECOGNISED)
def test_a_path_scores_what_the_rebuilt_model_scores(
    family: str, shared: int, folder_of: Callable[[str], Path], anatomy_of: MakeAnatomy
) -> None:
    anatomy, token_ids = anatomy_of(family), prompts(shared=shared)
    lane = lane_of(anatomy)
    assert lane.prove([token_ids], tolerance=1e-5) is None
    inputs = lane.inputs(token_ids)
    assert inputs.layout.prefix == shared
    logits = last_logits(anatomy, token_ids, run(lane, inputs, PATH))
    assert difference(logits, oracle_logits(folder_of(family), PATH, token_ids)) < 1e-5


@pytest.mark.parametrize("family", FOREIGN)
def test_a_family_of_another_shape_is_not_recognised_and_the_reason_names_a_layer(
    family: str, anatomy_of: MakeAnatomy
) -> None:
    lane, reason = fused_lane(anatomy_of(family))
    assert lane is None
    assert reason.startswith("layer 0 (")


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_neox"])
def test_a_prefix_that_is_run_once_gives_what_it_gives_in_every_sample(
    family: str, anatomy_of: MakeAnatomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, token_ids = lane_of(anatomy_of(family)), prompts(shared=SHARED)
    packed = lane.inputs(token_ids)
    monkeypatch.setattr(
        fused, "arrange", lambda prompts, *, by_position: Arrangement((Layout(*prompts[0].shape),))
    )
    apart = lane.inputs(token_ids)
    assert packed.embedded.shape[1] == SHARED + 4 * 8
    assert difference(run(lane, packed, PATH), run(lane, apart, PATH)) < 2e-6
    first, second = packed.embedded, apart.embedded
    for k in PATH:
        first, second = lane.run(packed, k, first, 1), lane.run(apart, k, second, 1)
    assert difference(first, packed.layout.pack(second)) < 2e-6


@pytest.mark.parametrize("shared", [0, SHARED])
@pytest.mark.parametrize("family", RECOGNISED)
def test_running_the_last_token_alone_gives_the_last_row_of_all(
    family: str, shared: int, anatomy_of: MakeAnatomy
) -> None:
    lane = lane_of(anatomy_of(family))
    inputs = lane.inputs(prompts(shared=shared))
    for k in (1, 2):  # of mixed families, one layer of each kind
        last = lane.run_last(inputs, k, torch.cat([inputs.embedded] * 2), 2)
        assert last.shape == (8, 1, 32)
        assert difference(last[4:], lane.end(inputs, lane.run(inputs, k, inputs.embedded, 1))) < 2e-6


@pytest.mark.parametrize("shared", [0, SHARED])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "cohere"])
def test_the_bits_of_a_unit_depend_on_nothing_beside_it(
    family: str, samples: int, shared: int, anatomy_of: MakeAnatomy
) -> None:
    lane = lane_of(anatomy_of(family))
    inputs = lane.inputs(prompts(samples, shared=shared))
    noise = torch.Generator().manual_seed(2)
    units = [
        inputs.embedded + torch.randn(inputs.embedded.shape, generator=noise) for _ in range(16)
    ]  # each with bits of its own
    for runs in (lane.run, lane.run_last):
        alone = [runs(inputs, 2, unit, 1) for unit in units]
        for count in (1, 2, 3):
            with threads(count):
                for copies in (1, 2, 3, 4, 8, 16):
                    together = runs(inputs, 2, torch.cat(units[:copies]), copies)
                    assert torch.equal(together, torch.cat(alone[:copies])), (copies, count)


def test_bits_do_not_depend_on_copies_or_threads_where_work_is_shared_out(anatomy_of: MakeAnatomy) -> None:
    lane = lane_of(anatomy_of("llama"))
    inputs = lane.inputs(prompts(16, 90))
    alone = lane.run(inputs, 0, inputs.embedded, 1)
    for count in (1, 2, 4):
        with threads(count):
            together = lane.run(inputs, 0, torch.cat([inputs.embedded] * 4), 4)
            assert torch.equal(together, torch.cat([alone] * 4))


def test_one_token_is_a_prompt(anatomy_of: MakeAnatomy) -> None:
    anatomy, token_ids = anatomy_of("llama"), prompts(2, 1)
    lane = lane_of(anatomy)
    assert lane.prove([token_ids], tolerance=1e-5) is None
    general = GeneralLane(anatomy)
    theirs, ours = general.inputs(token_ids), lane.inputs(token_ids)
    expected = general.run(theirs, 0, theirs.embedded, 1)
    assert difference(lane.run(ours, 0, ours.embedded, 1), expected) < 2e-6


@pytest.mark.parametrize("part", ["layer", "mlp", "input_layernorm"])
def test_a_layer_that_does_more_than_its_parts_fails_the_proof(
    part: str, anatomy_of: MakeAnatomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    anatomy = anatomy_of("llama")
    module = anatomy.layers[3] if part == "layer" else anatomy.layers[3].get_submodule(part)
    honest = module.forward

    def forward(x: torch.Tensor, *positional: Any, **named: Any) -> torch.Tensor:
        out: torch.Tensor = honest(x, *positional, **named)
        return out + 1e-3 * out.abs().max()

    monkeypatch.setattr(module, "forward", forward)
    assert lane_of(anatomy).prove([prompts()], tolerance=1e-5) == "layer 3 differs from the model's own"


def test_a_small_wrong_hides_in_no_large_residual(
    anatomy_of: MakeAnatomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    anatomy = anatomy_of("llama")
    with torch.no_grad():  # one number of the residual stream is huge, as in large models
        anatomy.model.get_input_embeddings().weight[:, 0] = 1e4
    mlp = anatomy.layers[0].mlp
    honest = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: honest(x) * 1.001)
    assert lane_of(anatomy).prove([prompts()], tolerance=1e-5) is not None


def test_a_layer_with_weights_that_have_no_part_is_not_recognised(anatomy_of: MakeAnatomy) -> None:
    anatomy = anatomy_of("llama")
    anatomy.layers[4].mlp.adapter = torch.nn.Linear(32, 32)
    assert fused_lane(anatomy) == (
        None,
        "layer 4 (LlamaDecoderLayer): weights of mlp.adapter (Linear)",
    )


def test_a_linear_module_of_another_class_is_not_recognised(anatomy_of: MakeAnatomy) -> None:
    class Quantised(torch.nn.Linear):
        pass

    anatomy = anatomy_of("llama")
    anatomy.layers[2].self_attn.q_proj.__class__ = Quantised
    lane, reason = fused_lane(anatomy)
    assert lane is None
    assert "Quantised in the place of a linear module" in reason


def test_an_argument_that_is_not_understood_is_named(
    anatomy_of: MakeAnatomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    anatomy = anatomy_of("llama")
    own = fused.prepare

    def prepare(*arguments: Any) -> Any:
        embedded, calls = own(*arguments)
        for call in calls:
            call.named["alibi"] = torch.ones(1)
        return embedded, calls

    monkeypatch.setattr(fused, "prepare", prepare)
    assert lane_of(anatomy).prove([prompts()], tolerance=1e-5) == "layer 0 is called with alibi"


def test_weights_are_read_when_a_layer_runs_and_are_not_needed_before(anatomy_of: MakeAnatomy) -> None:
    anatomy = anatomy_of("llama")
    weights = [dict(layer.named_parameters()) for layer in anatomy.layers]

    def place(k: int, *, there: bool) -> None:
        for name, parameter in weights[k].items():
            owner, _, own = name.rpartition(".")
            new = parameter.data if there else torch.empty(parameter.shape, device="meta")
            setattr(anatomy.layers[k].get_submodule(owner), own, torch.nn.Parameter(new, requires_grad=False))

    for k in range(6):
        place(k, there=False)
    seen: list[int] = []

    def ensure(k: int) -> None:
        if seen:
            place(seen[-1], there=False)
        place(k, there=True)
        seen.append(k)

    assert lane_of(anatomy).prove([prompts()], tolerance=1e-5, ensure=ensure) is None
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("shared", [0, SHARED])
def test_a_unit_run_in_halves_is_the_unit(shared: int, anatomy_of: MakeAnatomy) -> None:
    lane = lane_of(anatomy_of("qwen3"))
    inputs = lane.inputs(prompts(5, shared=shared))
    halves = lane.halves(inputs)
    assert [samples_of(half) for half in halves] == [2, 3]
    units = lane.split(inputs, inputs.embedded)
    for unit, half in zip(units, halves, strict=True):
        assert torch.equal(unit, half.embedded)
    joined = lane.join(
        inputs, *(lane.run(half, 0, unit, 1) for half, unit in zip(halves, units, strict=True))
    )
    assert difference(joined, lane.run(inputs, 0, inputs.embedded, 1)) < 2e-6
    ends = lane.join(
        inputs, *(lane.run_last(half, 0, unit, 1) for half, unit in zip(halves, units, strict=True))
    )
    assert difference(ends, lane.run_last(inputs, 0, inputs.embedded, 1)) < 2e-6


def test_masks_that_differ_between_samples_are_kept_apart(
    anatomy_of: MakeAnatomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    anatomy, token_ids = anatomy_of("gemma2"), prompts(shared=SHARED)
    own = fused.prepare

    def prepare(*arguments: Any) -> Any:
        embedded, calls = own(*arguments)
        for call in calls:
            mask = call.named["attention_mask"].expand(4, -1, -1, -1).clone()
            mask[1, :, 5:, :5] = torch.finfo(mask.dtype).min  # as padding would
            call.named["attention_mask"] = mask
        return embedded, calls

    monkeypatch.setattr(fused, "prepare", prepare)
    lane = lane_of(anatomy)
    inputs = lane.inputs(token_ids)
    assert inputs.layout.prefix == 0
    unit = inputs.embedded
    _, calls = prepare(anatomy, token_ids)
    expected = calls[0](anatomy.layers[0], unit)
    twice = lane.run(inputs, 0, torch.cat([unit, unit]), 2)
    assert difference(twice, torch.cat([expected, expected])) < 2e-6
    assert difference(lane.run_last(inputs, 0, unit, 1), expected[:, -1:]) < 2e-6
    first, second = lane.halves(inputs)
    assert difference(lane.run(first, 0, unit[:2], 1), expected[:2]) < 2e-6
    assert difference(lane.run(second, 0, unit[2:], 1), expected[2:]) < 2e-6


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox"])
def test_a_float32_residual_stream_is_nearer_to_the_truth(family: str, anatomy_of: MakeAnatomy) -> None:
    path = tuple(range(6)) * 3
    token_ids = prompts(shared=SHARED)
    narrow = anatomy_of(family, dtype=torch.bfloat16)
    exact = anatomy_of(family)
    with torch.no_grad():  # the same weights, rounded
        for ours, theirs in zip(exact.model.parameters(), narrow.model.parameters(), strict=True):
            ours.copy_(theirs)
    lane = lane_of(exact)
    truth = run(lane, lane.inputs(token_ids), path)
    errors = []
    for residual_dtype in (None, torch.float32):
        lane = lane_of(narrow, residual_dtype=residual_dtype)
        assert lane.prove([token_ids], tolerance=4e-2) is None
        inputs = lane.inputs(token_ids)
        assert inputs.embedded.dtype == (residual_dtype or torch.bfloat16)
        assert lane.run(inputs, 0, inputs.embedded, 1).dtype == inputs.embedded.dtype
        end = run(lane, inputs, path)
        assert end.dtype == torch.bfloat16, "as the head takes it"
        errors.append(float((end - truth).square().mean()))
    assert errors[1] < 0.9 * errors[0]


def test_a_narrow_float_keeps_its_bits_in_any_company(anatomy_of: MakeAnatomy) -> None:
    lane = lane_of(anatomy_of("llama", dtype=torch.bfloat16), residual_dtype=torch.float32)
    inputs = lane.inputs(prompts(3))
    alone = lane.run(inputs, 0, inputs.embedded, 1)
    for copies in (2, 3, 8):
        assert torch.equal(
            lane.run(inputs, 0, torch.cat([inputs.embedded] * copies), copies), torch.cat([alone] * copies)
        )


@pytest.mark.parametrize("shared", [0, 10])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "gpt2", "phi"])
def test_prompts_of_several_lengths_share_a_unit_and_answer_as_each_length_alone(
    family: str, shared: int, anatomy_of: MakeAnatomy
) -> None:
    lane = lane_of(anatomy_of(family))
    lengths = [prompts(3, tokens, shared=shared) for tokens in (13, 17, 30)]
    for ids in lengths[1:]:
        ids[:, :shared] = lengths[0][0, :shared]
    assert lane.prove(lengths, tolerance=1e-5) is None
    together = lane.inputs(*lengths)
    assert together.layout.prefix == shared
    assert together.layout.rows == shared + sum(ids.numel() - 3 * shared for ids in lengths)
    path = (0, 2, 1, 2, 5)
    alone = []
    for ids in lengths:
        inputs = lane.inputs(ids)
        unit = inputs.embedded
        for k in path:
            unit = lane.run(inputs, k, unit, 1)
        alone.append(lane.run_last(inputs, 3, unit, 1))
    unit = together.embedded
    for k in path:
        unit = lane.run(together, k, unit, 1)
    ends = lane.run_last(together, 3, unit, 1)
    assert difference(ends, torch.cat(alone)) < 2e-6
    halves = lane.halves(together)
    parts = lane.split(together, together.embedded)
    for k in path:
        parts = tuple(lane.run(half, k, part, 1) for half, part in zip(halves, parts, strict=True))
    assert difference(lane.join(together, *parts), unit) < 2e-6
    last = [lane.run_last(half, 3, part, 1) for half, part in zip(halves, parts, strict=True)]
    assert difference(lane.join(together, *last), ends) < 2e-6
