"""Reading tensors of a model's safetensors files straight into memory that is there already.

Files are read, not mapped: mapped pages would count as this process's memory. A tensor whose dtype in the file is
the wanted one goes into its destination without a copy between; another passes through a small buffer. Reading
releases the interpreter's lock, so that a thread can read while another computes.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import torch

from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.weight_files import StoredTensor, stored_tensors

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_STAGING_BYTES = 1 << 20
_SERIAL_ELEMENTS = 1 << 15  # torch casts so many in the calling thread; more would wake threads that compute


class Checkpoint:
    """The tensors of a model's folder; files are opened when they are first read and stay open."""

    def __init__(self, folder: Path) -> None:
        """Read the files' headers.

        Raises:
            ModelError: a file is missing or damaged.
        """
        self.folder = folder
        self.tensors: dict[str, StoredTensor] = stored_tensors(folder)
        self.bytes_read = 0
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()

    def dtype_of(self, name: str) -> torch.dtype:
        """Return a tensor's dtype in the file.

        Raises:
            ModelError: it is none that is known here.
        """
        stored = self.tensors[name]
        if stored.dtype not in DTYPES:
            raise ModelError(
                f"{stored.path}: tensor {name} has the dtype {stored.dtype}, which cannot be read here; "
                f"known are {', '.join(DTYPES)}"
            )
        return DTYPES[stored.dtype]

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor in new memory.

        Raises:
            ModelError: the file cannot be read.
        """
        tensor = torch.empty(self.tensors[name].shape, dtype=dtype)
        self.read_into(name, tensor)
        return tensor

    def read_into(self, name: str, destination: torch.Tensor) -> None:
        """Fill `destination`, a CPU tensor of the stored shape, casting to its dtype.

        Raises:
            ModelError: the file ends too early or cannot be read.
        """
        stored, dtype = self.tensors[name], self.dtype_of(name)
        if tuple(destination.shape) != stored.shape:
            raise ModelError(
                f"{stored.path}: tensor {name} is {list(stored.shape)}, the model needs {list(destination.shape)}"
            )
        if not stored.numel:
            return
        if destination.dtype == dtype and destination.is_contiguous():
            self._read_bytes(stored, 0, bytes_of(destination))
        elif destination.is_contiguous():
            self._read_and_cast(stored, dtype, destination.view(-1))
        else:
            for row, part in enumerate(
                destination
            ):  # the first dimension's parts lie one after the other in the file
                self._read_and_cast(stored, dtype, part, first=row * part.numel())

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        with self._lock:
            for descriptor in self._files.values():
                os.close(descriptor)
            self._files.clear()

    def _read_and_cast(
        self, stored: StoredTensor, dtype: torch.dtype, destination: torch.Tensor, *, first: int = 0
    ) -> None:
        """Fill `destination` with the elements from the `first` on, through a buffer."""
        if not destination.is_contiguous():
            aside = torch.empty(destination.shape, dtype=destination.dtype)
            self._read_and_cast(stored, dtype, aside, first=first)
            destination.copy_(aside)
            return
        flat = destination.view(-1)
        most = _STAGING_BYTES // dtype.itemsize
        staging = torch.empty(min(most, flat.numel()), dtype=dtype)
        for start in range(0, flat.numel(), most):
            piece = flat[start : start + most]
            read = staging[: piece.numel()]
            self._read_bytes(stored, (first + start) * dtype.itemsize, bytes_of(read))
            for at in range(0, piece.numel(), _SERIAL_ELEMENTS):
                piece[at : at + _SERIAL_ELEMENTS].copy_(read[at : at + _SERIAL_ELEMENTS])

    def _read_bytes(self, stored: StoredTensor, first: int, into: memoryview) -> None:
        try:
            descriptor = self._open(stored.path)
            done = 0
            while done < len(into):
                count = os.preadv(descriptor, [into[done:]], stored.offset + first + done)
                if count == 0:
                    raise ModelError(
                        f"{stored.path}: ends inside tensor {stored.name}; the file was cut short: fetch the model again"
                    )
                done += count
        except OSError as error:
            raise ModelError(
                f"{stored.path}: tensor {stored.name} cannot be read ({error.strerror}); check the disk, or fetch the "
                "model again"
            ) from error
        self.bytes_read += len(into)

    def _open(self, path: Path) -> int:
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            return self._files[path]


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """Return the memory of a contiguous CPU tensor as writable bytes."""
    flat: Any = tensor.detach().view(-1).view(torch.uint8).numpy()
    return memoryview(flat)
