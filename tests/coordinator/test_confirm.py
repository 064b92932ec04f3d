"""The locked split in a run: refused where it is too small, and kept out of the choice of later stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroscan_farm.coordinator.drive import Driver
from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.dispatch.base import Event
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.domain.measurements import Measurement, Outcome, Score
from neuroscan_farm.domain.paths import Block
from neuroscan_farm.errors import RequestError, RunError
from neuroscan_farm.statistics.confirm_split import held_out_samples
from neuroscan_farm.store.run_directory import RunDirectory
from neuroscan_farm.store.schema import Provenance, measurement_table
from tests.paper_models import paper_model, paper_plan, paper_probe, paper_timing

LUCKY, REAL = Block(0, 1), Block(4, 5)
PROVENANCE = {
    "attempt": 1,
    "worker": "w",
    "device": "cpu",
    "backend": "transformers",
    "dtype": "float32",
    "residual_dtype": "float32",
    "attention": "sdpa",
    "lane": "general",
    "placement": "cpu",
}


class Measures:
    """A dispatcher that measures at once: one block helps much on the samples held out, another everywhere a little."""

    def __init__(self, run: RunDirectory, held: frozenset[str]) -> None:
        self.run = run
        self.held = held

    def room(self) -> int:
        return 1

    def in_flight(self) -> frozenset[str]:
        return frozenset()

    def send(self, order: ShardOrder) -> None:
        shard = self.run.shard(order.shard_id)
        assert shard is not None
        rows = []
        for task in shard.tasks:
            for probe in self.run.probes():
                for sample in probe.samples:
                    lucky = task.block == LUCKY and sample.sample_id in self.held
                    gain = 9.0 if lucky else 1.0 if task.block == REAL else 0.0
                    score = Score(4.5, 1.25, 0.9, 2.0, "7", (0.1,) * 10, gain, -1.0, True)
                    rows.append(
                        Measurement(task.task_id, probe.name, sample.sample_id, Outcome.OK, None, score, 0.01)
                    )
        manifest = self.run.manifest
        provenance = Provenance(
            run_id=manifest.run_id,
            shard_id=shard.shard_id,
            analysis=manifest.analysis,
            depth=manifest.depth,
            engine_version=manifest.engine_version,
            scoring_version=manifest.scoring_version,
            **PROVENANCE,  # type: ignore[arg-type]
        )
        self.run.parts.write(
            shard.shard_id, measurement_table(rows, shard.tasks, provenance), paper_timing(shard)
        )

    def poll(self, timeout_seconds: float) -> list[Event]:
        return []

    def close(self) -> None:
        pass


def refined(model: Path, probe: Path, place: Path, **changes: object) -> set[Block | None]:
    parameters = {"sparse_first": True, "sparse_step": 4, "refine_top": 1}
    plan = paper_plan(model, probe, parameters=parameters, **changes)
    run = prepare(plan, place, executor="local")
    held = held_out_samples(run.probes(), 0.5)["sums"]
    driver = Driver(run, Measures(run, held))
    for _ in range(60):
        end, _ = driver.step(0.0)
        if end is not None:
            break
    assert run.plan_complete()
    return {task.block for shard in run.shards() for task in shard.tasks if task.stage == 1}


def test_a_later_stage_is_chosen_without_the_samples_held_out(tmp_path: Path) -> None:
    model = paper_model(tmp_path / "deep", num_hidden_layers=8)
    probe = paper_probe(tmp_path / "sums.json", samples=16)
    locked = refined(model, probe, tmp_path / "locked", confirm=0.5)
    open_to_all = refined(model, probe, tmp_path / "open")
    assert Block(5, 6) in locked
    assert Block(0, 2) not in locked
    assert Block(0, 2) in open_to_all


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_split_that_is_too_small_is_refused_before_anything_is_written(
    model: Path, tmp_path: Path, share: float
) -> None:
    probe = paper_probe(tmp_path / "few.json", samples=20)
    with pytest.raises(RequestError, match=r"of the 20 samples of probe sums .*use --confirm 0\.38 to 0\.62"):
        paper_plan(model, probe, confirm=share)


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.5])
def test_a_share_that_is_none_is_refused_at_the_door(model: Path, tmp_path: Path, share: float) -> None:
    with pytest.raises(RequestError, match="confirm is"):
        paper_plan(model, paper_probe(tmp_path / "few.json", samples=20), confirm=share)


def test_the_split_is_part_of_the_request(model: Path, tmp_path: Path) -> None:
    probe = paper_probe(tmp_path / "some.json", samples=20)
    prepare(paper_plan(model, probe, confirm=0.5), tmp_path / "run", executor="local")
    with pytest.raises(RunError, match=r"its confirm is 0\.5, not None"):
        prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
