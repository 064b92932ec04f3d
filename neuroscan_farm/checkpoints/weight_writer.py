"""Writing safetensors files whose bytes come from other safetensors files: streamed, a few megabytes at a time.

The format: 8 bytes with the header's length, the header as JSON, then the tensors' bytes without holes
(https://huggingface.co/docs/safetensors). No torch: bytes are copied as they are, whatever their dtype.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from neuroscan_farm.checkpoints.layer_names import NewTensor
from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.weight_files import INDEX_FILE, SINGLE_FILE
from neuroscan_farm.store.atomic import unreadable

_CHUNK_BYTES = 8 << 20
_ALIGNED = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
}


def write_weights(
    tensors: Sequence[NewTensor],
    folder: Path,
    *,
    most_shard_bytes: int,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, str]:
    """Write the weight files, with an index where there are several; return each file's digest (BLAKE2b) by its name.

    Args:
        tensors: in order; each is held by one file.
        folder: that is there.
        most_shard_bytes: most bytes of tensors in a file; a single tensor may be larger.
        on_bytes: told after each chunk how many bytes are written, and of how many.

    Raises:
        ModelError: a source file ends too early or cannot be read.
        OSError: the disk refused.
    """
    shards = _shards(tensors, most_shard_bytes)
    names = [
        SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        for number in range(1, len(shards) + 1)
    ]
    total = sum(tensor.size_bytes for tensor in tensors)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        on_bytes(done, total)

    digests = {
        name: _write_file(folder / name, shard, count) for name, shard in zip(names, shards, strict=True)
    }
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": total},
            "weight_map": {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard},
        }
        digests[INDEX_FILE] = write_file(folder / INDEX_FILE, json.dumps(index, indent=2).encode())
    return digests


def write_header_only(tensors: Sequence[NewTensor], folder: Path) -> Path:
    """Write a weight file with all names and shapes, whose content is a hole that takes no room; return it.

    Raises:
        OSError: the disk refused.
    """
    path = folder / SINGLE_FILE
    text = _header(tensors)
    with path.open("wb") as file:
        file.write(text)
        file.truncate(len(text) + sum(tensor.size_bytes for tensor in tensors))
    return path


def write_file(path: Path, content: bytes) -> str:
    """Write a small file and flush it to the disk; return its digest.

    Raises:
        OSError: the disk refused.
    """
    with path.open("wb") as file:
        file.write(content)
        _flush(file)
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a file's content, as `write_weights` does.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _shards(tensors: Sequence[NewTensor], most_bytes: int) -> list[list[NewTensor]]:
    shards: list[list[NewTensor]] = [[]]
    room = most_bytes
    for tensor in tensors:
        if tensor.size_bytes > room and shards[-1]:
            shards.append([])
            room = most_bytes
        shards[-1].append(tensor)
        room -= tensor.size_bytes
    return shards


def _header(tensors: Sequence[NewTensor]) -> bytes:
    """Return what stands before the tensors' bytes, which follow in this order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        end = at + tensor.size_bytes
        header[tensor.name] = {
            "dtype": tensor.source.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_file(path: Path, tensors: Sequence[NewTensor], on_written: Callable[[int], None]) -> str:
    # Larger elements first: then each tensor lies at a multiple of its element's size, which some readers map at once.
    tensors = sorted(tensors, key=lambda tensor: -_ALIGNED.get(tensor.source.dtype, 1))
    header = _header(tensors)
    digest = hashlib.blake2b(digest_size=16)
    with path.open("wb") as file:
        file.write(header)
        digest.update(header)
        for tensor in tensors:
            for chunk in _bytes_of(tensor):
                file.write(chunk)
                digest.update(chunk)
                on_written(len(chunk))
        _flush(file)
    return digest.hexdigest()


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _bytes_of(tensor: NewTensor) -> Iterator[bytes]:
    source = tensor.source
    try:
        file = source.path.open("rb")
    except OSError as error:
        raise unreadable(source.path, error) from error
    with file:
        if tensor.parts_axis is None:
            yield from _read(file, tensor, 0, source.size_bytes)
        elif tensor.parts_axis == 0:
            part_bytes = source.size_bytes // tensor.parts_of
            for part in tensor.parts:
                yield from _read(file, tensor, part * part_bytes, part_bytes)
        else:
            rows = source.shape[0]
            row_bytes = source.size_bytes // max(rows, 1)
            together = max(1, _CHUNK_BYTES // max(row_bytes, 1))
            for first in range(0, rows, together):
                size = min(together, rows - first) * row_bytes
                block = b"".join(_read(file, tensor, first * row_bytes, size))
                parts = np.frombuffer(block, np.uint8).reshape(
                    -1, tensor.parts_of, row_bytes // tensor.parts_of
                )
                yield parts[:, list(tensor.parts)].tobytes()


def _read(file: BinaryIO, tensor: NewTensor, first: int, size: int) -> Iterator[bytes]:
    """Give `size` bytes of a tensor from its byte `first` on, in chunks."""
    source = tensor.source
    try:
        file.seek(source.offset + first)
        while size:
            chunk = file.read(min(size, _CHUNK_BYTES))
            if not chunk:
                raise ModelError(
                    f"{source.path}: ends inside tensor {source.name}; the file was cut short: fetch the model again"
                )
            size -= len(chunk)
            yield chunk
    except OSError as error:
        raise unreadable(source.path, error) from error
