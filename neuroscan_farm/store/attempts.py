"""What was tried and failed: one small file for each death or refusal, named so that two observers write the same one."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from neuroscan_farm.store.atomic import write_text


@dataclass(frozen=True, slots=True)
class Attempt:
    """One failed attempt at a shard."""

    shard_id: str
    attempt: int
    kind: str  # "died" (the worker was gone), or "refused" (the worker raised and lives)
    task_id: str | None  # what it was doing, where known
    worker: str
    error: str
    ended: str  # ISO 8601, UTC


class Attempts:
    """The failed attempts of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def record(self, attempt: Attempt) -> None:
        """Keep an attempt; the same attempt recorded twice is one.

        Raises:
            StorageError: the disk refused.
        """
        name = f"{attempt.shard_id}-{attempt.attempt}-{attempt.kind}.json"
        write_text(self._folder / name, json.dumps(asdict(attempt), indent=1))

    def all(self) -> list[Attempt]:
        """Return the attempts of all shards; a file that cannot be read is left out."""
        attempts = []
        for path in sorted(self._folder.glob("s*.json")):
            try:
                attempts.append(Attempt(**json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError):
                continue
        return attempts

    def deaths(self) -> Counter[str]:
        """How many workers died on each task."""
        return Counter(a.task_id for a in self.all() if a.kind == "died" and a.task_id is not None)

    def forget_refusals(self) -> None:
        """Settle the refusals, because the user tries again after a mend; deaths stay, they quarantine tasks."""
        for path in self._folder.glob("s*-refused.json"):
            path.rename(path.with_name(f".settled-{path.name}"))
