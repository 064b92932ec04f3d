"""Scores of the last token's logits, in float32. Every logarithm is natural.

With `z` the logits, `A` the answer tokens with values `v`, `c` the right answer and `p = softmax(z[A])`:
expected_score `E = sum v p`, uncertainty `sum (v - E)^2 p`, coverage `sum softmax(z)[A]`, entropy of `softmax(z)`,
log_odds `z_c - logsumexp(z[A without c])`, log_p_correct `log p_c`, correct `argmax z[A] = c`.

expected_score, uncertainty and coverage are those of layer-scan 0.2.2, so that tables can be compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from neuroscan_farm.domain.measurements import Score
from neuroscan_farm.engine.prompts import Batch


def score_logits(
    logits: torch.Tensor,  # [samples, vocabulary], the last token's
    batch: Batch,
    decode: Callable[[int], str],
) -> list[Score | None]:
    """Score each sample of a batch; None where the logits hold NaN or infinity."""
    z = logits.detach().float()  # on the device that holds them: a vocabulary is large, and scores are few
    if len(z) == 1:  # torch shares out the one sum over threads, and its last bits would tell how many
        z = z.repeat(2, 1)
    answers = z[:, list(batch.answer_ids)]  # [samples, choices]
    log_p = torch.log_softmax(answers, dim=-1)
    log_all = torch.log_softmax(z, dim=-1)
    probability = log_all.exp()
    coverage = probability[:, list(batch.answer_ids)].sum(dim=-1)
    entropy = -(probability * log_all).sum(dim=-1)
    top = z.argmax(dim=-1).tolist()
    finite = torch.isfinite(z).all(dim=-1).tolist()
    answers, log_p = answers.cpu(), log_p.cpu()
    p = log_p.exp()
    columns = {"coverage": coverage.tolist(), "entropy": entropy.tolist()}
    if batch.probe.values is not None:
        values = torch.tensor(batch.probe.values)
        mean = (values * p).sum(dim=-1, keepdim=True)
        columns["expected_score"] = mean[:, 0].tolist()
        columns["uncertainty"] = ((values - mean) ** 2 * p).sum(dim=-1).tolist()
    probabilities = p.tolist()
    scores: list[Score | None] = []
    for row, sample in enumerate(batch.samples):
        if not finite[row]:
            scores.append(None)
            continue
        log_odds = log_p_correct = correct = None
        if sample.answer is not None:
            right = batch.probe.choices.index(sample.answer)
            others = torch.cat([answers[row, :right], answers[row, right + 1 :]])
            log_odds = float(answers[row, right] - torch.logsumexp(others, dim=-1))
            log_p_correct = float(log_p[row, right])
            correct = bool(answers[row].argmax() == right)
        scores.append(
            Score(
                expected_score=columns["expected_score"][row] if "expected_score" in columns else None,
                uncertainty=columns["uncertainty"][row] if "uncertainty" in columns else None,
                coverage=columns["coverage"][row],
                entropy=columns["entropy"][row],
                top_token=decode(top[row]),
                answer_probabilities=tuple(probabilities[row]),
                log_odds=log_odds,
                log_p_correct=log_p_correct,
                correct=correct,
            )
        )
    return scores


def non_finite_detail(logits: torch.Tensor, row: int) -> str:
    """Say what is wrong with the logits of one sample."""
    z = logits[row].float()
    return f"{int(torch.isnan(z).sum())} NaN and {int(torch.isinf(z).sum())} infinite of {z.numel()} logits"
