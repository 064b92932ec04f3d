"""Several workers on one machine, each a process with its own devices; one that is killed is replaced."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neuroscan_farm.dispatch.parent_death import dying_with_parent

log = logging.getLogger(__name__)

_RESTART_SECONDS = 1.0  # a worker that dies again and again must not fill the machine


@dataclass(frozen=True, slots=True)
class Job:
    """One worker to keep alive: its command, and what its environment says in addition."""

    command: Sequence[str]
    environment: Mapping[str, str]


def keep_alive(jobs: Sequence[Job]) -> int:
    """Run workers until all have left; return the first exit code that is no success.

    A worker that was killed by a signal is started anew; one that ends by itself with an error ends all. The
    first SIGTERM or SIGINT is passed on, and every worker hands its shard back; so is the second, which is
    immediate.
    """
    asked: list[int] = []
    processes: dict[int, subprocess.Popen[bytes]] = {}

    def pass_on(signum: int, _: object) -> None:
        asked.append(signum)
        for process in processes.values():
            process.send_signal(signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, pass_on)
    for index, job in enumerate(jobs):
        processes[index] = _start(job)
    code = 0
    while processes:
        time.sleep(0.1)
        for index, process in list(processes.items()):
            ended = process.poll()
            if ended is None:
                continue
            if ended < 0 and not asked:
                log.warning("worker %d was killed by signal %d; another takes its place", process.pid, -ended)
                time.sleep(_RESTART_SECONDS)
                processes[index] = _start(jobs[index])
                continue
            del processes[index]
            code = code or (ended if ended >= 0 else 128 - ended)
            if ended > 0 and not asked:
                pass_on(signal.SIGTERM, None)
    return code


def _start(job: Job) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        job.command,
        env={**os.environ, **job.environment},
        preexec_fn=dying_with_parent(signal.SIGTERM),
        start_new_session=True,  # Ctrl-C comes once, through us
    )


def this_program() -> list[str]:
    """The command that runs this package again; -P keeps a user's folder named `workers` out of it."""
    return [sys.executable, "-P", "-m", "workers"]
