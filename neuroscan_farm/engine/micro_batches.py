"""How many units travel in one call of a layer: enough to use the machine, and never so that a row would change.

A unit, one batch on one path, has a fixed shape; it is what rows are defined by. Units of one batch may be stacked
to make larger matrix products. Three things bound a stack. A size is admitted when a stack of it has once given, bit for
bit, what its units give alone; that is tried on the first stack of each size. The best size in tokens was measured on
this machine for this model (bigger is not always faster: beyond the cache, a CPU is slower). And where memory ran out,
the size is halved for good.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.errors import StorageError
from neuroscan_farm.store.atomic import write_text

log = logging.getLogger(__name__)

_MOST_TOKENS = {"cpu": 8_192, "cuda": 65_536}
_GOOD_ENOUGH = 1.03  # a smaller micro-batch is taken if it is this close to the fastest
_ROUNDS = 3
# As torch's CPU allocator and oneDNN say it; both raise a plain RuntimeError.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "could not create a primitive")


class Calibration:
    """The best number of tokens in a micro-batch, measured once for a model on this machine and kept in a file."""

    def __init__(self, folder: Path | None, key: dict[str, Any]) -> None:
        """Bind a calibration to what it depends on.

        Args:
            folder: where the machine keeps its calibrations; None keeps it for this process alone.
            key: the model, the device, and everything else that the speed of a layer depends on.
        """
        self._path = folder / f"{content_digest(key, length=32)}.json" if folder is not None else None
        self._key = key
        self._tokens = self._read()

    @property
    def tokens(self) -> int | None:
        """The best number of tokens in a micro-batch; None before it was measured."""
        return self._tokens

    def measure(
        self,
        run: Callable[[int], object],
        unit_tokens: int,
        device: torch.device,
        *,
        most_tokens: int | None = None,
    ) -> None:
        """Time `run(copies)`, one call of a layer, for stacks of growing size in turn, and keep the best size."""
        per_token: dict[int, float] = {}
        sizes = [1]
        most = min(_MOST_TOKENS.get(device.type, 8_192), most_tokens or sys.maxsize)
        while 2 * sizes[-1] * unit_tokens <= most:
            sizes.append(2 * sizes[-1])
        for round_number in range(_ROUNDS + 1):  # in turn, so that a noisy machine is noisy for all of them
            for copies in list(sizes):
                tokens = copies * unit_tokens
                try:
                    seconds = _timed(run, copies, device)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    release(device)
                    sizes = [size for size in sizes if size < copies]
                    break
                if round_number:  # the first one warms up
                    per_token[tokens] = min(per_token.get(tokens, math.inf), seconds / tokens)
        fitting = {size * unit_tokens for size in sizes}
        per_token = {tokens: cost for tokens, cost in per_token.items() if tokens in fitting}
        if per_token:
            best = min(per_token.values())
            self._keep(
                min(size for size, cost in per_token.items() if cost <= best * _GOOD_ENOUGH), per_token
            )

    def shrink(self, tokens: int) -> None:
        """Correct the calibration: more than `tokens` did not fit."""
        self._keep(tokens, {})

    def _keep(self, tokens: int, per_token: dict[int, float]) -> None:
        self._tokens = tokens
        if self._path is None:
            return
        fastest = min(per_token.values(), default=0.0)
        relative = {str(size): round(cost / fastest, 3) for size, cost in per_token.items()}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(
                self._path,
                json.dumps(
                    {"tokens": tokens, "relative_time_per_token": relative, "of": self._key}, indent=1
                ),
            )
        except (OSError, StorageError) as error:  # measured again by the next worker
            log.warning("calibration %s cannot be kept: %s", self._path, error)

    def _read(self) -> int | None:
        if self._path is None:
            return None
        try:
            tokens = json.loads(self._path.read_text(encoding="utf-8"))["tokens"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return tokens if isinstance(tokens, int) and tokens > 0 else None


class MicroBatches:
    """How many units of a batch may share a call."""

    def __init__(self, calibration: Calibration, *, most_tokens: int | None = None) -> None:
        """Bind micro-batches to a calibration.

        Args:
            calibration: what was measured on this machine.
            most_tokens: what the memory that the worker may use is enough for; None is no bound.
        """
        self._calibration = calibration
        self.most_tokens = most_tokens
        self._admitted: dict[tuple[object, int], bool] = {}
        self._most: dict[object, int] = {}  # where memory ran out, by the unit's shape

    def copies(self, shape: torch.Size, unit_tokens: int, pending: int) -> int:
        """Return how many of `pending` units to stack: a power of two, at least 1."""
        tokens = min(self._calibration.tokens or unit_tokens, self.most_tokens or sys.maxsize)
        most = min(pending, max(tokens // unit_tokens, 1), self._most.get(shape, pending))
        return 1 << (most.bit_length() - 1)

    def admitted(self, kind: object, copies: int) -> bool | None:
        """Whether stacks of this size are known to give the bits of their units alone; None before one was tried."""
        return True if copies == 1 else self._admitted.get((kind, copies))

    def admit(self, kind: object, copies: int, equal: bool) -> None:
        """Keep what trying a stack of this size has shown."""
        self._admitted[kind, copies] = equal
        if not equal:
            log.info("stacks of %d units change the last bits of rows here (%s); not used", copies, kind)

    def ran_out(self, shape: torch.Size, unit_tokens: int, copies: int) -> None:
        """A stack of `copies` units did not fit in memory: from now on, half of it at most."""
        self._most[shape] = max(copies // 2, 1)
        self._calibration.shrink(max(copies // 2, 1) * unit_tokens)
        log.warning("out of memory with %d tokens in a micro-batch; halved", copies * unit_tokens)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a device or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def release(device: torch.device) -> None:
    """Give cached device memory back after it ran out."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _timed(run: Callable[[int], object], copies: int, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    run(copies)
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
