"""What `doctor` finds: one line for each thing it looked at, with the mend where something is wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    level: Level
    found: str  # one line
    mend: str = ""  # what to do about it; empty where nothing is wrong
    exit_code: int = 1  # of the program, where it failed: 1 this machine, 4 broker or workers, 5 settings

    def to_json_dict(self) -> dict[str, object]:
        """Return the check as plain data."""
        return asdict(self)

    def line(self) -> str:
        """The check as a person reads it."""
        return f"{self.level:<4}  {self.name:<14} {self.found}" + (f"; {self.mend}" if self.mend else "")


def ok(name: str, found: str) -> Check:
    """Nothing is wrong."""
    return Check(name, "ok", found)


def warn(name: str, found: str, mend: str) -> Check:
    """It works, or is not needed for everything, and could be better."""
    return Check(name, "warn", found, mend)


def fail(name: str, found: str, mend: str, *, exit_code: int = 1) -> Check:
    """It does not work."""
    return Check(name, "fail", found, mend, exit_code)


def exit_code_of(checks: list[Check]) -> int:
    """The program's exit code: of the first thing that failed, or 0."""
    return next((check.exit_code for check in checks if check.level == "fail"), 0)


def size(count: float) -> str:
    """A number of bytes, as a person reads it."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
