"""A hundred thousand tasks: how long a person waits for `submit`, `resume` and `status`, and what Redis holds.

Every command is timed as a process of its own, start of the interpreter included, on a real Redis with a coordinator and
no worker. The model is tiny and nothing is measured; before `resume` half of the tasks get made-up rows, in as many
parts as they would have, joined now and then as a coordinator does. Then fifty runs of two thousand tasks each are
submitted to the same farm.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from options import Options
from questions import write_probe
from random_model import write_model
from results import Measured

_LAYERS = 40
_PATIENCE_SECONDS = 300.0


def run(options: Options) -> Measured:
    """Measure one large run, then fifty at once."""
    from neuroscan_farm.dispatch.redis_server import RedisServer

    tasks, runs = (10_000, 10) if options.quick else (100_000, 50)
    folder = options.work / "scale"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = write_model(options.work, family="llama", hidden=64, layers=_LAYERS)
    probe = write_probe(options.work / "probes", "mixed", 16)
    with RedisServer() as server:
        farm = _Farm(server.url, folder)
        coordinator = farm.start("coordinator")
        try:
            key = f"scale/{tasks}-tasks"
            options.say(key)
            yield key, _one_run(farm, folder, model, probe, tasks, options)
            key = f"scale/{runs}-runs"
            options.say(key)
            yield key, _many_runs(farm, folder, model, probe, runs, options)
        finally:
            coordinator.terminate()
            coordinator.wait(60)


class _Farm:
    """A farm's command line and its Redis."""

    def __init__(self, url: str, folder: Path) -> None:
        from neuroscan_farm.dispatch.broker import Broker

        self._environment = os.environ | {"NEUROSCAN_BROKER_URL": url, "NEUROSCAN_RUNS_DIR": str(folder)}
        self.broker = Broker(url)
        self._url = url

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "neuroscan_farm", *arguments], env=self._environment, stderr=sys.stderr
        )

    def seconds(self, *arguments: str) -> float:
        """Run a command and return how long it took."""
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "neuroscan_farm", *arguments],
            env=self._environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return round(time.monotonic() - started, 2)

    def seconds_until(self, run_ids: set[str]) -> float:
        """Wait until each of these runs has orders in the queue, and return how long that took."""
        started = time.monotonic()
        while not run_ids <= self.broker.queued().keys():
            if time.monotonic() - started > _PATIENCE_SECONDS:
                raise RuntimeError("no orders were sent")
            time.sleep(0.02)
        return round(time.monotonic() - started, 2)

    def redis_mb(self) -> dict[str, float]:
        """What Redis holds now, and the most it has held."""
        import redis

        from neuroscan_farm.dispatch.broker_url import client_url

        client: Any = redis.Redis.from_url(client_url(self._url))
        memory = client.info("memory")
        client.close()
        return {
            "redis_mb": round(memory["used_memory"] / 1e6, 1),
            "redis_peak_mb": round(memory["used_memory_peak"] / 1e6, 1),
        }


def _one_run(
    farm: _Farm, folder: Path, model: Path, probe: Path, tasks: int, options: Options
) -> dict[str, Any]:
    from neuroscan_farm.store.run_directory import RunDirectory

    request = _request(folder / "large.json", model, probe, _pairs_of_blocks(tasks - 1))
    root = folder / "large"
    found: dict[str, Any] = {"tasks": tasks, "layers": _LAYERS}
    found["submit_seconds"] = farm.seconds("submit", "-c", str(request), "-o", str(root))
    run = RunDirectory.open(root)
    found["first_order_after_submit_seconds"] = farm.seconds_until({run.manifest.run_id})
    found["status_seconds"] = farm.seconds("status", str(root), "--json")
    options.say(f"  {found}")
    farm.seconds("cancel", str(root))
    started = time.monotonic()
    while run.manifest.run_id in farm.broker.runs() and time.monotonic() - started < _PATIENCE_SECONDS:
        time.sleep(0.05)
    found["parts"] = _make_up_half(run)
    found["resume_seconds"] = farm.seconds("resume", str(root))
    found["first_order_after_resume_seconds"] = farm.seconds_until({run.manifest.run_id})
    found["status_half_done_seconds"] = farm.seconds("status", str(root), "--json")
    options.say(f"  {found}")
    farm.seconds("compact", str(root))
    found["status_compacted_seconds"] = farm.seconds("status", str(root), "--json")
    farm.seconds("cancel", str(root))
    return found | farm.redis_mb()


def _many_runs(
    farm: _Farm, folder: Path, model: Path, probe: Path, runs: int, options: Options
) -> dict[str, Any]:
    from neuroscan_farm.dispatch.celery_queue import submit
    from neuroscan_farm.store.run_directory import RunDirectory

    roots = [folder / f"run-{number}" for number in range(runs)]
    submits = []
    for number, root in enumerate(roots):
        request = _request(
            folder / f"{number}.json", model, probe, _pairs_of_blocks(2000, first=2000 * number)
        )
        submits.append(farm.seconds("submit", "-c", str(request), "-o", str(root)))
        if number % 10 == 9:
            options.say(f"  {number + 1} runs")
    opened = [RunDirectory.open(root) for root in roots]
    ids = {run.manifest.run_id for run in opened}
    waited = farm.seconds_until(ids)
    started = time.monotonic()
    for run in opened:  # again, which is harmless
        submit(run, farm.broker)
    again = round(time.monotonic() - started, 2)
    return {
        "runs": runs,
        "tasks_each": 2000,
        "submit_seconds_median": sorted(submits)[runs // 2],
        "all_have_orders_after_seconds": waited,
        "register_all_again_seconds": again,
        "ls_seconds": farm.seconds("ls", "--json"),
    } | farm.redis_mb()


def _pairs_of_blocks(count: int, *, first: int = 0) -> list[str]:
    spans = [(i, j) for i in range(_LAYERS) for j in range(i + 1, _LAYERS + 1)]
    pairs: Iterator[str] = (
        f"{a[0]},{a[1]};{b[0]},{b[1]}" for a, b in itertools.combinations(spans, 2) if a[1] <= b[0]
    )
    return list(itertools.islice(pairs, first, first + count))


def _request(path: Path, model: Path, probe: Path, blocks: list[str]) -> Path:
    request = {
        "analysis": "duplication",
        "model": str(model),
        "probes": [str(probe)],
        "parameters": {"blocks": blocks},
    }
    path.write_text(json.dumps(request), encoding="utf-8")  # which is YAML too
    return path


def _make_up_half(run: Any) -> int:
    """Give every other shard a part with made-up rows; return how many."""
    from neuroscan_farm.coordinator.decide import LOOSE_PARTS
    from neuroscan_farm.domain.measurements import Measurement, Outcome, Score
    from neuroscan_farm.store.parts import ShardTiming
    from neuroscan_farm.store.schema import Provenance, measurement_table

    score = Score(4.5, 1.25, 0.9, 2.0, "7", (0.1,) * 10, 0.5, -1.0, True)
    samples = [(probe.name, sample.sample_id) for probe in run.probes() for sample in probe.samples]
    half = run.shards()[::2]
    for shard in half:
        rows = [
            Measurement(task.task_id, probe, sample, Outcome.OK, None, score, 0.01)
            for task in shard.tasks
            for probe, sample in samples
        ]
        made = Provenance(
            run_id=run.manifest.run_id,
            shard_id=shard.shard_id,
            analysis=run.manifest.analysis,
            depth=run.manifest.depth,
            attempt=1,
            worker="made-up",
            device="cpu",
            backend="transformers",
            dtype="float32",
            residual_dtype="float32",
            attention="sdpa",
            lane="general",
            placement="cpu",
            engine_version=run.manifest.engine_version,
            scoring_version=run.manifest.scoring_version,
        )
        evaluations = sum(task.path.evaluations() for task in shard.tasks)
        # As slow as a shard should be, so that nothing is cut anew.
        timing = ShardTiming(
            shard.shard_id, "made-up", "cpu", 1, time.time(), 90.0, len(shard.tasks), evaluations
        )
        run.parts.write(shard.shard_id, measurement_table(rows, shard.tasks, made), timing)
        if run.parts.look().loose >= LOOSE_PARTS:  # as the coordinator does
            run.parts.compact()
    return len(half)
