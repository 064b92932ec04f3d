"""The stages of circuits on a real run directory: pairs follow the single layers, and similarity must be there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuroscan_farm.coordinator.decide import Stop
from neuroscan_farm.coordinator.drive import Driver
from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.dispatch.base import Event
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.errors import RunError
from neuroscan_farm.store.run_directory import RunDirectory
from tests.paper_models import finish, paper_model, paper_plan, paper_probe

EYE = [[float(a == b) for b in range(6)] for a in range(6)]


class AtOnce:
    """A dispatcher whose shards are finished when they are sent; the later layers matter more."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    def room(self) -> int:
        return 1

    def in_flight(self) -> frozenset[str]:
        return frozenset()

    def send(self, order: ShardOrder) -> None:
        shard = self.run.shard(order.shard_id)
        assert shard is not None
        finish(self.run, [shard], log_odds=-float(sum(sum(task.path.skipped(6)) for task in shard.tasks)))

    def poll(self, timeout_seconds: float) -> list[Event]:
        return []

    def close(self) -> None:
        pass


def run_of(tmp_path: Path, **parameters: Any) -> RunDirectory:
    plan = paper_plan(
        paper_model(tmp_path / "model"),
        paper_probe(tmp_path / "sums.json"),
        analysis="circuits",
        parameters=parameters,
        shard_size=1,
    )
    return prepare(plan, tmp_path / "run", executor="local")


def drive(run: RunDirectory) -> Stop:
    driver = Driver(run, AtOnce(run))
    for _ in range(200):
        end, _ = driver.step(0.0)
        if end is not None:
            return end
    raise AssertionError("the run does not end")


def pairs(run: RunDirectory) -> set[tuple[int, ...]]:
    tasks = [task for shard in run.shards() for task in shard.tasks]
    return {task.path.skipped(6) for task in tasks if task.stage == 1}


def test_fast_goes_on_with_pairs_around_the_top_layers(tmp_path: Path) -> None:
    run = run_of(tmp_path, top_layers=2)
    assert not run.plan_complete()
    assert drive(run).state == "finished"
    assert run.plan_complete()
    assert pairs(run) == {(4, 5), (3, 4)}
    assert len(run.parts.look().done) == 1 + 6 + 2


def test_thorough_goes_on_with_similar_layers_besides(tmp_path: Path) -> None:
    run = run_of(tmp_path, strategy="thorough", top_layers=1)
    alike = [row.copy() for row in EYE]
    alike[0][2] = alike[2][0] = 0.96
    run.similarity.write(alike, samples=3)
    assert drive(run).state == "finished"
    assert pairs(run) == {(4, 5), (0, 2)}


def test_thorough_whose_similarity_was_lost_stops_and_says_so_and_goes_on_when_it_is_back(
    tmp_path: Path,
) -> None:
    run = run_of(tmp_path, strategy="thorough", top_layers=1)
    with pytest.raises(RunError, match=r"similarity\.json: no such file, and the next stage's pairs"):
        drive(run)
    run.similarity.write(EYE, samples=3)
    assert drive(run).state == "finished"
    assert pairs(run) == {(4, 5)}
