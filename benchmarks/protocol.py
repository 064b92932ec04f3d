"""How the benchmark talks to its contenders: each is a child process that loads once and then works when it is told.

A line of JSON goes in at stdin, a line of JSON comes out; whatever else a contender prints goes to stderr, which is
kept in a file. While one contender works, the others sit in a blocking read: they cost nothing. Standard library
alone, because the peers' environment has nothing of ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

Answer = dict[str, Any]


class ContenderFailed(Exception):
    """A contender could not do what it was told; the message holds its own error."""


class Contender:
    """A contender's process, seen from the benchmark."""

    def __init__(self, name: str, command: Sequence[str], *, log: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                text=True,
            )

    @property
    def pid(self) -> int:
        """The process id, for looking at its memory from outside."""
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> Answer:
        """Have the contender do something and return its answer.

        Raises:
            ContenderFailed: it raised, or died.
        """
        self.tell(do, **arguments)
        return self.hear()

    def tell(self, do: str, **arguments: Any) -> None:
        """Have the contender begin; `hear` waits for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._failed("is gone")

    def hear(self) -> Answer:
        """Return the answer to what was told last."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._failed("died")
        answer: Answer = json.loads(line)
        if "error" in answer:
            self._failed(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Contender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failed(self, what: str) -> None:
        tail = "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise ContenderFailed(f"{self.name} {what}\n{tail}")


def serve(handlers: dict[str, Callable[..., Answer | None]]) -> None:
    """Answer the benchmark until it closes the pipe; called in the contender's process, when it has imported all.

    Every contender also answers "ready", so that nobody is measured while others still import.
    """
    handlers = {"ready": lambda: None, **handlers}
    # Progress bars and reports go to stderr, so that stdout carries answers alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        message = json.loads(line)
        try:
            answer = handlers[message.pop("do")](**message) or {}
        except Exception:  # handed to the benchmark, which says whose it is
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def timed(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Do some work and return what it took, wall-clock seconds and this process' processor seconds, and its result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    spent = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    return spent, result
