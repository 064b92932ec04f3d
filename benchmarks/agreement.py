"""Whether everybody measured the same: a benchmark that compares different results is worthless.

Our rows hold no logits, but what is made of them: the digits' restricted softmax and their share of the vocabulary.
Their product is each digit's probability in the whole vocabulary, whose logarithm is compared to Hugging Face's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from counting import Steps

# Beyond these the benchmark stops: rounding in float32 stays two orders below, another layer order is far above.
MOST_LOG_P = 1e-3
MOST_SCORE = 1e-3

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # by path, then by sample


class Disagreement(Exception):
    """Two contenders measured different things."""


def compare_with_hf(
    rows: Rows, paths: Sequence[Sequence[int]], log_p: Sequence[Sequence[Sequence[float]]]
) -> dict[str, float]:
    """Compare the digits' log-probabilities with those of the physically re-ordered model.

    Args:
        rows: ours.
        paths: the paths, in the order of `log_p`.
        log_p: by path, sample and digit.

    Raises:
        Disagreement: the largest difference is beyond rounding.
    """
    worst = largest = 0.0
    for path, table in zip(paths, log_p, strict=True):
        for row, theirs in zip(rows[_name(path)], table, strict=True):
            for share, other in zip(row["answer_probabilities"], theirs, strict=True):
                worst = max(worst, abs(math.log(max(share * row["coverage"], 1e-38)) - max(other, -87.0)))
                largest = max(largest, abs(other))
    if not worst <= MOST_LOG_P:
        raise Disagreement(f"a digit's log-probability differs from Hugging Face's by {worst:.1e}")
    return {"largest_difference_log_p": worst, "largest_log_p": largest}


def compare_with_peer(
    rows: Rows, paths: Mapping[str, Steps], scores: Mapping[str, Any], baseline: float
) -> dict[str, float]:
    """Compare each configuration's expected score with a peer's: by sample, or by mean where it gives no more.

    `spread` is how much the configurations themselves differ: the difference means something below it.

    Raises:
        Disagreement: a configuration is missing, or the largest difference is beyond rounding.
    """
    if set(scores) != set(paths):
        raise Disagreement(f"the peer measured {len(scores)} configurations, not the same {len(paths)} as we")
    worst, means = 0.0, []
    for name, path in paths.items():
        ours = [row["expected_score"] for row in rows[_name(path)]]
        means.append(_mean(ours))
        theirs = scores[name]
        pairs = zip(ours, theirs, strict=True) if isinstance(theirs, list) else [(means[-1], theirs)]
        worst = max(worst, *(abs(mine - other) for mine, other in pairs))
    if not worst <= MOST_SCORE:
        raise Disagreement(f"an expected score differs from the peer's by {worst:.1e}")
    depth = max(max(path) for path in paths.values()) + 1
    own = _mean([row["expected_score"] for row in rows[_name(range(depth))]])
    return {
        "largest_difference_expected_score": worst,
        "difference_baseline": abs(own - baseline),
        "spread": max(means) - min(means),
    }


def _name(path: Sequence[int]) -> str:
    return ",".join(map(str, path))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
