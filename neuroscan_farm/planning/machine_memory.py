"""How much memory this process has, and may still take: what the system and its control groups say."""

from __future__ import annotations

import re
from pathlib import Path

_MOST = 1 << 60  # what cgroup v1 shows where there is no limit


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return how much memory this process may still take: what is free, within its control groups' limits.

    None where the system does not say (it is not Linux).
    """
    free = _meminfo(root / "proc/meminfo")
    rooms = [] if free is None else [free]
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            rooms += _group_rooms(
                root / "sys/fs/cgroup", group, "memory.max", "memory.current", "inactive_file"
            )
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            rooms += _group_rooms(root / "sys/fs/cgroup/memory", group, *names)
    return max(min(rooms), 0) if rooms else None


def process_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process has now, or 0 where the system does not say."""
    found = re.search(r"^VmRSS:\s*(\d+) kB", _text(root / "proc/self/status"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _group_rooms(mount: Path, group: str, limit: str, used: str, reclaimable: str) -> list[int]:
    """Return the room in a control group and in those around it; a container may see its own as the root."""
    parts = [part for part in group.split("/") if part]
    rooms = []
    for length in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:length])
        most, now = _number(folder / limit), _number(folder / used)
        if most is None or most >= _MOST:
            continue
        # Files that were read count as used, and go when memory is needed.
        cached = re.search(rf"^{reclaimable} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
        rooms.append(most - max((now or 0) - (int(cached[1]) if cached else 0), 0))
    return rooms


def _meminfo(path: Path) -> int | None:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(path), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
