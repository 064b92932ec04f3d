"""How often the demo model is right on prompts that its training never saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from random import Random
from typing import Any, NamedTuple

import torch

from neuroscan_farm.demo.families import Family, Task, unseen_tasks

DIGITS = tuple("0123456789")


class Measured(NamedTuple):
    """One family's result on unseen prompts."""

    family: str
    samples: int
    accuracy: float  # the right digit is the likeliest of all tokens
    log_odds: float  # mean of z_right - logsumexp(z of the other nine digits)
    by_kind: dict[str, float]  # accuracy


def unseen_sample(family: Family, count: int, seed: int) -> list[Task]:
    """Draw tasks that training excludes, the family's kinds in turn."""
    return list(islice(unseen_tasks(family, Random(f"{seed}/unseen/{family.name}")), count))


@torch.no_grad()
def measure(model: Any, tokenizer: Any, tasks: Sequence[Task]) -> Measured:
    """Score a transformers model on tasks of one family; prompts of equal length share a batch."""
    digit_ids = [tokenizer.encode(digit, add_special_tokens=False)[0] for digit in DIGITS]
    by_length: dict[int, list[tuple[Task, list[int]]]] = defaultdict(list)
    for task in tasks:
        ids = tokenizer.encode(task.prompt)
        by_length[len(ids)].append((task, ids))
    hits: dict[str, list[float]] = defaultdict(list)
    odds: list[float] = []
    for group in by_length.values():
        batch = torch.tensor([ids for _, ids in group])
        logits = model(input_ids=batch, use_cache=False).logits[:, -1].float()
        for (task, _), row in zip(group, logits, strict=True):
            digits = row[digit_ids]
            right = int(task.answer)
            hits[task.kind].append(float(int(row.argmax()) == digit_ids[right]))
            rest = torch.cat((digits[:right], digits[right + 1 :]))
            odds.append(float(digits[right] - rest.logsumexp(0)))
    every = [hit for kind in hits.values() for hit in kind]
    by_kind = {kind: sum(values) / len(values) for kind, values in sorted(hits.items())}
    return Measured(tasks[0].family, len(every), sum(every) / len(every), sum(odds) / len(odds), by_kind)
