"""What a run of the benchmark was asked for; every section reads the same options."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run; None or empty is the section's own choice."""

    work: Path  # models, run directories, logs
    peers: Path | None  # the peers' interpreter
    family: str
    threads: int
    quick: bool
    rounds: int | None = None
    step: int | None = None
    layers: int | None = None
    hidden: tuple[int, ...] = ()
    probes: tuple[str, ...] = ()

    def common(self) -> dict[str, Any]:
        """What every comparison is called with."""
        return {"work": self.work, "threads": self.threads, "peers": self.peers, "say": self.say}

    def say(self, text: str) -> None:
        """Tell the person at the terminal how far it is."""
        print(text, file=sys.stderr, flush=True)
