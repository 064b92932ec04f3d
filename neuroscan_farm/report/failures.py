"""What went wrong in a run, grouped by what it said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.store.attempts import Attempt


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures with the same outcome and the same message."""

    outcome: str  # of rows; or how an attempt at a shard ended: "died", "refused"
    message: str
    configurations: int  # how many; of attempts, how many attempts
    samples: int  # 0 for attempts, which have no rows
    example: str  # one of them


def failure_groups(findings: Findings, attempts: Sequence[Attempt] = ()) -> list[FailureGroup]:
    """Group the failed rows, commonest first, and then the failed attempts at shards."""
    places: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
    baseline = [findings.baseline] if findings.baseline else []
    for c in [*baseline, *findings.configurations]:
        for probe in findings.probes:
            result = c.results[probe]
            for outcome, count in result.outcomes.items():
                if outcome != Outcome.OK:
                    message = _first_line(result.detail or "no detail was recorded")
                    places[outcome, message].append((c.label if c not in baseline else "baseline", count))
    groups = [
        FailureGroup(
            outcome, message, len({label for label, _ in found}), sum(n for _, n in found), found[0][0]
        )
        for (outcome, message), found in places.items()
    ]
    groups.sort(key=lambda group: (-group.samples, group.outcome, group.message))
    ended: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        ended[attempt.kind, _first_line(attempt.error)].append(attempt)
    for (kind, message), found_attempts in sorted(ended.items(), key=lambda item: (-len(item[1]), item[0])):
        example = found_attempts[0].task_id or found_attempts[0].shard_id
        groups.append(FailureGroup(kind, message, len(found_attempts), 0, example))
    return groups


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:300]
