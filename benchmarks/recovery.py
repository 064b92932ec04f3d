"""How long a shard stands still when its worker is killed (SIGKILL), at the settings that everybody has.

On a farm: two workers, nobody starts the killed one again; until the other one has claimed the shard. Locally: until the
executor has noticed the death and handed the shard out again, and until it is being measured again, by a fresh process
that has loaded the model.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from options import Options
from questions import write_probe
from random_model import write_model
from requests_of_bench import fresh_run, plan_of
from results import Measured

_PATIENCE_SECONDS = 180.0


def run(options: Options) -> Measured:
    """Kill, and wait."""
    model = write_model(options.work, family="llama", hidden=512, layers=24)
    probe = write_probe(options.work / "probes", "mixed", 16)
    folder = options.work / "recovery"
    rounds = options.rounds or (1 if options.quick else 5)
    options.say("recovery/farm")
    farm = [_farm(folder / "farm", model, probe) for _ in range(rounds)]
    yield "recovery/farm", {"rounds": rounds, "seconds": farm, "median_seconds": statistics.median(farm)}
    options.say("recovery/local")
    local = [_local(folder / "local", model, probe) for _ in range(rounds)]
    yield (
        "recovery/local",
        {
            "rounds": rounds,
            "handed_out_again_seconds": [round(handed, 3) for handed, _ in local],
            "measured_again_seconds": [round(measured, 2) for _, measured in local],
            "median_seconds": statistics.median(handed for handed, _ in local),
        },
    )


def _farm(folder: Path, model: Path, probe: Path) -> float:
    from neuroscan_farm.dispatch.broker import Broker
    from neuroscan_farm.dispatch.celery_queue import submit
    from neuroscan_farm.dispatch.redis_server import RedisServer

    made = fresh_run(_plan(model, probe), folder / "run", folder / "cache")
    run_id = made.manifest.run_id
    with RedisServer() as server:
        broker = Broker(server.url)
        workers = {
            name: subprocess.Popen(
                [sys.executable, "-m", "workers", "--name", name, "--threads", "1"],
                env=os.environ
                | {"NEUROSCAN_BROKER_URL": server.url, "NEUROSCAN_CACHE_DIR": str(folder / "cache")},
                stderr=subprocess.DEVNULL,
            )
            for name in ("one", "other")
        }
        try:
            submit(made, broker)
            # Both at work, so that the survivor is warm: loading is the model's matter and not the farm's.
            _until(lambda: sum(record.task_id is not None for record in broker.running(run_id)) == 2)
            hit = next(record for record in broker.running(run_id) if record.worker == "one")
            workers["one"].kill()
            killed = time.monotonic()
            _until(
                lambda: (
                    any(
                        record.shard_id == hit.shard_id and record.worker == "other"
                        for record in broker.running(run_id)
                    )
                    or made.parts.path(hit.shard_id).exists()
                )
            )
            return round(time.monotonic() - killed, 1)
        finally:
            made.set_wanted("cancelled")
            for process in workers.values():
                process.kill()
                process.wait()
            broker.close()


def _local(folder: Path, model: Path, probe: Path) -> tuple[float, float]:
    from neuroscan_farm.coordinator.drive import Driver
    from neuroscan_farm.dispatch.base import TaskStarted, WorkerDied
    from neuroscan_farm.dispatch.devices import DeviceSet
    from neuroscan_farm.dispatch.local import LocalExecutor

    made = fresh_run(_plan(model, probe), folder / "run", folder / "cache")
    executor = LocalExecutor([DeviceSet(None, (), 1)] * 2, cache_dir=folder / "cache", cache_bytes=20 * 10**9)
    try:
        driver = Driver(made, executor)
        started: set[str] = set()

        def both() -> bool:
            started.update(e.worker for e in driver.step(0.05)[1] if isinstance(e, TaskStarted))
            return len(started) == 2

        _until(both)
        pid = executor.process_ids()["local-0"]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        _until(lambda: any(isinstance(e, WorkerDied) for e in driver.step(0.05)[1]))
        handed = time.monotonic() - killed
        _until(
            lambda: any(isinstance(e, TaskStarted) and e.worker == "local-0" for e in driver.step(0.05)[1])
        )
        return handed, time.monotonic() - killed
    finally:
        executor.close()


def _plan(model: Path, probe: Path) -> object:
    return plan_of(str(model), str(probe), parameters={"step": 2}, engine={"lane": "general"}, shard_size=16)


def _until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not look():
        if time.monotonic() > deadline:
            raise RuntimeError("it did not recover")
        time.sleep(0.02)
