"""`neuroscan.json`: what a checkpoint that we wrote was made of, and the digests of its files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from neuroscan_farm.checkpoints.weight_writer import file_digest
from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.errors import ModelError, NeuroscanError

RECORD_FILE = "neuroscan.json"
RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class Record:
    """Where a checkpoint comes from. Its digest is over the files that decide what the model answers."""

    run_id: str
    model: str  # as the run's request names it
    revision: str | None
    source_fingerprint: str
    source_depth: int
    path: str
    depth: int
    layer_list: str  # as the tensors' names have it
    # name -> BLAKE2b of the content; the card and the certificate are not among them
    files: Mapping[str, str]
    digest: str  # of `files`
    tool: str  # name and version of this program
    created: str  # ISO 8601, UTC
    schema_version: int = RECORD_VERSION

    @property
    def layer_path(self) -> LayerPath:
        """The path as a value.

        Raises:
            RequestError: the text is no path.
        """
        return LayerPath.parse(self.path)

    def to_json(self) -> str:
        """Return the file's text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


_RECORD = TypeAdapter(Record)


def digest_of(files: Mapping[str, str]) -> str:
    """Return the digest of files by their names and digests."""
    return content_digest(dict(sorted(files.items())), length=32)


def read_record(folder: Path) -> Record | None:
    """Return a checkpoint's record; None where it has none.

    Raises:
        ModelError: the record is damaged, or of another version.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        return None
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != RECORD_VERSION:
            raise ModelError(f"{path}: version {str(version)[:40]}, this program reads {RECORD_VERSION}")
        record = _RECORD.validate_json(json.dumps(data), strict=True)
        record.layer_path  # noqa: B018 - a record without a path is none
    except (OSError, ValueError, RecursionError, ValidationError, NeuroscanError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{path}: damaged ({' '.join(str(error).split())[:200]}); materialize the checkpoint again"
        ) from error
    return record


def changed_files(folder: Path, record: Record) -> list[str]:
    """Return the files that are missing, or not what `materialize` wrote. Reads every byte.

    Raises:
        OSError: a file cannot be read.
    """
    changed = []
    for name, digest in record.files.items():
        path = folder / name
        if not path.is_file() or file_digest(path) != digest:
            changed.append(name)
    return changed
