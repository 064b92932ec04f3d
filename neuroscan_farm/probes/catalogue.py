"""The probes that come with the package, and how a name or a path becomes a probe."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.errors import ProbeError
from neuroscan_farm.probes.loader import FILE_SUFFIXES, load_probe_file

_BUILTIN_DIR = Path(__file__).parent / "builtin"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """What a list of probes shows of one."""

    name: str
    n_samples: int
    categories: tuple[str, ...]
    description: str
    first_line: str  # of the description


def builtin_names() -> tuple[str, ...]:
    """Return the names of the built-in probes, sorted."""
    return tuple(sorted(_builtin_files()))


def load_probe(name_or_path: str | Path) -> Probe:
    """Load a built-in probe by its name, or a custom probe by the path of its file.

    Raises:
        ProbeError: neither is there, or the file has problems.
    """
    builtin = _builtin_files()
    if str(name_or_path) in builtin:
        return load_probe_file(builtin[str(name_or_path)])
    if Path(name_or_path).suffix.lower() in FILE_SUFFIXES:
        return load_probe_file(name_or_path)
    names = sorted(builtin)
    nearest = difflib.get_close_matches(str(name_or_path), names, n=3, cutoff=0.5)
    mend = f"did you mean {' or '.join(nearest)}?" if nearest else "choose one of these"
    raise ProbeError(
        f'unknown probe "{name_or_path}"; accepted: {", ".join(names)}, '
        f"or the path of a file that ends in {', '.join(FILE_SUFFIXES)}; {mend}"
    )


def catalogue() -> tuple[CatalogueEntry, ...]:
    """Return an entry for each built-in probe, sorted by name."""
    return tuple(_entry(load_probe_file(path)) for _, path in sorted(_builtin_files().items()))


def _entry(probe: Probe) -> CatalogueEntry:
    first_line = probe.description.strip().partition("\n")[0]
    return CatalogueEntry(probe.name, len(probe.samples), probe.categories(), probe.description, first_line)


def _builtin_files() -> dict[str, Path]:
    return {path.stem: path for path in _BUILTIN_DIR.iterdir() if path.suffix in FILE_SUFFIXES}
