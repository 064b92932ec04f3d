"""What was tried and failed: one small file for each death or refusal, named so that two observers write the same one."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from neuroscan_farm.store.atomic import storage_errors, write_text

_NUMBER = re.compile(r"-(\d+)-[a-z]+\.json$")


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


def refusal_of(attempts: Iterable[Attempt]) -> str | None:
    """Return why a worker refused the run, if one did."""
    return next((attempt.error for attempt in attempts if attempt.kind == "refused"), None)


def deaths_while_loading(attempts: Iterable[Attempt], *, since: float) -> int:
    """Return how many workers died before a first task after `since`, in seconds since 1970."""
    died = [attempt for attempt in attempts if attempt.kind == "died" and attempt.task_id is None]
    return sum(datetime.fromisoformat(attempt.ended).timestamp() > since for attempt in died)


class Attempts:
    """The failed attempts of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def record(self, attempt: Attempt) -> None:
        """Keep an attempt; the same attempt recorded twice is one.

        Raises:
            StorageError: the disk refused.
        """
        write_text(self._path(attempt), json.dumps(asdict(attempt), indent=1))

    def all(self) -> list[Attempt]:
        """Return the attempts of all shards; a file that cannot be read is left out."""
        attempts = []
        for path in sorted(self._folder.glob("s*.json")):
            try:
                attempt = Attempt(**json.loads(path.read_text(encoding="utf-8")))
                datetime.fromisoformat(attempt.ended)
                attempts.append(attempt)
            except (OSError, ValueError, TypeError):
                continue
        return attempts

    def deaths(self) -> Counter[str]:
        """How many workers died on each task."""
        return Counter(a.task_id for a in self.all() if a.kind == "died" and a.task_id is not None)

    def next_number(self, shard_id: str) -> int:
        """Return the number of a shard's next attempt: no earlier failure, settled or not, has this or a later one."""
        numbers = (_NUMBER.search(path.name) for path in self._folder.glob(f"*{shard_id}-*.json"))
        return 1 + max((int(number[1]) for number in numbers if number), default=0)

    def settle(self) -> None:
        """Settle what may be mended when the user tries again: refusals, and deaths while the model was loaded.

        Deaths in a task stay, they quarantine it.

        Raises:
            StorageError: the disk refused.
        """
        for attempt in self.all():
            if attempt.kind == "refused" or attempt.task_id is None:
                path = self._path(attempt)
                # Another process may have settled it.
                with storage_errors(path), contextlib.suppress(FileNotFoundError):
                    path.rename(path.with_name(f".settled-{path.name}"))

    def _path(self, attempt: Attempt) -> Path:
        return self._folder / f"{attempt.shard_id}-{attempt.attempt}-{attempt.kind}.json"
