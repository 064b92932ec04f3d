"""Scoring a checkpoint by plain transformers, and comparing it with the executor on the source along a path.

The checkpoint's side shares nothing with the executor: transformers loads it, and its own forward is run. So what agrees
here was made twice, by two ways.
"""

from __future__ import annotations

import gc
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from neuroscan_farm.domain.measurements import Score
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.engine.anatomy import find_anatomy
from neuroscan_farm.engine.gate import ROUNDINGS, effect_of_rounding, relative_difference, tolerance_of
from neuroscan_farm.engine.prompts import Batch, make_batches
from neuroscan_farm.engine.replay import last_tokens
from neuroscan_farm.engine.scoring import score_logits
from neuroscan_farm.engine.sweep import Failure
from neuroscan_farm.engine.warm import WarmModel
from neuroscan_farm.errors import ModelError, NeuroscanError, WorkerError
from neuroscan_farm.planning.facts import ModelFacts
from neuroscan_farm.planning.machine_memory import available_bytes
from neuroscan_farm.planning.memory import LEAST_WORK_BYTES, gigabytes
from neuroscan_farm.store.additions import all_probes
from neuroscan_farm.store.run_directory import RunDirectory

log = logging.getLogger(__name__)

_ROUNDS = 7
_LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    SafetensorError,
    ImportError,
    TypeError,
    AttributeError,
)

Key = tuple[str, str]  # probe, sample id


@dataclass(frozen=True, slots=True)
class LogitDifference:
    """How far the last tokens' logits of the checkpoint are from the executor's, over all samples."""

    absolute: float | None  # None where one side is not finite and the other is
    relative: float | None  # of the largest logit of the same batch
    allowed: float  # relative
    largest_logit: float
    worst: Key | None  # the sample with the largest absolute difference


@dataclass(frozen=True, slots=True)
class Rescored:
    """What a checkpoint answers, and what is wrong with it."""

    reasons: tuple[str, ...]  # why it is not the source along the path; empty where it is
    logits: LogitDifference | None  # None where they could not be compared, which is a reason
    scores: dict[Key, Score | None]  # of the checkpoint; None where its logits are not finite
    dtype: str
    device: str
    attention: str
    relative_latency: float | None  # time of a forward pass of the checkpoint / of the source
    latency_note: str  # on what it was measured, or why it was not


def rescore(
    run: RunDirectory,
    checkpoint: Path,
    path: LayerPath,
    facts: ModelFacts,
    *,
    cache_dir: Path,
    cache_bytes: int,
) -> Rescored:
    """Score `checkpoint` on the run's probes and compare its logits with the executor's along `path`.

    Args:
        run: its model is the source, its engine options are those of both sides.
        checkpoint: a folder in Hugging Face's form.
        path: within the source.
        facts: of the checkpoint.
        cache_dir: the machine's cache of boundaries.
        cache_bytes: most bytes kept there.

    Raises:
        ModelError: the source is not that of the run, or fails the gate.
        ProbeError: the source's tokenizer cannot answer the probes.
        WorkerError: there is too little memory for the checkpoint.
    """
    warm = WarmModel(cache_dir=cache_dir, cache_bytes=cache_bytes)
    executor, batches = warm.ready_for(run, probes=all_probes(run))
    source = executor.loaded
    dtype, device = source.dtype, source.device
    ours = [executor.logits([path], batch.token_ids)[path] for batch in batches]
    failed = next((found.detail for found in ours if isinstance(found, Failure)), None)
    wanted = [found.float().cpu() for found in ours if not isinstance(found, Failure)]
    options = run.request().engine
    reasons = [] if failed is None else [f"the source along {path} cannot be run here: {failed}"]
    result = _Result(dtype, source.device_name, source.attention)
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=options.trust_remote_code)
    except _LOADING_ERRORS as error:
        return result.without_logits([*reasons, f"its tokenizer cannot be loaded: {_in_one_line(error)}"])
    reasons += _token_differences(tokenizer, batches, run, facts)
    resident = (
        not source.layers.streamed
        and len(set((getattr(source.model, "hf_device_map", None) or {}).values())) < 2
    )
    needed = _needed_bytes(facts, dtype)
    beside = resident and _fits(needed, device)
    if not beside:
        del warm, executor
        source_model = None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if not _fits(needed, device):
            raise WorkerError(
                f"model {checkpoint}: takes {gigabytes(needed)} in {dtype}, which is not free here; verify it on a larger "
                "machine, or with a run whose dtype is smaller"
            )
    else:
        source_model = source.model
    del source
    try:
        model, report = _load(checkpoint, dtype, device, options.attention, options.trust_remote_code)
    except _LOADING_ERRORS as error:
        return result.without_logits([*reasons, f"transformers cannot load it: {_in_one_line(error)}"])
    for what, names in report.items():
        if names and what in ("missing_keys", "mismatched_keys"):
            first = sorted(map(str, names))[0]
            reasons.append(f"{len(names)} of its weights are {what.removesuffix('_keys')}, such as {first}")
    try:
        theirs = [_last_logits(model, batch.token_ids.to(device)) for batch in batches]
    except Exception as error:  # a wrong checkpoint's own forward may raise anything
        return result.without_logits([*reasons, f"its own forward fails: {_in_one_line(error)}"])
    scores: dict[Key, Score | None] = {}
    for batch, logits in zip(batches, theirs, strict=True):
        for sample, score in zip(batch.samples, score_logits(logits, batch, tokenizer.decode), strict=True):
            scores[batch.probe.name, sample.sample_id] = score
    difference = None
    if failed is None:
        difference = _difference(wanted, theirs, batches, tolerance_of(dtype))
        if difference is not None and not _within(difference):
            difference = _blown_up(difference, wanted, theirs, batches, model, facts.depth, device)
        reasons += _judge(difference, wanted, theirs)
    latency, note = None, "not measured: the source and the checkpoint do not fit in memory side by side"
    if beside and source_model is not None:
        batch = max(batches, key=lambda one: one.token_ids.numel())
        latency = _relative_latency(model, source_model, batch.token_ids.to(device))
        note = (
            f"median of {_ROUNDS} interleaved forward passes of {batch.token_ids.shape[0]} prompts of "
            f"{batch.token_ids.shape[1]} tokens; noisy, above all on a machine that does other work"
        )
    return Rescored(
        tuple(reasons),
        difference,
        scores,
        dtype,
        result.device,
        result.attention,
        latency,
        note,
    )


@dataclass(frozen=True, slots=True)
class _Result:
    """What is known before the checkpoint is loaded."""

    dtype: str
    device: str
    attention: str

    def without_logits(self, reasons: list[str]) -> Rescored:
        note = "not measured: the checkpoint could not be run"
        return Rescored(tuple(reasons), None, {}, self.dtype, self.device, self.attention, None, note)


def _load(
    folder: Path, dtype: str, device: torch.device, attention: str, trust_remote_code: bool
) -> tuple[Any, dict[str, Any]]:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    arguments: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
        **arguments,
    )
    return model.to(device).eval().requires_grad_(False), dict(report)


def _token_differences(
    tokenizer: Any, batches: Sequence[Batch], run: RunDirectory, facts: ModelFacts
) -> list[str]:
    """Say where the checkpoint's tokenizer makes other tokens of the run's questions and answers."""
    options = run.request().engine
    try:
        theirs = make_batches(
            tokenizer,
            all_probes(run),
            prompt_format=options.prompt_format,
            batch_size=options.batch_size,
            max_tokens=facts.max_tokens,
        )
    except NeuroscanError as error:
        return [f"its tokenizer cannot ask the run's probes: {error}"]
    ours = {key: tokens for batch in batches for key, tokens in _tokens(batch).items()}
    found = {key: tokens for batch in theirs for key, tokens in _tokens(batch).items()}
    differing = [key for key, tokens in ours.items() if found.get(key) != tokens]
    if not differing:
        return []
    probe, sample = differing[0]
    return [
        f"its tokenizer is another: {len(differing)} of {len(ours)} questions have other tokens than in the source, such as "
        f"{sample} of {probe}"
    ]


def _tokens(batch: Batch) -> dict[Key, tuple[list[int], tuple[int, ...]]]:
    return {
        (batch.probe.name, sample.sample_id): (ids.tolist(), batch.answer_ids)
        for sample, ids in zip(batch.samples, batch.token_ids, strict=True)
    }


def _last_logits(model: torch.nn.Module, token_ids: torch.Tensor) -> torch.Tensor:
    """Return the last token's logits [samples, vocabulary] on the CPU, by the model's own forward."""
    with torch.inference_mode():
        output = model(input_ids=token_ids, use_cache=False, **last_tokens(model, 1))
    logits: torch.Tensor = output.logits[:, -1].float().cpu()
    return logits


def _difference(
    wanted: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor], batches: Sequence[Batch], allowed: float
) -> LogitDifference | None:
    """Compare logits batch by batch; None where the vocabularies differ."""
    if any(one.shape != other.shape for one, other in zip(wanted, theirs, strict=True)):
        return None
    relative, absolute, largest, worst = 0.0, 0.0, 0.0, None
    for one, other, batch in zip(wanted, theirs, batches, strict=True):
        relative = max(relative, relative_difference(other, one))
        finite = torch.isfinite(one) & torch.isfinite(other)
        apart = torch.where(finite, (one - other).abs(), 0.0).amax(dim=-1)
        largest = max(largest, float(torch.where(finite, one.abs(), 0.0).max()))
        if float(apart.max()) > absolute or worst is None:
            absolute = float(apart.max())
            worst = (batch.probe.name, batch.samples[int(apart.argmax())].sample_id)
    comparable = relative != float("inf")
    return LogitDifference(
        absolute if comparable else None, relative if comparable else None, allowed, largest, worst
    )


def _within(difference: LogitDifference) -> bool:
    return difference.relative is not None and difference.relative <= difference.allowed


def _blown_up(
    difference: LogitDifference,
    wanted: Sequence[torch.Tensor],
    theirs: Sequence[torch.Tensor],
    batches: Sequence[Batch],
    model: torch.nn.Module,
    depth: int,
    device: torch.device,
) -> LogitDifference:
    """Allow as much as the checkpoint blows up its own rounding, as the gate does for a deep model."""
    longest = max(batches, key=lambda batch: batch.token_ids.shape[1])
    ids = longest.token_ids[:2].to(device)
    few: dict[str, Any] = {"use_cache": False, **last_tokens(model, 1)}
    try:
        anatomy = find_anatomy(model, ids[:1], depth=depth)
        with torch.inference_mode():
            untouched = model(input_ids=ids, **few).logits[:, -1]
        allowed = max(difference.allowed, ROUNDINGS * effect_of_rounding(anatomy, ids, untouched, few))
    except ModelError as error:  # then it is judged by the dtype alone
        log.info("the effect of rounding cannot be seen: %s", error)
        return difference
    found = _difference(wanted, theirs, batches, allowed)
    assert found is not None
    return found


def _judge(
    difference: LogitDifference | None, wanted: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]
) -> list[str]:
    if difference is None:
        return [f"its vocabulary has {theirs[0].shape[-1]} tokens, the source's {wanted[0].shape[-1]}"]
    if difference.relative is None:
        return ["its logits are not finite where those of the source along the path are, or the reverse"]
    if not _within(difference):
        return [
            f"its logits differ from those of the source along the path by {difference.relative:.1e} of the largest "
            f"(allowed {difference.allowed:.0e}), most on {difference.worst[1] if difference.worst else 'all'}"
        ]
    return []


def _needed_bytes(facts: ModelFacts, dtype: str) -> int:
    stored = {"float32": 4, "float64": 8}.get(facts.dtype.removeprefix("torch."), 2)
    used: int = getattr(torch, dtype).itemsize
    return facts.weight_bytes * used // stored + LEAST_WORK_BYTES


def _fits(needed: int, device: torch.device) -> bool:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    return free is None or needed <= free


def _relative_latency(model: torch.nn.Module, source: torch.nn.Module, token_ids: torch.Tensor) -> float:
    """Return how long a forward pass of `model` takes as a share of one of `source`, the two in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(_ROUNDS + 1):
        for which, one in enumerate((model, source)):
            started = time.perf_counter()
            _last_logits(one, token_ids)  # brings the logits to the CPU, so it is over when it returns
            if number:  # the first pass warms up
                seconds[which].append(time.perf_counter() - started)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
