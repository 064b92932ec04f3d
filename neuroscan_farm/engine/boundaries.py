"""The baseline's residual stream before every layer, computed once per machine and kept as safetensors.

A file holds one batch: tensors `0` to `L`, all of one shape, which only the lane that made them can read. Its name is
made of everything that the numbers depend on, so that a file is never stale. One worker computes while the others of
the machine wait; the oldest files go when the cache is larger than its bound. A file that is gone or damaged is
computed again. A file is written boundary by boundary, so that no batch need be in memory with all its layers.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from neuroscan_farm.engine.weights.checkpoint import DTYPES, bytes_of
from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.weight_files import StoredTensor, read_header

log = logging.getLogger(__name__)

_SECONDS_OF_WAITING = 5.0  # for another worker's boundaries, between two signs of life
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Boundaries:
    """The boundaries of one batch; boundary k is the unit before layer k, boundary L that before the final norm."""

    def __init__(self, kept: Sequence[torch.Tensor] | _File, device: torch.device) -> None:
        self._kept = kept
        self._device = device

    @property
    def in_memory(self) -> bool:
        """Whether they are in this process's memory, because the cache could not take them."""
        return not isinstance(self._kept, _File)

    def __getitem__(self, k: int) -> torch.Tensor:
        return self._kept[k].to(self._device)


class _File:
    """Boundaries in a file, which stays readable when the cache gives it away."""

    def __init__(self, path: Path) -> None:
        self.stored: dict[str, StoredTensor] = {tensor.name: tensor for tensor in read_header(path)}
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def __getitem__(self, k: int) -> torch.Tensor:
        stored = self.stored[str(k)]
        tensor = torch.empty(stored.shape, dtype=DTYPES[stored.dtype])
        rest, offset = bytes_of(tensor), stored.offset
        while rest:
            count = os.preadv(self._descriptor, [rest], offset)
            if count == 0:
                raise OSError(f"{self._path}: boundary {k} is cut short")
            rest, offset = rest[count:], offset + count
        return tensor


class BoundaryWriter:
    """Takes the boundaries of one batch, in order."""

    def __init__(
        self,
        present: Boundaries | None,
        count: int,
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.boundaries = present  # those that were there already; else set when the writer ends
        self._count = count
        self._shape = shape
        self._dtype = dtype
        self._device = device
        self._done = 0
        self._memory: list[torch.Tensor] = []
        self._path: Path | None = None
        self._file = -1

    @property
    def wanted(self) -> bool:
        """Whether boundaries must be appended: False where another worker has computed them meanwhile."""
        return self.boundaries is None

    def append(self, unit: torch.Tensor) -> None:
        """Take the next boundary; it may be on any device, and is not kept in memory."""
        if unit.shape != self._shape or unit.dtype != self._dtype or self._done == self._count:
            raise ValueError(
                f"boundary {self._done} of {self._count} is {list(unit.shape)} {unit.dtype}, "
                f"expected {list(self._shape)} {self._dtype}"
            )
        here = unit.detach().to("cpu").contiguous()
        if self._file >= 0:
            try:
                _write_all(self._file, bytes_of(here))
            except OSError as error:  # the disk is full, say: what is written is taken back
                self._to_memory(error)
        if self._file < 0:
            self._memory.append(here.clone() if here.data_ptr() == unit.data_ptr() else here)
        self._done += 1

    def open(self, path: Path) -> None:
        """Write into a new file at `path`; without it, boundaries are kept in memory.

        Raises:
            OSError: the file cannot be made.
        """
        size = self._shape.numel() * self._dtype.itemsize
        header: dict[str, object] = {
            str(k): {
                "dtype": _NAMES[self._dtype],
                "shape": list(self._shape),
                "data_offsets": [k * size, (k + 1) * size],
            }
            for k in range(self._count)
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(
            self._file, fcntl.LOCK_EX
        )  # gone with this process: what it leaves can be told from what is written
        _write_all(self._file, len(text).to_bytes(8, "little") + text)
        # Other workers count what this file will be; what is not written yet takes no room on the disk.
        os.truncate(self._file, 8 + len(text) + self._count * size)

    def finish(self, path: Path) -> None:
        """Put the file in its place, or keep what is in memory."""
        if self._done < self._count:
            raise ValueError(f"{self._done} of {self._count} boundaries were appended")
        if self._path is not None and self._file >= 0:
            self._close()
            self._path.replace(path)
            self.boundaries = Boundaries(_File(path), self._device)
        else:
            self.boundaries = Boundaries(self._memory, self._device)

    def abandon(self) -> None:
        """Remove the file, if there is one."""
        self._close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _to_memory(self, error: OSError) -> None:
        log.warning("boundary file %s: %s; going on without it", self._path, error)
        self._close()
        assert self._path is not None
        file = _File(self._path)
        self._memory = [file[k] for k in range(self._done)]
        self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class BoundaryCache:
    """The machine's cache of boundaries, bounded in size."""

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._complained = False

    def find(self, key: str, *, count: int, device: torch.device) -> Boundaries | None:
        """Return the `count` boundaries of the batch called `key`, or None where they are not there."""
        path = self._folder / f"{key}.safetensors"
        if not path.is_file():
            return None
        try:
            file = _File(path)
            os.utime(path)
        except (OSError, ModelError):
            log.warning("boundary file %s is damaged; computing it again", path)
            return None
        whole = set(file.stored) == {str(k) for k in range(count)}
        return Boundaries(file, device) if whole else None

    @contextlib.contextmanager
    def writer(
        self,
        key: str,
        *,
        count: int,
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Iterator[BoundaryWriter]:
        """Take the boundaries of one batch, one after the other; another worker that wants them waits meanwhile.

        Who has several writers open must open them in the order of their keys, else two workers wait for each other.
        A cache that cannot be written, or a batch larger than its bound, is no error: these boundaries are kept in
        memory.

        Args:
            key: the batch's name.
            count: how many boundaries.
            shape: of each of them.
            dtype: of all of them.
            device: where `Boundaries` shall put what is read.
            on_wait: called now and then while another worker computes them.
        """
        path = self._folder / f"{key}.safetensors"
        with contextlib.ExitStack() as held:
            usable = self._lock(key, held, on_wait)
            present = self.find(key, count=count, device=device) if usable else None
            writer = BoundaryWriter(present, count, shape, dtype, device)
            if writer.wanted and usable:
                self._open(writer, path, count * shape.numel() * dtype.itemsize)
            try:
                yield writer
                if writer.wanted:
                    writer.finish(path)
            finally:
                writer.abandon()

    def get(
        self, key: str, *, count: int, device: torch.device, compute: Callable[[], list[torch.Tensor]]
    ) -> Boundaries:
        """Return the boundaries of the batch called `key`, computing all of them where they are not cached."""
        found = self.find(key, count=count, device=device)
        if found is not None:
            return found
        with contextlib.ExitStack() as held:
            usable = self._lock(key, held)
            found = self.find(key, count=count, device=device) if usable else None
            if found is not None:
                return found
            units = compute()
            first = units[0]
            with self.writer(key, count=count, shape=first.shape, dtype=first.dtype, device=device) as writer:
                for unit in units:
                    writer.append(unit)
        assert writer.boundaries is not None
        return writer.boundaries

    def _lock(self, key: str, held: contextlib.ExitStack, on_wait: Callable[[], None] = lambda: None) -> bool:
        """Hold a batch's lock until the stack ends; return whether the cache can be used."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._folder / f"{key}.lock", is_singleton=True)
            while True:
                try:
                    held.enter_context(lock.acquire(timeout=_SECONDS_OF_WAITING))
                    break
                except Timeout:
                    on_wait()
        except OSError as error:
            self._complain(error)
            return False
        return True

    def _open(self, writer: BoundaryWriter, path: Path, size: int) -> None:
        if size > self._most_bytes:
            log.info("boundaries of %.1f GB exceed the cache's bound; kept in memory", size / 1e9)
            return
        try:
            self._make_room(size)
            writer.open(path.with_name(f".tmp-{uuid.uuid4().hex}"))
        except OSError as error:
            writer.abandon()
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._complained:  # once, not for every batch
            log.warning("boundary cache %s: %s; going on without it", self._folder, error)
        self._complained = True

    def _make_room(self, needed: int) -> None:
        files, total = [], needed
        for file in self._folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                stat = file.stat()
                files.append((stat.st_mtime, stat.st_size, file))
                total += stat.st_size
        total += sum(_size_while_written(file) for file in self._folder.glob(".tmp-*"))
        for _, size, file in sorted(files, key=lambda entry: entry[0]):
            if total <= self._most_bytes:
                return
            file.unlink(missing_ok=True)
            file.with_suffix(".lock").unlink(missing_ok=True)
            total -= size


def _size_while_written(path: Path) -> int:
    """Return the size of a file that a worker is writing; remove one whose writer is dead."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.fstat(file.fileno()).st_size
        path.unlink(missing_ok=True)
    return 0


def _write_all(descriptor: int, content: memoryview | bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
