"""What was tried and failed: one small file for each death or refusal, named so that two observers write the same one."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

from neuroscan_farm.store.places import Place

_NUMBER = re.compile(r"(s[^-]*)-(\d+)-[a-z]+\.json$")
_SETTLED = ".settled-"


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


def deaths_while_loading(attempts: Iterable[Attempt], *, since: float) -> tuple[str, ...]:
    """Return what workers died of before a first task after `since`, in seconds since 1970; the last one last."""
    died = sorted(
        (datetime.fromisoformat(attempt.ended).timestamp(), attempt.error)
        for attempt in attempts
        if attempt.kind == "died" and attempt.task_id is None
    )
    return tuple(error for ended, error in died if ended > since)


class Attempts:
    """The failed attempts of one run. A file is read once, as long as it does not change."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._known: dict[str, tuple[str, Attempt | None]] = {}  # name -> stamp, and what is in it
        self._numbers: dict[str, int] = {}  # of each shard's last failure, settled or not

    def record(self, attempt: Attempt) -> None:
        """Keep an attempt; the same attempt recorded twice is one.

        Raises:
            StorageError: the disk or the store refused.
        """
        self._place.write(_name(attempt), json.dumps(asdict(attempt), indent=1).encode())
        self._numbers[attempt.shard_id] = max(self._numbers.get(attempt.shard_id, 0), attempt.attempt)

    def all(self) -> list[Attempt]:
        """Return the attempts of all shards; a file that cannot be read is left out.

        Raises:
            StorageError: the disk or the store failed.
        """
        known: dict[str, tuple[str, Attempt | None]] = {}
        entries = self._place.entries()
        for entry in entries:
            if entry.name.startswith("s") and entry.name.endswith(".json"):
                stamp, attempt = self._known.get(entry.name, ("", None))
                if stamp != entry.stamp:
                    attempt = self._read(entry.name)
                known[entry.name] = (entry.stamp, attempt)
        self._known = known
        self._numbers = _last_numbers(entry.name for entry in entries)
        return [attempt for _, attempt in known.values() if attempt is not None]

    def next_number(self, shard_id: str) -> int:
        """Return the number of a shard's next attempt: no earlier failure, settled or not, has this or a later one.

        Those that others recorded since the last `all` are not known: many orders go out for one listing.
        """
        return 1 + self._numbers.get(shard_id, 0)

    def settle(self) -> None:
        """Settle what may be mended when the user tries again: refusals, and deaths while the model was loaded.

        Deaths in a task stay, they quarantine it.

        Raises:
            StorageError: the disk or the store refused.
        """
        self._settle(lambda attempt: attempt.kind == "refused" or attempt.task_id is None)

    def settle_tasks(self, task_ids: Collection[str]) -> None:
        """Settle the deaths of some tasks, so that they are tried again.

        Raises:
            StorageError: the disk or the store refused.
        """
        wanted = frozenset(task_ids)
        self._settle(lambda attempt: attempt.task_id in wanted)

    def _settle(self, wanted: Callable[[Attempt], bool]) -> None:
        for attempt in filter(wanted, self.all()):
            with contextlib.suppress(FileNotFoundError):  # another process may have settled it
                self._place.move(_name(attempt), f"{_SETTLED}{_name(attempt)}")

    def _read(self, name: str) -> Attempt | None:
        try:
            attempt = Attempt(**json.loads(self._place.read(name)))
            datetime.fromisoformat(attempt.ended)
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            return None
        texts = (attempt.shard_id, attempt.kind, attempt.task_id or "", attempt.worker, attempt.error)
        whole = isinstance(attempt.attempt, int) and all(isinstance(text, str) for text in texts)
        return attempt if whole else None


def _last_numbers(names: Iterable[str]) -> dict[str, int]:
    """Return the highest number in the names of each shard's files, settled ones among them."""
    numbers: dict[str, int] = {}
    for name in names:
        if found := _NUMBER.search(name):
            numbers[found[1]] = max(numbers.get(found[1], 0), int(found[2]))
    return numbers


def _name(attempt: Attempt) -> str:
    return f"{attempt.shard_id}-{attempt.attempt}-{attempt.kind}.json"
