"""Random faults on a real sweep, and the question that matters: is its table that of an undisturbed one?

    python -m tests.faults.chaos --faults 200 --tasks 3000 --seed 1          # a farm: broker, coordinator, workers
    python -m tests.faults.chaos --faults 200 --tasks 3000 --seed 1 --local  # `neuroscan-farm run`

`make chaos` runs both; the tests run a short one. What dies is started again, as systemd or Kubernetes would.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd

from neuroscan_farm.analyses import read_request
from neuroscan_farm.coordinator.prepare import forget_failures, make_plan, prepare
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.store.run_directory import RunDirectory
from tests.farm_fixtures import lasting
from tests.faults.farm_under_fire import FarmUnderFire
from tests.faults.run_under_fire import RunUnderFire

_PATIENCE = 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a chaos run came to."""

    tasks: int
    rows: int
    lost: int
    doubled: int
    different: int
    faults: dict[str, int]
    deaths: int  # on record
    shards_measured: int  # parts and pieces of parts, those that were joined among them
    hands: dict[
        str, int
    ]  # what a person had to do: resume a run that had stopped, retry what was quarantined
    seconds: float

    @property
    def unharmed(self) -> bool:
        """Whether the table is that of an undisturbed run."""
        return not (self.lost or self.doubled or self.different)


def request_of(folder: Path, *, tasks: int, samples: int, seed: int) -> dict[str, object]:
    """A request with so many random layer orders of a tiny model, slow enough to be hit in the middle."""
    from tests.tiny_models import make_tiny

    model = make_tiny("llama", folder / "model")
    probe = folder / "probe.json"
    asked = [{"prompt": f"{a}+{b}=", "answer": str((a + b) % 10)} for a in range(100) for b in range(10)]
    probe.write_text(json.dumps({"name": "long", "samples": asked[:samples]}))
    rng = random.Random(seed)
    paths: set[str] = set()
    while len(paths) < tasks - 1:  # the baseline is one more
        length = rng.randint(4, 10)
        paths.add(str(LayerPath(tuple(rng.randrange(6) for _ in range(length)))))
    return {
        "analysis": "duplication",
        "model": str(model),
        "probes": [str(probe)],
        "parameters": {"paths": sorted(paths)},
        "engine": {"batch_size": 4, "lane": "general"},
        "shard_size": 8,
    }


def undisturbed(request: dict[str, object], folder: Path) -> pd.DataFrame:
    """The table as one process measures it in peace."""
    from neuroscan_farm.engine.shard import execute_shard
    from neuroscan_farm.engine.warm import WarmModel

    run = prepare(make_plan(read_request(request, where="chaos")), folder / "undisturbed", executor="local")
    warm = WarmModel(threads=1, cache_dir=folder / "peace", cache_bytes=10**9)
    for shard in run.shards():
        execute_shard(run, shard.shard_id, 1, worker="peace", warm=warm)
    return lasting(run)


def chaos(
    folder: Path, *, tasks: int, samples: int, faults: int, seed: int, local: bool, pause: float
) -> Result:
    """Run a sweep under fire to its end and compare.

    Args:
        folder: where everything is kept.
        tasks: of the sweep.
        samples: of its probe.
        faults: how many.
        seed: of their choice.
        local: `neuroscan-farm run` in place of a farm.
        pause: seconds between two faults, on average.
    """
    request = request_of(folder, tasks=tasks, samples=samples, seed=seed)
    expected = undisturbed(request, folder)
    run = prepare(
        make_plan(read_request(request, where="chaos")),
        folder / "run",
        executor="local" if local else "celery",
    )
    rng = random.Random(seed)
    started = time.monotonic()
    done: Counter[str] = Counter()
    with (RunUnderFire if local else FarmUnderFire)(run, folder, rng) as scene:
        while sum(done.values()) < faults and not scene.over():
            _wait(run, rng.uniform(0.2, 1.8) * pause, for_work=rng.random() < 0.6)
            name = scene.strike()
            done[name] += 1
            progress = run.parts.look()
            print(f"{sum(done.values()):4} {name:28} {len(progress.done)} of {tasks} tasks", flush=True)
        scene.finish()
        if len(run.parts.look().done) < tasks:  # damaged after the end: nobody looks at a run that has ended
            scene.hands["resume (damaged after its end)"] += 1
            scene.again()
            scene.finish()
        if forget_failures(run):  # random kills may hit one innocent task three times
            scene.hands["retry --failed"] += 1
            scene.again()
            scene.finish()
        hands = dict(scene.hands)
    return _compare(run, expected, done, hands, time.monotonic() - started)


def _wait(run: RunDirectory, seconds: float, *, for_work: bool) -> None:
    """Wait for a while; or until something new is done, so that not every fault hits the loading of the model."""
    before, until = len(run.parts.look().done), time.monotonic() + _PATIENCE
    while for_work and len(run.parts.look().done) <= before and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(seconds)


def _compare(
    run: RunDirectory, expected: pd.DataFrame, faults: Counter[str], hands: dict[str, int], seconds: float
) -> Result:
    rows = lasting(run)
    keys = ["task_id", "probe", "sample_id"]
    doubled = int(rows.duplicated(keys).sum())
    there = set(map(tuple, rows[keys].to_numpy()))
    lost = sum(key not in there for key in map(tuple, expected[keys].to_numpy()))
    different = 0
    if not lost and not doubled:
        same = [
            one.equals(other)
            for (_, one), (_, other) in zip(rows.iterrows(), expected.iterrows(), strict=True)
        ]
        exact = (
            rows.to_parquet() == expected.to_parquet()
        )  # to the last bit, whatever `equals` thinks of floats
        different = same.count(False) or (0 if exact else len(rows))
    progress = run.parts.look()
    return Result(
        tasks=len(progress.done),
        rows=len(rows),
        lost=lost,
        doubled=doubled,
        different=different,
        faults=dict(sorted(faults.items())),
        deaths=sum(attempt.kind == "died" for attempt in run.attempts.all()),
        shards_measured=len(progress.timings),
        hands=hands,
        seconds=round(seconds, 1),
    )


def main() -> int:
    """Run from the shell; exit code 1 where the table is not that of an undisturbed run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--faults", type=int, default=200)
    add("--tasks", type=int, default=3000)
    add("--samples", type=int, default=100)
    add("--seed", type=int, default=1)
    add("--pause", type=float, default=0.8, help="seconds between two faults, on average")
    add("--local", action="store_true", help="the local executor in place of a farm")
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        result = chaos(Path(folder), **options)
    print(json.dumps(dataclasses.asdict(result), indent=1))
    return 0 if result.unharmed else 1


if __name__ == "__main__":
    sys.exit(main())
