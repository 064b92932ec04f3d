"""The farm as a contender: runs handed to warm workers by the local executor, or by Celery on a Redis of its own.

Before the first round a run like the timed one is carried out, so that every worker has its model loaded and gated.
Timed is what `neuroscan-farm run` does between preparing the run and writing its report: the driver, the pipes or the
broker, the shards, until the last part is on disk.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from protocol import Answer, serve, timed
from requests_of_bench import fresh_run, plan_of

from neuroscan_farm.coordinator.drive import drive
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import start_workers, submit
from neuroscan_farm.dispatch.devices import DeviceSet
from neuroscan_farm.dispatch.local import LocalExecutor
from neuroscan_farm.dispatch.redis_server import RedisServer

_PATIENCE_SECONDS = 600.0


class Farm:
    """Workers that stay warm between rounds, and the plan that they carry out."""

    def load(
        self,
        *,
        work: str,
        model: str,
        probe: str,
        parameters: dict[str, Any],
        workers: int,
        threads: int,
        celery: bool = False,
        lane: str = "",
        shard_size: int | None = None,
    ) -> Answer:
        """Start `workers` workers of `threads` threads each and have each one load the model."""
        self._folder = Path(work)
        self._plan = plan_of(
            model,
            probe,
            parameters=parameters,
            engine={"lane": lane} if lane else {},
            shard_size=shard_size,
        )
        self._cache = self._folder / "cache"
        self._workers = workers
        if celery:
            self._start_celery(threads)
        else:
            sets = [DeviceSet(None, (), threads)] * workers
            self._executor = LocalExecutor(sets, cache_dir=self._cache, cache_bytes=20 * 10**9)
        self._celery = celery
        self.round()
        return {"shards": len(self._plan.shards)}

    def round(self) -> Answer:
        """Carry out the run once and return the seconds."""
        run = fresh_run(self._plan, self._folder / "run", self._cache)
        tasks = sum(len(shard.tasks) for shard in self._plan.shards)

        def by_broker() -> None:
            submit(run, self._broker)
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while len(run.parts.look().done) < tasks:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError("the farm's workers did not finish the run")
                time.sleep(0.01)

        spent, _ = timed(by_broker if self._celery else lambda: drive(run, self._executor))
        if self._celery:
            self._wait_until_ended(run.manifest.run_id)
        return {"seconds": spent["seconds"]}  # the processor time is the workers'

    def _start_celery(self, threads: int) -> None:
        self._server = RedisServer()
        self._server.start()
        self._broker = Broker(self._server.url, queue="benchmark")
        command = [sys.executable, "-m", "workers", "--queue", "benchmark", "--threads", str(threads)]
        command += ["--name", "benchmark", "--cache-dir", str(self._cache), "--workers", str(self._workers)]
        self._process: subprocess.Popen[bytes] = start_workers(command, self._server.url)

    def _wait_until_ended(self, run_id: str) -> None:
        """Wait until the farm has written the run off, so that the next round's, of the same id, is a new one."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while run_id in self._broker.runs() and time.monotonic() < deadline:
            time.sleep(0.05)

    def close(self) -> None:
        """End workers and broker."""
        if getattr(self, "_process", None) is not None:
            self._process.terminate()
            self._process.wait(timeout=60)
            self._server.stop()
        if getattr(self, "_executor", None) is not None:
            self._executor.close()


if __name__ == "__main__":
    farm = Farm()
    try:
        serve({"load": farm.load, "round": farm.round})
    finally:
        farm.close()
