"""What a model's safetensors files hold: names, shapes and places of their tensors. No tensor is read, no torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroscan_farm.errors import ModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_MOST_HEADER_BYTES = 100_000_000  # as in the safetensors library
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor's bytes are."""

    name: str
    path: Path
    offset: int  # of its first byte in the file
    size_bytes: int
    dtype: str  # as safetensors names it: F32, BF16, ...
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether it is cast to the run's dtype when it is loaded."""
        return self.dtype.startswith(("F", "BF"))


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of the model in `folder` by its name in the checkpoint.

    Raises:
        ModelError: there is no model.safetensors, or a file is missing, damaged or cut short.
    """
    found: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        for tensor in read_header(path):
            if tensor.name in found:
                raise ModelError(
                    f"{path}: tensor {tensor.name} is also in {found[tensor.name].path.name}; fetch the model again"
                )
            found[tensor.name] = tensor
    return found


def weight_files(folder: Path) -> list[Path]:
    """Return the model's weight files: model.safetensors, or those that the index names.

    Raises:
        ModelError: there is neither, or one that the index names is missing.
    """
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    index = folder / INDEX_FILE
    if not index.is_file():
        raise ModelError(f"model {folder}: neither {SINGLE_FILE} nor {INDEX_FILE} is there")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index}: cannot be read ({error!r}); fetch the model again") from error
    paths = [folder / str(name) for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing or not paths:
        raise ModelError(
            f"{index}: {len(missing)} of its {len(paths)} files are missing, such as {missing[0] if missing else 'all'}; "
            "fetch the model again"
        )
    return paths


def read_header(path: Path) -> list[StoredTensor]:
    """Return what a safetensors file says it holds, checked against its size.

    The format: 8 bytes with the header's length, the header as JSON, then the tensors' bytes
    (https://huggingface.co/docs/safetensors).
    """
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if file_bytes < 8 or not 2 <= length <= min(_MOST_HEADER_BYTES, file_bytes - 8):
                raise ModelError(f"{path}: no safetensors header; the file is damaged: fetch the model again")
            header = json.loads(file.read(length))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: its header cannot be read ({error}); fetch the model again") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path}: its header is no JSON object; fetch the model again")
    header.pop("__metadata__", None)
    return [_stored(path, name, entry, 8 + length, file_bytes) for name, entry in header.items()]


def _stored(path: Path, name: str, entry: Any, start: int, file_bytes: int) -> StoredTensor:
    try:
        first, last = (int(place) for place in entry["data_offsets"])
        shape = tuple(int(size) for size in entry["shape"])
        tensor = StoredTensor(name, path, start + first, last - first, str(entry["dtype"]), shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: the entry of {name} cannot be read ({error!r}); fetch the model again"
        ) from error
    if first < 0 or start + last > file_bytes:
        raise ModelError(
            f"{path}: cut short: tensor {name} ends at byte {start + last:,}, the file at {file_bytes:,}; "
            "fetch the model again"
        )
    bits = _BITS.get(tensor.dtype)
    if bits is not None and tensor.numel * bits != tensor.size_bytes * 8:
        raise ModelError(
            f"{path}: tensor {name} {list(shape)} of {tensor.dtype} has {tensor.size_bytes:,} bytes, "
            f"not {tensor.numel * bits // 8:,}; the file is damaged: fetch the model again"
        )
    return tensor
