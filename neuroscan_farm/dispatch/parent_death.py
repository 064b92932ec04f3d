"""Processes that do not outlive their parent: Linux is asked to signal them when it dies (PR_SET_PDEATHSIG)."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def dying_with_parent(signum: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """Return a `preexec_fn` with which Linux sends `signum` to a child when its parent's thread ends."""
    # The library is loaded before the fork, where loading is no longer safe.
    return functools.partial(_ask, ctypes.CDLL(None, use_errno=True), signum, os.getpid())


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies; where it cannot, the end of the pipe does later."""
    _ask(ctypes.CDLL(None, use_errno=True), signal.SIGKILL, os.getppid())


def _ask(libc: ctypes.CDLL, signum: signal.Signals, parent: int) -> None:
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
        if os.getppid() != parent:  # it died before we could ask
            os._exit(1)
