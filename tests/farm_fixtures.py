"""A real Redis, a farm's broker with impatient timings, and workers in processes of their own."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pytest

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import start_workers
from neuroscan_farm.dispatch.farm_records import Ended, RunEntry, Running, Timings
from neuroscan_farm.dispatch.redis_server import RedisServer
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.store.run_directory import RunDirectory
from neuroscan_farm.store.schema import CIRCUMSTANCES

IMPATIENT = Timings(
    storage_pause=2.0, claim_ttl=3.0, beat=0.5, presence_ttl=3.0, lost_after=1.5, lease_ttl=2.0, reconcile=0.1
)

_T = TypeVar("_T")
StartWorker = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis server for the whole session."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[Broker]:
    """A farm of this test's own on the session's Redis."""
    broker = Broker(redis_server.url, queue=f"q-{uuid.uuid4().hex[:8]}", timings=IMPATIENT)
    yield broker
    broker.close()


@pytest.fixture
def start_worker(broker: Broker, own_settings: Path) -> Iterator[StartWorker]:
    """Return a function that starts a worker of the farm; what still runs at the end is stopped."""
    started: list[subprocess.Popen[bytes]] = []
    numbers = itertools.count(1)

    def start(*options: str, url: str | None = None, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "workers", "--queue", broker.queue, "--threads", "1"]
        command += ["--name", f"w{next(numbers)}", "--cache-dir", str(own_settings / "cache")]
        for field in dataclasses.fields(Timings):
            value = getattr(broker.timings, field.name)
            command += [f"--{field.name.replace('_', '-')}-seconds", str(value)]
        prefix = ["env", *(f"{name}={value}" for name, value in environment.items())] if environment else []
        started.append(start_workers([*prefix, *command, *options], url or broker.url))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def long_probe(tmp_path: Path) -> Path:
    """A probe that keeps the tiny model busy for a good while, so that faults hit the middle of a shard."""
    samples = [{"prompt": f"{a}+{b}=", "answer": str((a + b) % 10)} for a in range(50) for b in range(4)]
    path = tmp_path / "long.json"
    path.write_text(json.dumps({"name": "long", "samples": samples}))
    return path


@pytest.fixture
def long_run(make_run: Callable[..., RunDirectory], long_probe: Path) -> RunDirectory:
    """A farm's run of three shards of seven tasks in all, each task long enough to be hit."""
    return make_run("long", executor="celery", **long_request(long_probe))


def long_request(probe: Path) -> dict[str, Any]:
    """What the long run asks for."""
    return {
        "probes": [str(probe)],
        "parameters": {"max_block": 1},
        "engine": {"batch_size": 4, "lane": "general"},
        "shard_size": 3,
    }


def wait_for(look: Callable[[], _T], what: str, *, seconds: float = 120.0) -> _T:
    """Return the first true answer of `look`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def entry_of(run: RunDirectory) -> RunEntry:
    """A run as `submit` registers it."""
    return RunEntry(run.location, run.manifest.model_fingerprint, run.manifest.model_name)


def order_of(run: RunDirectory, number: int = 0, **changes: Any) -> ShardOrder:
    """An order for a shard of a run."""
    fields: dict[str, Any] = {
        "run_id": run.manifest.run_id,
        "location": run.location,
        "shard_id": run.shards()[number].shard_id,
        "attempt": 1,
        "model": run.manifest.model_fingerprint,
        "priority": 5,
        "limit_seconds": 600.0,
    }
    return ShardOrder(**{**fields, **changes})


def at_work(broker: Broker, run: RunDirectory, worker: str | None = None) -> Running:
    """Wait until a worker is in the middle of a shard, and return its record."""

    def look() -> Running | None:
        for record in broker.running(run.manifest.run_id):
            if record.task_id is not None and (worker is None or record.worker == worker):
                return record
        return None

    record = wait_for(look, "a worker in the middle of a shard")
    assert record is not None
    return record


def ended(broker: Broker, run: RunDirectory) -> Ended:
    """Wait until a run has left the farm, and return how it ended."""
    result = wait_for(lambda: broker.ended(run.manifest.run_id), "the end of the run")
    assert result is not None
    return result


def lasting(run: RunDirectory) -> pd.DataFrame:
    """The run's rows without what says when and where they were made, in a fixed order."""
    frame = run.parts.read().drop_columns(list(CIRCUMSTANCES)).to_pandas()
    return frame.sort_values(["task_id", "probe", "sample_id"]).reset_index(drop=True)
