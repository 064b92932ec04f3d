"""One family's verdict: a tiny random model of it goes the way that a user's model goes, and meets the oracle.

The way is facts, anatomy, gate, as in a run. What the gate lets through is then compared to checkpoints that are
rebuilt on disk, by every lane that a run could take. A verdict of exact on a model whose layers do nothing would be
worthless, so it is also seen that skipping any layer changes the logits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.engine.anatomy import find_anatomy
from neuroscan_farm.engine.boundaries import BoundaryCache
from neuroscan_farm.engine.executor import Executor
from neuroscan_farm.engine.gate import pass_gate, relative_difference
from neuroscan_farm.engine.loading import LoadedModel
from neuroscan_farm.engine.prompts import Batch
from neuroscan_farm.engine.warm import choose_lane
from neuroscan_farm.errors import GateError, ModelError
from neuroscan_farm.planning.facts import read_facts
from tests.families.oracle import NoCheckpointError, oracle_logits
from tests.families.tiny_configs import DEPTH, VOCABULARY, tiny_config
from tests.tiny_models import tiny_model

_SAMPLES = 3
_TOKENS = 18  # beyond every tiny window, chunk and block
_LEAST_CHANGE = 1e-2  # of the largest logit, by skipping any layer
_MOST_DIFFERENCE = 3e-5  # whatever the CPU; a defect is a thousand times as large
# A block run twice; the first and the last layer repeated and one skipped. Then, where a config cannot describe both,
# paths that keep the order of kinds in one way or another.
_PATHS = ("0..3,1..5", "0,0..1,3..5,5", "0..1,3..5", "0..5,0..5", "0..5,5")
_ENOUGH = 2

# What cannot be built here, and why.
_OUT_OF_REACH = {
    "gemma3n": "its vision tower needs timm and Pillow, which are no dependencies of ours; see gemma3n_text",
    "gemma4_assistant": "transformers refuses to build a model all of whose layers read another model's keys",
    "gemma4_unified_assistant": "transformers refuses to build a model all of whose layers read another model's keys",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A family, known by its `model_type`, or a variation of it: options other than the tiny config's own."""

    family: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(
            [f"`{self.family}`", *(f"`{name}: {value}`" for name, value in self.options.items())]
        )

    @property
    def class_name(self) -> str:
        """The class that transformers makes of it."""
        return str(CLASSES[self.family])


_MIXED_INDEXERS = ["full", "shared"] * 3
VARIATIONS = (
    Case("bert", {"is_decoder": False}),
    Case("falcon", {"alibi": True}),
    Case("gemma3n_text", {"num_kv_shared_layers": 2}),
    Case("gemma4_text", {"num_kv_shared_layers": 2}),
    Case("glm_moe_dsa", {"indexer_types": _MIXED_INDEXERS}),
    Case("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    Case("qwen4_exp_text", {"ple_layer_ids": [2], "eos_token_id": 2}),
    Case("rwkv", {"rescale_every": 0}),
)
CASES = tuple(sorted((*map(Case, CLASSES), *VARIATIONS), key=lambda case: (case.family, str(case))))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a case."""

    outcome: str  # exact, refused or not tried
    reason: str = ""  # in the words of whoever refused
    difference: float = math.nan  # the largest, as a share of the largest logit
    attention: str = ""
    checkpoints: str = ""  # whether the family's config can describe every path that was tried


class DefectError(AssertionError):
    """The gate let something through that is not so, or the test itself is unfair."""


def survey(case: Case, work: Path) -> Verdict:
    """Return the verdict on a case; `work` is an empty folder for its checkpoints.

    Raises:
        DefectError: the gate passed, and a rebuilt checkpoint differs; or skipping some layer changes nothing.
    """
    if case.family in _OUT_OF_REACH:
        return Verdict("not tried", _OUT_OF_REACH[case.family])
    folder = work / "model"
    try:
        depth = _write(case, folder)
        try:
            return _prove(case, folder, depth)
        except GateError as error:
            if "--attention eager" not in str(error):
                raise
            return _prove(case, folder, depth, attention="eager")
    except ModelError as error:
        return Verdict("refused", _plain(str(error), folder))


def _write(case: Case, folder: Path) -> int:
    """Write a tiny model of a case and return its depth, as a run reads it from the config."""
    config = tiny_config(case.family, **case.options)
    config.architectures = [case.class_name]
    config.save_pretrained(folder)
    read_facts(folder)  # who is refused here need not be built
    model: Any = tiny_model(case.family, **case.options)
    model.save_pretrained(folder)
    if type(model.config) is not type(
        config
    ):  # the text model of a whole, and a user's config is the whole's
        config.save_pretrained(folder)
    depth = read_facts(folder).depth
    assert depth == DEPTH, f"{case}: {depth} layers"
    return depth


def _prove(case: Case, folder: Path, depth: int, *, attention: str | None = None) -> Verdict:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
    )
    assert not info["missing_keys"], f"{case}: {info}"
    model.eval().requires_grad_(False)
    used = str(model.config._attn_implementation)
    cpu = torch.device("cpu")
    loaded = LoadedModel(model, None, cpu, "cpu", "float32", used, folder, "cpu")
    token_ids = torch.randint(5, VOCABULARY, (_SAMPLES, _TOKENS), generator=torch.Generator().manual_seed(1))
    batches = [Batch(None, (), token_ids, ())]  # type: ignore[arg-type]  # nothing is asked of the probe
    anatomy = find_anatomy(model, token_ids[:1, :4], depth=depth)
    lanes = [choose_lane(loaded, anatomy, EngineOptions(lane=lane), batches) for lane in ("general", "auto")]
    worst, oracle = 0.0, _Oracle(folder, token_ids, attention)
    for lane in lanes[: len({lane.name for lane in lanes})]:
        cache = BoundaryCache(folder.parent / lane.name, most_bytes=10**9)
        executor = Executor(loaded, anatomy, fingerprint=str(case), cache=cache, lane=lane)
        worst = max(worst, pass_gate(executor, batches))
        # Another executor, as another worker would be: the baseline's boundaries come from the cache.
        executor = Executor(loaded, anatomy, fingerprint=str(case), cache=cache, lane=lane)
        worst = max(worst, oracle.largest_difference(case, executor))
    _require_that_layers_matter(case, executor, token_ids)
    used += "" if attention is None else ", asked for"
    return Verdict("exact", "", worst, used, oracle.checkpoints)


def _logits(
    executor: Executor, paths: list[LayerPath], token_ids: torch.Tensor
) -> dict[LayerPath, torch.Tensor]:
    found = executor.logits(paths, token_ids)
    failed = {str(path): logits for path, logits in found.items() if not isinstance(logits, torch.Tensor)}
    if failed:
        raise DefectError(f"the gate passed, but paths fail: {failed}")
    return {path: logits for path, logits in found.items() if isinstance(logits, torch.Tensor)}


def _require_that_layers_matter(case: Case, executor: Executor, token_ids: torch.Tensor) -> None:
    identity = LayerPath.identity(DEPTH)
    skips = [LayerPath(tuple(x for x in range(DEPTH) if x != k)) for k in range(DEPTH)]
    found = _logits(executor, [identity, *skips], token_ids)
    changes = [relative_difference(found[skip], found[identity]) for skip in skips]
    if min(changes) < _LEAST_CHANGE:
        raise DefectError(f"{case}: an unfair test, skipping a layer changes the logits by {changes}")


class _Oracle:
    """What rebuilt checkpoints answer, each asked once."""

    def __init__(self, folder: Path, token_ids: torch.Tensor, attention: str | None) -> None:
        self.checkpoints = "yes"
        self._token_ids = token_ids
        self._answers: dict[LayerPath, torch.Tensor] = {}
        for text in _PATHS:
            path = LayerPath.parse(text)
            try:
                self._answers[path] = oracle_logits(folder, path.layers, token_ids, attention=attention)
            except NoCheckpointError:
                self.checkpoints = "not every path"
            if len(self._answers) == _ENOUGH:
                break

    def largest_difference(self, case: Case, executor: Executor) -> float:
        """Return the largest relative difference of an executor on the rebuilt checkpoints' paths."""
        if not self._answers:
            raise DefectError(f"{case}: no rebuilt checkpoint could be loaded")
        found = _logits(executor, list(self._answers), self._token_ids)
        worst = {
            str(path): relative_difference(found[path], theirs) for path, theirs in self._answers.items()
        }
        if not max(worst.values()) <= _MOST_DIFFERENCE:
            raise DefectError(
                f"{case}, {executor.lane.name} lane: the gate passed, but checkpoints differ: {worst}"
            )
        return max(worst.values())


def _plain(message: str, folder: Path) -> str:
    """Return a refusal without what every refusal says, and without numbers that another machine rounds otherwise."""
    message = message.replace(f"model {folder}: ", "").replace(f"{folder}/", "")
    message = re.sub(r"^\w+( \([\w ]+\))?: ", "", message)
    message = re.sub(r"; (this family is )?not supported$", "", message)
    return re.sub(r"(\d)\.\d(e[-+]\d\d)", r"\1\2", message)
