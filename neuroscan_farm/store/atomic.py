"""Files that are there whole or not at all: write aside, flush to the disk, rename, flush the directory."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from neuroscan_farm.errors import StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into errors that name the place and the mend.

    Raises:
        StorageError: the disk is full, read-only, or fails, or the path is not ours to write.
    """
    try:
        yield
    except OSError as error:
        raise refusal(path, error) from error


def refusal(path: Path, error: OSError) -> StorageError:
    """Return what a refused write means."""
    if error.errno in _FULL:
        return StorageError(
            f"{path}: the disk is full ({error.strerror}); nothing finished is lost: "
            "free some space, then give the same command again"
        )
    if error.errno in _REFUSED:
        return StorageError(f"{path}: not writable ({error.strerror}); choose another place with --output")
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return StorageError(f"{path}: a file is in the way ({error.strerror}); choose another place")
    return StorageError(f"{path}: cannot be written ({error}); choose another place with --output")


def unreadable(path: Path, error: OSError) -> StorageError:
    """Return what a refused read means."""
    return StorageError(
        f"{path}: cannot be read ({error.strerror or error}); make it readable, or mend the disk, then give the same "
        "command again"
    )


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; on success it replaces `path`, on failure it is removed.

    Raises:
        StorageError: see `storage_errors`.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")
        try:
            yield aside
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Have the names in a folder outlast a loss of power."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, atomically.

    Raises:
        StorageError: see `storage_errors`.
    """
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
