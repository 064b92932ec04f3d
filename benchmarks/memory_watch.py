"""A process' memory, watched from outside: what the kernel says of it in /proc."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

_EVERY_SECONDS = 0.02


class MemoryWatch:
    """Looks at a process' resident memory many times a second until it is left.

    `peak_mb` is the kernel's own high-water mark (VmHWM), which no sample misses; `anonymous_mb` is the largest sample of
    what the process has allocated itself, without pages of files that the kernel may drop at will.
    """

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_mb = 0.0
        self.anonymous_mb = 0.0

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def look(self) -> None:
        """Look once."""
        try:
            lines = self._status.read_text(encoding="utf-8").splitlines()
        except OSError:  # it has ended, or this is no Linux
            return
        fields = dict(line.split(":", 1) for line in lines if line.endswith("kB"))
        self.peak_mb = max(self.peak_mb, _megabytes(fields["VmHWM"]))
        self.anonymous_mb = max(self.anonymous_mb, _megabytes(fields["RssAnon"]))

    def _watch(self) -> None:
        while not self._done.is_set():
            self.look()
            self._done.wait(_EVERY_SECONDS)
        self.look()


def _megabytes(text: str) -> float:
    return int(text.split()[0]) * 1024 / 1e6
