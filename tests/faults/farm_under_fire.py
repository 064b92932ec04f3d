"""A farm that is shot at: a broker, a coordinator, two workers, one of them behind a network of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from neuroscan_farm.coordinator.prepare import wake
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_url import client_url
from neuroscan_farm.dispatch.celery_queue import submit
from neuroscan_farm.dispatch.farm_records import Timings
from neuroscan_farm.dispatch.parent_death import dying_with_parent
from neuroscan_farm.dispatch.redis_server import RedisServer
from neuroscan_farm.errors import BrokerError
from neuroscan_farm.store.run_directory import RunDirectory
from tests.farm_fixtures import IMPATIENT, wait_for
from tests.faults.files_under_fire import FILES, kill
from tests.faults.network import Relay

_TTL = IMPATIENT.claim_ttl


class FarmUnderFire:
    """Starts a farm, strikes it, and keeps it staffed: what has ended is started again before the next strike."""

    def __init__(self, run: RunDirectory, folder: Path, rng: random.Random) -> None:
        self.hands: Counter[str] = Counter()
        self._run = run
        self._rng = rng
        self._folder = folder
        self._server = RedisServer(folder=folder / "redis").start()
        self._relay = Relay(self._server.socket)
        self._queue = f"q-{uuid.uuid4().hex[:8]}"
        self._broker = Broker(self._server.url, queue=self._queue, timings=IMPATIENT)
        self._posts: dict[str, tuple[list[str], str]] = {
            "coordinator": (["--coordinator"], self._server.url),
            "near": (["--name", "near"], self._server.url),
            "far": (["--name", "far"], self._relay.url),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log = (folder / "farm.log").open("ab")
        self._strikes: dict[str, Callable[[], bool]] = {
            "measuring process killed": lambda: self._hit_measuring(signal.SIGKILL),
            "worker killed": lambda: self._hit_post(("near", "far"), signal.SIGKILL),
            "worker told to leave": lambda: self._hit_post(("near", "far"), signal.SIGTERM),
            "coordinator killed": lambda: self._hit_post(("coordinator",), signal.SIGKILL),
            "second coordinator for a while": self._second_coordinator,
            "measuring process frozen": self._freeze_measuring,
            "worker frozen": self._freeze_worker,
            "broker wiped": self._wipe,
            "broker killed": self._kill_broker,
            "broker frozen": self._freeze_broker,
            "network cut": self._cut,
            "paused and resumed": lambda: self._change_mind("paused"),
            "cancelled and resumed": lambda: self._change_mind("cancelled"),
            **{fault.__name__.replace("_", " "): self._on_files(fault) for fault in FILES},
        }

    def __enter__(self) -> FarmUnderFire:
        submit(self._run, self._broker)
        self._staff()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._broker.close()
        self._relay.close()
        self._server.stop()
        self._log.close()

    def strike(self) -> str:
        """Do one random thing to the farm, and say which."""
        self._staff()
        while True:
            name = self._rng.choice(sorted(self._strikes))
            with contextlib.suppress(BrokerError):
                if self._strikes[name]():
                    return name
            time.sleep(0.1)

    def over(self) -> bool:
        """Whether the run has finished; one that ended otherwise is resumed, as a person would do."""
        try:
            ended = self._broker.ended(self._run.manifest.run_id)
            known = self._run.manifest.run_id in self._broker.runs()
        except BrokerError:
            return False
        if ended is not None and ended.state == "finished":
            return True
        if ended is not None and not known:
            self.hands[f"resume ({ended.state})"] += 1
            self.again()
        return False

    def again(self) -> None:
        """Resume the run."""
        wake(self._run, executor="celery")
        with contextlib.suppress(BrokerError):
            submit(self._run, self._broker)

    def finish(self) -> None:
        """Wait for the end."""

        def look() -> bool:
            self._staff()
            time.sleep(0.3)
            return self.over()

        wait_for(look, "the end of the run", seconds=900)

    def _staff(self) -> None:
        for post in self._posts:
            process = self._processes.get(post)
            if process is None or process.poll() is not None:
                self._processes[post] = self._start(post)

    def _start(self, post: str) -> subprocess.Popen[bytes]:
        options, url = self._posts[post]
        command = [sys.executable, "-m", "workers", "--queue", self._queue, "--threads", "1"]
        command += ["--cache-dir", str(self._folder / f"cache-{post}"), "--log-level", "WARNING"]
        for field in dataclasses.fields(Timings):
            value = getattr(IMPATIENT, field.name)
            command += [f"--{field.name.replace('_', '-')}-seconds", str(value)]
        return subprocess.Popen(
            [*command, *options],
            env={
                **os.environ,
                "NEUROSCAN_BROKER_URL": url,
                "NEUROSCAN_RUNS_DIR": str(self._run.root.parent),
            },
            stderr=self._log,
            preexec_fn=dying_with_parent(signal.SIGTERM),
            start_new_session=True,
        )

    def _hit_post(self, posts: tuple[str, ...], signum: signal.Signals) -> bool:
        return kill(self._processes[self._rng.choice(posts)].pid, signum)

    def _measuring(self) -> list[int]:
        return [record.pid for record in self._broker.running(self._run.manifest.run_id)]

    def _hit_measuring(self, signum: signal.Signals) -> bool:
        pids = self._measuring()
        return bool(pids) and kill(self._rng.choice(pids), signum)

    def _freeze_measuring(self) -> bool:
        pids = self._measuring()
        return bool(pids) and self._freeze(self._rng.choice(pids), self._rng.choice([0.5, 1.5]) * _TTL)

    def _freeze_worker(self) -> bool:
        post = self._rng.choice(["near", "far"])
        return self._freeze(self._processes[post].pid, self._rng.choice([0.5, 1.5]) * _TTL)

    def _freeze(self, pid: int, seconds: float) -> bool:
        if not kill(pid, signal.SIGSTOP):
            return False
        time.sleep(seconds)
        return kill(pid, signal.SIGCONT)

    def _second_coordinator(self) -> bool:
        process = self._start("coordinator")
        time.sleep(2.0)
        process.terminate()
        process.wait()
        return True

    def _wipe(self) -> bool:
        client: Any = redis.Redis.from_url(client_url(self._server.url))
        client.flushall()
        client.close()
        return True

    def _kill_broker(self) -> bool:
        kill(self._server.pid)
        self._server.stop()
        time.sleep(self._rng.uniform(0.0, 2.0))
        self._server.start()
        return True

    def _freeze_broker(self) -> bool:
        return self._freeze(self._server.pid, self._rng.uniform(1.0, 1.5 * _TTL))

    def _cut(self) -> bool:
        self._relay.cut()
        time.sleep(self._rng.uniform(0.5, 2.0) * _TTL)
        self._relay.heal()
        return True

    def _change_mind(self, wanted: str) -> bool:
        self._run.set_wanted(wanted)
        time.sleep(self._rng.uniform(0.2, 1.5))
        self.again()
        return True

    def _on_files(self, fault: Callable[[RunDirectory, random.Random], bool]) -> Callable[[], bool]:
        return lambda: fault(self._run, self._rng)
