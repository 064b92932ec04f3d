"""What a plan costs: layer evaluations, memory of the boundary cache, and time once something has been timed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.domain.requests import AnalysisRequest
from neuroscan_farm.domain.tasks import Shard
from neuroscan_farm.errors import NeuroscanError
from neuroscan_farm.planning.facts import ModelFacts
from neuroscan_farm.planning.rate import seconds_per_evaluation
from neuroscan_farm.planning.trie import evaluations
from neuroscan_farm.store.run_directory import RunDirectory

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CHARACTERS_PER_TOKEN = 3.5  # for folders without a tokenizer.json that can be read without torch


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of a plan's present stage. A layer evaluation is one layer run on one sample."""

    tasks: int
    shards: int
    samples: int
    tokens: int  # of all prompts, once
    tokens_exact: bool  # False where they were estimated from the number of characters
    evaluations_naive: int  # every path from the embedding
    evaluations_shared: int  # the baseline once, and whatever prefix paths of a shard share once
    boundary_bytes: int
    seconds: float | None  # of one worker like the one that was timed; null before a shard was timed

    def to_json_dict(self) -> dict[str, object]:
        """Return the estimate as plain data."""
        return asdict(self)


def estimate(
    request: AnalysisRequest,
    facts: ModelFacts,
    probes: Sequence[Probe],
    shards: Sequence[Shard],
    *,
    timed: Iterable[RunDirectory] = (),
) -> Estimate:
    """Estimate a plan; `timed` are runs whose finished shards may tell the speed, the best match first."""
    tasks = [task for shard in shards for task in shard.tasks]
    samples = sum(len(probe.samples) for probe in probes)
    tokens, exact = count_tokens(facts.folder, probes)
    shared = facts.depth + sum(evaluations([task.path for task in shard.tasks]) for shard in shards)
    rate = next((rate for run in timed if (rate := seconds_per_token_evaluation(run, facts, request))), None)
    return Estimate(
        tasks=len(tasks),
        shards=len(shards),
        samples=samples,
        tokens=tokens,
        tokens_exact=exact,
        evaluations_naive=samples * sum(len(task.path) for task in tasks),
        evaluations_shared=samples * shared,
        boundary_bytes=(facts.depth + 1) * tokens * facts.hidden_size * _element_bytes(request, facts),
        seconds=None if rate is None else rate * tokens * sum(task.path.evaluations() for task in tasks),
    )


def seconds_per_token_evaluation(
    run: RunDirectory, facts: ModelFacts, request: AnalysisRequest
) -> float | None:
    """Return the measured seconds of one path's layer on one token in a run of the same model, or None without rows.

    A run that is damaged tells nothing; it must not keep another one from being planned.
    """
    try:
        if run.manifest.model_fingerprint != facts.fingerprint or run.request().engine != request.engine:
            return None
        probes = run.probes()
        seconds = seconds_per_evaluation(run.parts.look().timings)
    except NeuroscanError:
        return None
    tokens, _ = count_tokens(facts.folder, probes)
    return None if seconds is None else seconds / tokens


def count_tokens(folder: Path, probes: Sequence[Probe]) -> tuple[int, bool]:
    """Return the number of tokens of all prompts, and whether it is exact, without importing torch."""
    texts = [probe.text_of(sample) for probe in probes for sample in probe.samples]
    path = folder / "tokenizer.json"
    if path.is_file():
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(path))
            return sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts)), True
        except Exception:  # tokenizers raises bare Exception; the engine will say what is wrong with the file
            pass
    return round(sum(len(text) for text in texts) / _CHARACTERS_PER_TOKEN), False


def _element_bytes(request: AnalysisRequest, facts: ModelFacts) -> int:
    if request.engine.dtype != "auto":
        return _BYTES[request.engine.dtype]
    return 4 if request.engine.device != "cuda" else _BYTES.get(facts.dtype, 4)
