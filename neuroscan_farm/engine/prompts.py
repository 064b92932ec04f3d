"""From samples to token ids: answer tokens, prompts, and batches of equal length, so that nothing is ever padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuroscan_farm.domain.probes import Probe, Sample
from neuroscan_farm.errors import ModelError, ProbeError


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one probe whose prompts have the same number of tokens; they share every forward pass."""

    probe: Probe
    samples: tuple[Sample, ...]
    token_ids: torch.Tensor  # [samples, tokens], int64, on the CPU
    answer_ids: tuple[int, ...]  # one token id for each of the probe's choices


def answer_token_ids(tokenizer: Any, probe: Probe) -> tuple[int, ...]:
    """Return the one token of each choice.

    SentencePiece tokenizers may set a token that is only a word start before every choice; it is left out.

    Raises:
        ProbeError: a choice is not one token, or two choices share one.
    """
    encoded = [tokenizer.encode(choice, add_special_tokens=False) for choice in probe.choices]
    word_starts = all(len(ids) == 2 and not tokenizer.decode(ids[:1]).strip() for ids in encoded)
    if word_starts and [tokenizer.decode(ids[1:]).strip() for ids in encoded] == list(probe.choices):
        encoded = [ids[1:] for ids in encoded]
    split = [
        f"{choice!r} ({len(ids)} tokens)"
        for choice, ids in zip(probe.choices, encoded, strict=True)
        if len(ids) != 1
    ]
    if split:
        raise ProbeError(
            f"probe {probe.name}: this model's tokenizer does not have each answer as one token: {', '.join(split)}. "
            'Use a model whose tokenizer keeps digits apart, or a probe with `scoring: "choices"` whose choices '
            "are single tokens, such as A, B, C"
        )
    ids = tuple(ids[0] for ids in encoded)
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and unknown in ids:
        choice = probe.choices[ids.index(unknown)]
        raise ProbeError(
            f"probe {probe.name}: this model's tokenizer does not know the answer {choice!r} at all"
        )
    if len(set(ids)) != len(ids):
        raise ProbeError(
            f"probe {probe.name}: two choices have the same token; choose answers that start differently"
        )
    return ids


def make_batches(
    tokenizer: Any,
    probes: Sequence[Probe],
    *,
    prompt_format: str,
    batch_size: int,
    max_tokens: int | None,
) -> list[Batch]:
    """Tokenize the probes and group samples of equal length, in an order that depends on the probes alone.

    Raises:
        ProbeError: a prompt has no tokens or too many, or answers are not single tokens.
        ModelError: the chat format is asked of a tokenizer without a chat template.
    """
    batches = []
    for probe in probes:
        answers = answer_token_ids(tokenizer, probe)
        by_length: dict[int, list[tuple[Sample, list[int]]]] = {}
        problems = []
        for number, sample in enumerate(probe.samples, start=1):
            ids = _encode(tokenizer, probe.text_of(sample), prompt_format)
            if not ids:
                problems.append(f"probe {probe.name}, sample {number}: the prompt has no tokens")
            elif max_tokens is not None and len(ids) > max_tokens:
                problems.append(
                    f"probe {probe.name}, sample {number}: {len(ids)} tokens, but this model reads {max_tokens}; shorten it"
                )
            by_length.setdefault(len(ids), []).append((sample, ids))
        if problems:
            raise ProbeError("\n".join(problems))
        for _, members in sorted(by_length.items()):
            for start in range(0, len(members), batch_size):
                group = members[start : start + batch_size]
                token_ids = torch.tensor([ids for _, ids in group], dtype=torch.int64)
                batches.append(Batch(probe, tuple(sample for sample, _ in group), token_ids, answers))
    return batches


def _encode(tokenizer: Any, prompt: str, prompt_format: str) -> list[int]:
    if prompt_format == "raw":
        return list(tokenizer(prompt)["input_ids"])
    if getattr(tokenizer, "chat_template", None) is None:
        raise ModelError("prompt_format is chat, but this model's tokenizer has no chat template; use raw")
    message = [{"role": "user", "content": prompt}]
    encoded = tokenizer.apply_chat_template(
        message, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])
