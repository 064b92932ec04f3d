"""The baseline's residual stream before every layer, computed once per machine and kept as safetensors.

A file holds one batch: tensors `0` to `L`, each [samples, tokens, hidden]. Its name is made of everything that the
numbers depend on, so that a file is never stale. One worker computes while the others of the machine wait; the
oldest files go when the cache is larger than its bound. A file that is gone or damaged is computed again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

log = logging.getLogger(__name__)


class Boundaries:
    """The boundaries of one batch; boundary k is the residual before layer k, boundary L that before the final norm."""

    def __init__(
        self, tensors: dict[int, torch.Tensor] | None, path: Path | None, device: torch.device
    ) -> None:
        self._tensors = tensors
        self._path = path
        self._device = device

    def __getitem__(self, k: int) -> torch.Tensor:
        if self._tensors is not None:
            return self._tensors[k].to(self._device)
        with safe_open(self._path, framework="pt", device="cpu") as file:
            tensor: torch.Tensor = file.get_tensor(str(k))
        return tensor.to(self._device)


class BoundaryCache:
    """The machine's cache of boundaries, bounded in size."""

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._complained = False

    def get(
        self, key: str, *, count: int, device: torch.device, compute: Callable[[], list[torch.Tensor]]
    ) -> Boundaries:
        """Return the `count` boundaries of the batch called `key`, computing them where they are not cached.

        A cache that cannot be written is no error: the boundaries are then kept in memory for this batch.
        """
        path = self._folder / f"{key}.safetensors"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / f"{key}.lock"):
                if self._is_whole(path, count):
                    os.utime(path)
                    return Boundaries(None, path, device)
                tensors = compute()
                self._write(path, tensors)
        except OSError as error:
            self._complain(error)
            tensors = compute()
        return Boundaries(dict(enumerate(tensors)), None, device)

    def _complain(self, error: Exception) -> None:
        if not self._complained:  # once, not for every batch
            log.warning("boundary cache %s: %s; going on without it", self._folder, error)
        self._complained = True

    def _is_whole(self, path: Path, count: int) -> bool:
        if not path.is_file():
            return False
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                return len(file.keys()) == count
        except (SafetensorError, OSError):
            log.warning("boundary file %s is damaged; computing it again", path)
            return False

    def _write(self, path: Path, tensors: list[torch.Tensor]) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if size > self._most_bytes:
            log.info("boundaries of %.1f GB exceed the cache's bound; kept in memory", size / 1e9)
            return
        self._make_room(size)
        aside = path.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            save_file({str(k): tensor.contiguous() for k, tensor in enumerate(tensors)}, aside)
            aside.replace(path)
        except SafetensorError as error:  # how safetensors reports a full disk
            self._complain(error)
        finally:
            aside.unlink(missing_ok=True)

    def _make_room(self, needed: int) -> None:
        files = []
        for file in self._folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                stat = file.stat()
                files.append((stat.st_mtime, stat.st_size, file))
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files, key=lambda entry: entry[0]):
            if total + needed <= self._most_bytes:
                return
            file.unlink(missing_ok=True)
            file.with_suffix(".lock").unlink(missing_ok=True)
            total -= size
