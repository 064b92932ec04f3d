"""Places in object stores, which have no folders and no renames: a file is one PUT to its final name.

pyarrow's filesystems do the talking. Credentials, endpoint and region come from the environment, as every tool of
these stores reads it: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from neuroscan_farm.errors import RunError, StorageError
from neuroscan_farm.store.places import Entry

# A store that is out of reach is an error within seconds: each of the attempts waits as long at most.
_CONNECT_SECONDS, _REQUEST_SECONDS, _ATTEMPTS = 3, 10, 3
_READ_AT_ONCE = 1 << 20  # bytes; one request is cheaper than several for pieces
_MOST_SAID = 300  # characters of what the store said
_REQUEST_ID = re.compile(r"\s*\(Request ID: [^)]*\)")


class ObjectPlace:
    """A prefix in a bucket."""

    def __init__(self, files: pafs.FileSystem, path: str, *, url: str, query: str) -> None:
        self._files = files
        self._path = path
        self._url = url
        self._query = query
        self._reached = (
            False  # the bucket was seen; where a name is not found, it may be the bucket that is missing
        )

    @classmethod
    def of(cls, url: str) -> ObjectPlace:
        """Return the place at a URL.

        Raises:
            RunError: no such kind of store is known, or the URL names no bucket.
            StorageError: the store cannot be reached.
        """
        address, mark, query = url.partition("?")
        try:
            files, path = pafs.FileSystem.from_uri(url)
        except (pa.ArrowException, ValueError) as error:
            raise RunError(
                f"{url}: no object store that is known ({str(error).splitlines()[0]}); "
                "use s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or a path"
            ) from error
        except OSError as error:
            raise _refusal(url, error) from error
        path = path.strip("/")
        if not path:
            raise RunError(f"{url}: names no bucket; use s3://BUCKET/FOLDER or gs://BUCKET/FOLDER")
        return cls(_patient(files), path, url=address.rstrip("/"), query=mark + query)

    @property
    def location(self) -> str:
        """See `Place`."""
        return self._url + self._query

    @property
    def root(self) -> Path | None:
        """See `Place`."""
        return None

    def below(self, name: str) -> ObjectPlace:
        """See `Place`."""
        return ObjectPlace(self._files, f"{self._path}/{name}", url=f"{self._url}/{name}", query=self._query)

    def where(self, name: str) -> str:
        """See `Place`."""
        return f"{self._url}/{name}"

    def read(self, name: str) -> bytes:
        """See `Place`."""
        try:
            with self._files.open_input_stream(f"{self._path}/{name}") as file:
                data: bytes = file.read()
        except OSError as error:
            raise self._missing_or_refused(name, error) from error
        self._reached = True
        return data

    def open_file(self, name: str) -> pa.NativeFile:
        """See `Place`."""
        try:
            file = self._files.open_input_file(f"{self._path}/{name}")
            if file.size() > _READ_AT_ONCE:
                return file
            with file:
                return pa.BufferReader(file.read_buffer())
        except OSError as error:
            raise self._missing_or_refused(name, error) from error

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """See `Place`."""
        try:
            with self._files.open_output_stream(f"{self._path}/{name}") as file:
                file.write(data)
        except OSError as error:
            raise _refusal(self.where(name), error) from error
        self._reached = True

    def entry(self, name: str) -> Entry | None:
        """See `Place`."""
        try:
            info = self._files.get_file_info(f"{self._path}/{name}")
        except OSError as error:
            raise _refusal(self.where(name), error) from error
        if info.type is not pafs.FileType.File:
            self._check_bucket()
            return None
        return _entry(info)

    def entries(self) -> list[Entry]:
        """See `Place`."""
        return [_entry(info) for info in self._listed() if info.type is pafs.FileType.File]

    def folders(self) -> list[str]:
        """See `Place`."""
        return [info.base_name for info in self._listed() if info.type is pafs.FileType.Directory]

    def remove(self, name: str) -> None:
        """See `Place`."""
        try:
            self._files.delete_file(f"{self._path}/{name}")
        except OSError as error:
            if not _is_missing(error):
                raise _refusal(self.where(name), error) from error

    def move(self, name: str, new: str) -> None:
        """See `Place`. The copy is there before the original goes."""
        try:
            self._files.move(f"{self._path}/{name}", f"{self._path}/{new}")
        except OSError as error:
            raise self._missing_or_refused(name, error) from error

    def _listed(self) -> list[pafs.FileInfo]:
        try:
            found = self._files.get_file_info(pafs.FileSelector(self._path, allow_not_found=True))
        except OSError as error:
            raise _refusal(self._url, error) from error
        if not found:
            self._check_bucket()
        return sorted(found, key=lambda info: str(info.base_name))

    def _missing_or_refused(self, name: str, error: OSError) -> Exception:
        if not _is_missing(error):
            return _refusal(self.where(name), error)
        self._check_bucket()
        return FileNotFoundError(f"{self.where(name)}: no such file")

    def _check_bucket(self) -> None:
        """Tell a missing bucket from a missing file, which stores do not when they are asked for the file."""
        if self._reached:
            return
        bucket = self._path.split("/")[0]
        try:
            found = self._files.get_file_info(bucket).type is not pafs.FileType.NotFound
        except OSError as error:
            raise _refusal(self._url, error) from error
        if not found:
            raise StorageError(f"{self._url}: there is no bucket {bucket}; make it, or choose another place")
        self._reached = True


def _patient(files: pafs.FileSystem) -> pafs.FileSystem:
    """Return the filesystem with short timeouts, few retries, and one PUT for each file of ordinary size."""
    if not isinstance(files, pafs.S3FileSystem | pafs.GcsFileSystem):
        return files
    _, (found,) = files.__reduce__()[:2]  # what the URL and the environment say
    if isinstance(files, pafs.GcsFileSystem):
        patience = timedelta(seconds=_REQUEST_SECONDS)  # in place of a quarter of an hour
        return pafs.GcsFileSystem(**{**_said(found), "retry_time_limit": patience})
    return pafs.S3FileSystem(
        region=files.region,
        scheme=found["scheme"],
        endpoint_override=found["endpoint_override"] or None,
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        background_writes=False,
        allow_delayed_open=True,
    )


def _said(found: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in found.items() if value}


def _entry(info: pafs.FileInfo) -> Entry:
    return Entry(info.base_name, info.size, info.mtime_ns / 1e9, f"{info.size}-{info.mtime_ns}")


def _is_missing(error: OSError) -> bool:
    # A file that vanished after it was opened is asked for by its pieces, and stores word that in several ways.
    text = str(error)
    return isinstance(error, FileNotFoundError) or "NO_SUCH_KEY" in text or "RESOURCE_NOT_FOUND" in text


def _refusal(where: str, error: OSError) -> StorageError:
    """Return what a store's refusal means, and the mend."""
    text = _REQUEST_ID.sub("", str(error)).strip()
    said = (text.partition("AWS Error ")[2] or text)[:_MOST_SAID]
    if "NO_SUCH_BUCKET" in text:
        return StorageError(f"{where}: there is no such bucket; make it, or choose another place")
    if any(
        word in text for word in ("ACCESS_DENIED", "ACCESS_KEY", "SIGNATURE", "HTTP status 403", "HTTP 403")
    ):
        return StorageError(
            f"{where}: the object store does not let us in ({said}); check AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, and what they are allowed to do"
        )
    if any(word in text for word in ("NETWORK_CONNECTION", "REQUEST_TIMEOUT", "curlCode", "UNAVAILABLE")):
        return StorageError(
            f"{where}: the object store is out of reach ({said}); check the network, the credentials and "
            "AWS_ENDPOINT_URL; nothing finished is lost: give the same command again when it is back"
        )
    if "301" in text or "PermanentRedirect" in text:
        return StorageError(f"{where}: the bucket is in another region ({said}); set AWS_REGION to it")
    return StorageError(
        f"{where}: the object store refused ({said}); mend that, then give the same command again"
    )
