"""neuroscan-farm as a contender: real shards of a real run directory, executed in this process as a worker does it.

Timed is `execute_shard` for every shard of the plan: baseline boundaries, paths, scoring, and the part on disk.
Outside are what the others have outside too: importing, loading, and, before the first round, the gate. Every round
gets a new run directory and an empty cache of boundaries, so that nothing is left from the round before.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_watch import MemoryWatch
from protocol import Answer, serve, timed

if TYPE_CHECKING:
    from neuroscan_farm.store.run_directory import RunDirectory


class Ours:
    """A warm model and the plan that is carried out again each round."""

    def load(
        self,
        *,
        work: str,
        model: str,
        probe: str,
        threads: int,
        parameters: dict[str, Any],
        lane: str = "",
        stream: bool = False,
        memory_limit_mb: int | None = None,
        shard_size: int | None = None,
    ) -> Answer:
        """Plan the run, load the model and pass the gate."""
        from requests_of_bench import plan_of

        from neuroscan_farm.engine.warm import WarmModel

        before = _peak_mb()
        self._folder = Path(work)
        engine = {"lane": lane} if lane else {}
        self._plan = plan_of(model, probe, parameters=parameters, engine=engine, shard_size=shard_size)
        wanted = {"stream": stream, "memory_limit_mb": memory_limit_mb} if stream else {}
        if not set(wanted) <= set(inspect.signature(WarmModel.__init__).parameters):
            return {"absent": "WarmModel has no stream and memory_limit_mb"}
        self._warm = WarmModel(
            threads=threads, cache_dir=self._folder / "cache", cache_bytes=20 * 10**9, **wanted
        )
        run = self._fresh()
        _, batches = self._warm.ready_for(run)
        self.round()  # whatever is learned, allocated or read from disk at the first time is not timed
        return {
            "tasks": sum(len(shard.tasks) for shard in run.shards()),
            "shards": len(run.shards()),
            "lengths": [batch.token_ids.shape[1] for batch in batches for _ in batch.samples],
            "mb_before_loading": before,
        }

    def round(self) -> Answer:
        """Carry out the run once and return the seconds."""
        from neuroscan_farm.engine.shard import execute_shard

        run = self._fresh()
        self._warm.ready_for(run)
        shards = [shard.shard_id for shard in run.shards()]

        def work() -> None:
            for shard_id in shards:
                execute_shard(run, shard_id, 1, worker="benchmark", warm=self._warm)

        spent, _ = timed(work)
        self._run = run
        return dict(spent)

    def rows(self) -> Answer:
        """Return what the last round measured: by path, then in the probe's order of samples."""
        scores = ["expected_score", "coverage", "answer_probabilities"]
        table = self._run.parts.read(["path", "probe", "sample_id", "outcome", *scores]).to_pylist()
        order = {s.sample_id: k for probe in self._run.probes() for k, s in enumerate(probe.samples)}
        found: dict[str, list[Any]] = {}
        for row in table:
            if row["outcome"] != "ok":
                raise RuntimeError(f"path {row['path']}, sample {row['sample_id']}: {row['outcome']}")
            of_path = found.setdefault(",".join(map(str, row["path"])), [None] * len(order))
            of_path[order[row["sample_id"]]] = {name: row[name] for name in scores}
        return {"rows": found}

    def _fresh(self) -> RunDirectory:
        from requests_of_bench import fresh_run

        return fresh_run(self._plan, self._folder / "run", self._folder / "cache")


def _peak_mb() -> float:
    # Not getrusage: what the parent had resident when this process began would be in its high-water mark.
    watch = MemoryWatch(os.getpid())
    watch.look()
    return watch.peak_mb


def _begin() -> None:
    """Pin the process as a worker's child does, and import what it imports."""
    from neuroscan_farm.dispatch.devices import DeviceSet, pin

    pin(DeviceSet(None, (), int(os.environ["OMP_NUM_THREADS"])))
    import requests_of_bench  # noqa: F401

    import neuroscan_farm.engine.shard  # noqa: F401


if __name__ == "__main__":
    _begin()
    ours = Ours()
    serve({"load": ours.load, "round": ours.round, "rows": ours.rows})
