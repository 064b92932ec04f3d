"""Places: folders of named files, on a disk or in an object store. A file is there whole or not at all.

A place is named by its *location*: an absolute path, or the URL of an object store (`s3://bucket/runs/one`).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from neuroscan_farm.errors import RunError
from neuroscan_farm.store.atomic import flush_folder, refusal, storage_errors, unreadable, written_aside

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET_FIELDS = re.compile(
    r"(?i)([?&](?:[^=&]*(?:key|secret|token|password|signature|credential)[^=&]*)=)[^&\s]+"
)
_USER = re.compile(r"(://)[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a place, as a listing shows it."""

    name: str
    size: int
    modified: float  # seconds since 1970, by the store's clock
    stamp: str  # changes whenever the file is replaced


class Place(Protocol):
    """A folder of named files. Names that begin with a dot are not data; a listing shows them all the same.

    All of its methods raise StorageError where the disk or the store refuses.
    """

    @property
    def location(self) -> str:
        """The absolute path or the URL; it holds no secret."""

    @property
    def root(self) -> Path | None:
        """The folder, where the place is on a disk."""

    def below(self, name: str) -> Place:
        """The folder `name` in this one."""

    def where(self, name: str) -> str:
        """The path or URL of a file, for messages."""

    def read(self, name: str) -> bytes:
        """Return what a file holds.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def open_file(self, name: str) -> pa.NativeFile:
        """Open a file, to read pieces of it; what its reads raise is `OSError`.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Make or replace a file, as a whole."""

    def entry(self, name: str) -> Entry | None:
        """What a listing would show of a file; None where it is not there."""

    def entries(self) -> list[Entry]:
        """The files of this folder, by name; none where there is no folder."""

    def folders(self) -> list[str]:
        """The names of the folders in this one, in order."""

    def remove(self, name: str) -> None:
        """Remove a file, or find that it is gone."""

    def move(self, name: str, new: str) -> None:
        """Give a file another name.

        Raises:
            FileNotFoundError: there is no such file.
        """


def is_url(location: str | Path) -> bool:
    """Whether a location is a URL and not a path."""
    return isinstance(location, str) and _URL.match(location) is not None


def redacted(text: str) -> str:
    """Return a text with the secrets of the URLs in it struck out."""
    return _USER.sub(r"\1***@", _SECRET_FIELDS.sub(r"\1***", text))


def absolute(location: str | Path) -> str:
    """Return a location in the words in which it may be handed on: an absolute path, or a URL without a last slash."""
    if isinstance(location, str) and is_url(location):
        return location if "?" in location else location.rstrip("/")
    return os.path.abspath(location)  # noqa: PTH100  (links stay as they are called)


def inside(location: str | Path, name: str) -> str:
    """Return the location of the folder `name` in another one."""
    if not is_url(location):
        return absolute(Path(location) / name)
    path, mark, query = str(location).partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def open_place(location: str | Path) -> Place:
    """Return the place at a location; whether it exists is not asked.

    Raises:
        RunError: the URL is none of an object store that is known, or it holds credentials.
    """
    if not is_url(location):
        return DiskPlace(Path(absolute(location)))
    url = str(location)
    if url.lower().startswith("file://"):
        raise RunError(f"{redacted(url)}: write a path of this machine without file://")
    if redacted(url) != url:
        raise RunError(
            f"{redacted(url)}: credentials do not belong in a URL, which stands in messages and logs; "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    from neuroscan_farm.store.object_store import ObjectPlace

    return ObjectPlace.of(url)


class DiskPlace:
    """A folder on a disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def location(self) -> str:
        """See `Place`."""
        return str(self._root)

    @property
    def root(self) -> Path:
        """See `Place`."""
        return self._root

    def below(self, name: str) -> DiskPlace:
        """See `Place`."""
        return DiskPlace(self._root / name)

    def where(self, name: str) -> str:
        """See `Place`."""
        return str(self._root / name)

    def read(self, name: str) -> bytes:
        """See `Place`."""
        path = self._root / name
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{path}: no such file") from None
        except OSError as error:
            raise unreadable(path, error) from error

    def open_file(self, name: str) -> pa.NativeFile:
        """See `Place`."""
        path = self._root / name
        try:
            return pa.OSFile(os.fspath(path), "rb")
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{path}: no such file") from None
        except OSError as error:
            raise unreadable(path, error) from error

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """See `Place`."""
        with written_aside(self._root / name) as aside, aside.open("wb") as file:
            file.write(data)

    def entry(self, name: str) -> Entry | None:
        """See `Place`."""
        path = self._root / name
        try:
            return _entry(name, path.stat())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # as somebody may type it: no file can have this name
                return None
            raise unreadable(path, error) from error

    def entries(self) -> list[Entry]:
        """See `Place`."""
        return sorted(self._scan(), key=lambda entry: entry.name)

    def _scan(self) -> Iterator[Entry]:
        try:
            with os.scandir(self._root) as found:
                for item in found:
                    try:
                        if item.is_file():
                            yield _entry(item.name, item.stat())
                    except FileNotFoundError:  # it went between the listing and the look at it
                        continue
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise unreadable(self._root, error) from error

    def folders(self) -> list[str]:
        """See `Place`."""
        try:
            with os.scandir(self._root) as found:
                return sorted(item.name for item in found if item.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise unreadable(self._root, error) from error

    def remove(self, name: str) -> None:
        """See `Place`."""
        path = self._root / name
        with storage_errors(path):
            path.unlink(missing_ok=True)

    def move(self, name: str, new: str) -> None:
        """See `Place`."""
        path = self._root / name
        try:
            path.rename(self._root / new)
            flush_folder(self._root)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{path}: no such file") from None
        except OSError as error:
            raise refusal(path, error) from error


def _entry(name: str, stat: os.stat_result) -> Entry:
    return Entry(
        name, stat.st_size, stat.st_mtime_ns / 1e9, f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"
    )
