"""`neuroscan-farm run` that is shot at: its own process, its children, its files; and given again each time it ended."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from neuroscan_farm.store.run_directory import RunDirectory
from tests.farm_fixtures import wait_for
from tests.faults.files_under_fire import FILES, kill


class RunUnderFire:
    """Keeps one `neuroscan-farm resume` going, and strikes it."""

    def __init__(self, run: RunDirectory, folder: Path, rng: random.Random) -> None:
        self.hands: Counter[str] = Counter()
        self._run = run
        self._rng = rng
        self._log = (folder / "run.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self._strikes: dict[str, Callable[[], bool]] = {
            "child killed": lambda: self._hit_child(signal.SIGKILL),
            "child frozen": self._freeze_child,
            "parent killed": lambda: self._hit(signal.SIGKILL),
            "parent and children killed": self._hit_all,
            "Ctrl-C": lambda: self._hit(signal.SIGINT),
            "Ctrl-C twice": lambda: self._hit(signal.SIGINT) and self._hit(signal.SIGINT),
            "told to end": lambda: self._hit(signal.SIGTERM),
            "paused and resumed": self._pause,
            **{fault.__name__.replace("_", " "): self._on_files(fault) for fault in FILES},
        }

    def __enter__(self) -> RunUnderFire:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def strike(self) -> str:
        """Do one random thing to it, and say which."""
        while True:
            name = self._rng.choice(sorted(self._strikes))
            self._start()
            if self._strikes[name]():
                return name
            time.sleep(0.1)

    def over(self) -> bool:
        """Whether the command has ended well: with every task done."""
        assert self._process is not None
        code = self._process.poll()
        if code in (0, 3):
            return True
        if code is not None and code > 0 and code not in (130, 143):
            self.hands[f"run again (exit code {code})"] += 1
        self._start()
        return False

    def again(self) -> None:
        """Run it once more."""
        self._process = None
        self._start()

    def finish(self) -> None:
        """Wait for the end."""

        def look() -> bool:
            time.sleep(0.2)
            return self.over()

        wait_for(look, "the end of the run", seconds=900)

    def _start(self) -> None:
        if self._process is not None and (self._process.poll() in (None, 0, 3)):
            return
        command = [sys.executable, "-m", "neuroscan_farm", "resume", str(self._run.root), "--workers", "2"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def _hit(self, signum: signal.Signals) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            return False
        time.sleep(0.05)
        return kill(self._process.pid, signum)

    def _children(self) -> list[int]:
        assert self._process is not None
        found = []
        for task in Path(f"/proc/{self._process.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(pid) for pid in task.read_text().split()]
        return found

    def _hit_child(self, signum: signal.Signals) -> bool:
        children = self._children()
        return bool(children) and kill(self._rng.choice(children), signum)

    def _hit_all(self) -> bool:
        children = self._children()
        for pid in children:
            kill(pid)
        return self._hit(signal.SIGKILL)

    def _freeze_child(self) -> bool:
        children = self._children()
        if not children:
            return False
        pid = self._rng.choice(children)
        if not kill(pid, signal.SIGSTOP):
            return False
        time.sleep(1.0)
        return kill(pid, signal.SIGCONT)

    def _pause(self) -> bool:
        self._run.set_wanted("paused")
        time.sleep(self._rng.uniform(0.2, 1.5))
        self._run.set_wanted("running")
        return True

    def _on_files(self, fault: Callable[[RunDirectory, random.Random], bool]) -> Callable[[], bool]:
        return lambda: fault(self._run, self._rng)
