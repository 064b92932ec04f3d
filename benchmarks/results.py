"""results.json: what was measured last, by section, with the circumstances of each measurement.

A section that is run alone replaces its own entries and leaves the others as they were.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
SCHEMA_VERSION = 1

# What a section yields: a key, such as "grid/qwen2-h256-l24-mixed", and what was found.
Measured = Iterator[tuple[str, dict[str, Any]]]


def read(path: Path = RESULTS) -> dict[str, Any]:
    """Return the results so far."""
    if not path.exists():
        return {"schema_version": SCHEMA_VERSION, "measurements": {}}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def merge(key: str, found: dict[str, Any], *, circumstances: dict[str, Any], path: Path = RESULTS) -> None:
    """Write one measurement beside those that are there; at once, so that a run that is stopped loses one at most."""
    content = read(path)
    content["measurements"][key] = {"circumstances": circumstances, **found}
    content["measurements"] = dict(sorted(content["measurements"].items()))
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


def circumstances(*, command: str, peers: dict[str, str] | None) -> dict[str, Any]:
    """Return where, when and with what this run measures."""
    ours = ("neuroscan-farm", "torch", "transformers", "numpy", "pyarrow")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "commit": _commit(),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "system": platform.system(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ours},
            **{f"peers' {name}": version for name, version in (peers or {}).items()},
        },
    }


def _commit() -> str:
    """The commit that was measured, with a + where the working tree differs from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
