"""The lock that a process of this machine holds while it drives a run; the kernel frees it when that process dies."""

from __future__ import annotations

from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.errors import StorageError
from neuroscan_farm.store.atomic import storage_errors
from neuroscan_farm.store.places import absolute, is_url


def lock_of(location: str | Path) -> FileLock:
    """The lock of the run at a location; of one in an object store, a file of this user and machine.

    Raises:
        StorageError: the folder of such locks cannot be made.
    """
    path = _path(location)
    if is_url(location):
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, timeout=0)


def is_driven(location: str | Path) -> bool:
    """Whether a process of this machine drives the run now."""
    if not _path(location).exists():
        return False
    try:
        with lock_of(location):
            return False
    except Timeout:
        return True
    except (OSError, StorageError):
        return False


def _path(location: str | Path) -> Path:
    where = absolute(location)
    if not is_url(where):
        return Path(where) / ".lock"
    folder = Path(platformdirs.user_cache_dir("neuroscan-farm")) / "locks"
    return folder / f"{content_digest(where, length=32)}.lock"
