"""The driver on a real run directory: whatever workers, disk and user do, the run ends with every row there once."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from neuroscan_farm.coordinator import decide
from neuroscan_farm.coordinator.decide import Stop
from neuroscan_farm.coordinator.drive import Driver
from neuroscan_farm.coordinator.prepare import forget_failures, prepare, wake
from neuroscan_farm.dispatch.base import Event, WorkerDied
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.domain.tasks import Shard, Task
from neuroscan_farm.errors import StorageError
from neuroscan_farm.planning.sizing import LONGEST_SECONDS
from neuroscan_farm.store.attempts import Attempt
from neuroscan_farm.store.parts import Parts, ShardTiming
from neuroscan_farm.store.run_directory import RunDirectory
from tests.paper_models import finish, paper_model, paper_plan, paper_probe, paper_table, paper_timing


class Queue:
    """A dispatcher whose workers are the test itself."""

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.orders: list[ShardOrder] = []
        self.events: list[Event] = []

    def room(self) -> int:
        return self.slots - len(self.orders)

    def in_flight(self) -> frozenset[str]:
        return frozenset(order.shard_id for order in self.orders)

    def send(self, order: ShardOrder) -> None:
        assert order.shard_id not in self.in_flight()
        self.orders.append(order)

    def poll(self, timeout_seconds: float) -> list[Event]:
        events, self.events = self.events, []
        return events

    def close(self) -> None:
        pass


def commit(run: RunDirectory, shard: Shard, tasks: list[Task], *, seconds: float = 1.0, **row: Any) -> None:
    """Commit rows of some tasks of a shard, as a worker does."""
    some = Shard(shard.shard_id, tuple(tasks))
    run.parts.write(shard.shard_id, paper_table(run, some, **row), paper_timing(some, seconds=seconds))


@pytest.fixture
def run(model: Path, probe: Path, tmp_path: Path) -> RunDirectory:
    return prepare(paper_plan(model, probe, shard_size=None), tmp_path / "run", executor="local")


def tasks_of(run: RunDirectory) -> list[str]:
    return sorted(task.task_id for shard in run.shards() for task in shard.tasks)


def test_the_rest_is_cut_anew_when_the_first_shard_has_told_the_rate(run: RunDirectory) -> None:
    queue = Queue(slots=1)
    driver = Driver(run, queue)
    before = tasks_of(run)
    driver.step(0.0)
    first = run.shard(queue.orders.pop(0).shard_id)
    assert first is not None
    commit(run, first, list(first.tasks), seconds=60.0 * len(first.tasks))  # a slow machine
    driver.step(0.0)  # cuts
    driver.step(0.0)  # sends
    assert tasks_of(run) == before
    left = [shard for shard in run.shards() if shard.shard_id not in {first.shard_id, *queue.in_flight()}]
    assert left
    rate = 60.0 * len(first.tasks) / sum(task.path.evaluations() for task in first.tasks)
    for shard in left:
        seconds = rate * sum(task.path.evaluations() for task in shard.tasks)
        assert seconds <= LONGEST_SECONDS or len(shard.tasks) == 1
    assert {order.shard_id for order in queue.orders} <= {shard.shard_id for shard in run.shards()}
    rows_go_by = {task.planned_shard for shard in run.shards() for task in shard.tasks}
    assert rows_go_by == {shard.shard_id for shard in paper_plan_again(run).shards}


def paper_plan_again(run: RunDirectory) -> Any:
    from neuroscan_farm.coordinator.prepare import make_plan

    return make_plan(run.request())


def test_a_request_that_says_its_shard_size_is_left_as_it_is(
    model: Path, probe: Path, tmp_path: Path
) -> None:
    run = prepare(paper_plan(model, probe, shard_size=4), tmp_path / "run", executor="local")
    before = [shard.shard_id for shard in run.shards()]
    queue = Queue()
    driver = Driver(run, queue)
    driver.step(0.0)
    first = run.shard(queue.orders.pop(0).shard_id)
    assert first is not None
    commit(run, first, list(first.tasks), seconds=9000.0)
    for _ in range(3):
        driver.step(0.0)
    assert [shard.shard_id for shard in run.shards()] == before
    assert queue.orders[-1].limit_seconds > 9000.0


def test_a_shard_that_killed_two_workers_is_split_and_the_task_that_kills_is_alone(run: RunDirectory) -> None:
    queue = Queue(slots=1)
    driver = Driver(run, queue)
    driver.step(0.0)
    shard = run.shard(queue.orders[0].shard_id)
    assert shard is not None
    killer = shard.tasks[3].task_id
    for attempt in (1, 2):
        order = queue.orders.pop()
        assert (order.shard_id, order.attempt) == (shard.shard_id, attempt)
        queue.events.append(WorkerDied(order.shard_id, killer, "w", order.attempt, "killed by signal 9"))
        driver.step(0.0)
    driver.step(0.0)
    sizes = [len(s.tasks) for s in run.shards() if s.tasks and {killer} & {t.task_id for t in s.tasks}]
    assert sizes == [1]
    assert run.shard(shard.shard_id) is None
    assert len(queue.orders) == 1


def test_failed_tasks_can_be_tried_again_and_nothing_else_is_measured(run: RunDirectory) -> None:
    shards = run.shards()
    finish(run, shards[1:])
    commit(run, shards[0], list(shards[0].tasks[1:]))
    commit(run, shards[0], [shards[0].tasks[0]], outcome=Outcome.QUARANTINED)
    bad = shards[0].tasks[0].task_id
    for attempt in (1, 2, 3):
        now = datetime.now(UTC).isoformat()
        run.attempts.record(Attempt(shards[0].shard_id, attempt, "died", bad, "w", "killed", now))
    queue = Queue()
    assert Driver(run, queue).step(0.0)[0] == Stop("finished")
    assert forget_failures(run) == 1
    assert run.attempts.all() == []
    wake(run)
    driver = Driver(run, queue)
    driver.step(0.0)
    driver.step(0.0)
    (order,) = queue.orders
    again = run.shard(order.shard_id)
    assert again is not None
    assert [task.task_id for task in again.tasks] == [bad]
    commit(run, again, list(again.tasks))
    queue.orders.clear()
    assert driver.step(0.0)[0] == Stop("finished")
    assert set(run.parts.read()["outcome"].to_pylist()) == {"ok"}
    assert forget_failures(run) == 0


def test_a_paused_run_sends_nothing_and_goes_on_when_it_is_woken(run: RunDirectory) -> None:
    run.set_wanted("paused")
    queue = Queue()
    driver = Driver(run, queue)
    for _ in range(2):
        assert driver.step(0.0) == (None, [])
    assert queue.orders == []
    assert driver.paused
    wake(run)
    driver.step(0.0)
    assert queue.orders
    assert not driver.paused


class World(RuleBasedStateMachine):
    """A real driver on a real directory; the test is the workers, the disk and the user."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="drive-"))
        plan = paper_plan(
            paper_model(self.folder / "m"),
            paper_probe(self.folder / "p.json"),
            shard_size=None,
            parameters={},
        )
        self.run = prepare(plan, self.folder / "run", executor="local")
        self.tasks = sorted(task.task_id for shard in plan.shards for task in shard.tasks)
        self.samples = plan.n_samples
        self.poison: set[str] = set()
        self.start_a_driver()

    @rule()
    def start_a_driver(self) -> None:
        self.queue = Queue()
        self.driver = Driver(self.run, self.queue)
        self.end: Stop | None = None

    @rule()
    def step(self) -> None:
        if self.end is None or self.end.state != "finished":
            self.end, _ = self.driver.step(0.0)
        if self.end == Stop("finished"):
            assert self.run.parts.look().done == set(self.tasks)

    def carry_out(self, order: ShardOrder, seconds: float = 1.0) -> None:
        shard = self.run.shard(order.shard_id)
        if shard is None or self.run.wanted() == "cancelled":
            return
        done = self.run.parts.look().done
        missing = [task for task in shard.tasks if task.task_id not in done]
        deaths = Counter(a.task_id for a in self.run.attempts.all() if a.kind == "died")
        lost = [task for task in missing if deaths[task.task_id] >= 3]
        sound = [task for task in missing if task not in lost]
        apart = any(a.shard_id == order.shard_id for a in self.run.attempts.all() if a.kind == "died")
        killers = [task for task in sound if task.task_id in self.poison]
        if killers:
            blamed = killers[0] if apart else sound[0]
            self.queue.events.append(
                WorkerDied(order.shard_id, blamed.task_id, "w", order.attempt, "killed by signal 9")
            )
            return
        if lost:
            commit(self.run, shard, lost, outcome=Outcome.QUARANTINED)
        if sound:
            commit(self.run, shard, sound, seconds=seconds, attempt=order.attempt)

    @precondition(lambda self: self.queue.orders)
    @rule(data=st.data(), seconds=st.sampled_from([0.001, 1.0, 5000.0]))
    def work(self, data: st.DataObject, seconds: float) -> None:
        order = data.draw(st.sampled_from(self.queue.orders))
        self.queue.orders.remove(order)
        self.carry_out(order, seconds)

    @precondition(lambda self: self.queue.orders)
    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        order = data.draw(st.sampled_from(self.queue.orders))
        self.queue.orders.remove(order)
        shard = self.run.shard(order.shard_id)
        if shard is not None and len(shard.tasks) > 1:
            commit(self.run, shard, list(shard.tasks[: data.draw(st.integers(1, len(shard.tasks) - 1))]))

    @precondition(lambda self: self.queue.orders)
    @rule(data=st.data(), loading=st.booleans())
    def die(self, data: st.DataObject, loading: bool) -> None:
        order = data.draw(st.sampled_from(self.queue.orders))
        self.queue.orders.remove(order)
        shard = self.run.shard(order.shard_id)
        if shard is not None:
            task = None if loading else data.draw(st.sampled_from(shard.tasks)).task_id
            self.queue.events.append(WorkerDied(order.shard_id, task, "w", order.attempt, "killed"))

    @rule(data=st.data())
    def turn_into_poison(self, data: st.DataObject) -> None:
        self.poison.add(data.draw(st.sampled_from(self.tasks)))

    @precondition(lambda self: any((self.run.root / "parts").glob("[!.]*.parquet")))
    @rule(data=st.data(), how=st.sampled_from(["lose", "cut short", "double"]))
    def damage_a_part(self, data: st.DataObject, how: str) -> None:
        part = data.draw(st.sampled_from(sorted((self.run.root / "parts").glob("[!.]*.parquet"))))
        if how == "lose":
            part.unlink()
        elif how == "cut short":
            part.write_bytes(part.read_bytes()[:-7])
        elif part.stem.startswith("s"):
            shutil.copyfile(part, part.with_name(f"{part.stem}-0.parquet"))
        self.end = None  # whoever notices that of a finished run has it go on

    @rule()
    def compact(self) -> None:
        self.run.parts.compact()

    @rule(wanted=st.sampled_from(["running", "paused", "cancelled"]))
    def change_ones_mind(self, wanted: str) -> None:
        self.run.set_wanted(wanted)
        self.end = None

    @invariant()
    def every_task_is_in_the_plan_once(self) -> None:
        assert tasks_of(self.run) == self.tasks

    def teardown(self) -> None:
        """A fair world ends finished, and soon; at most a person resumes a run that gave up on its workers."""
        try:
            for _ in range(400):
                wake(self.run)
                if self.end is not None and self.end.state != "finished":
                    self.start_a_driver()
                self.step()
                if self.end == Stop("finished"):
                    break
                while self.queue.orders:
                    self.carry_out(self.queue.orders.pop(0))
            else:
                raise AssertionError("the run never ended")
            rows = self.run.parts.read(["task_id", "probe", "sample_id"])
            assert rows.num_rows == len(self.tasks) * self.samples
            assert rows.group_by(["task_id", "probe", "sample_id"]).aggregate([]).num_rows == rows.num_rows
        finally:
            shutil.rmtree(self.folder)


TestWorld = World.TestCase
TestWorld.settings = hypothesis.settings(max_examples=15, stateful_step_count=25)


def test_many_loose_parts_are_joined_while_the_run_goes_on(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "LOOSE_PARTS", 3)
    shards = run.shards()
    for task in shards[0].tasks[:3]:
        commit(run, shards[0], [task])
    Driver(run, Queue()).step(0.0)
    progress = run.parts.look()
    assert progress.loose == 0
    assert progress.done == {task.task_id for task in shards[0].tasks[:3]}
    assert len(progress.timings) == 3
    assert all(isinstance(timing, ShardTiming) for timing in progress.timings)


def test_parts_that_cannot_be_joined_are_not_tried_at_every_step(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(parts: Parts) -> int:
        raise StorageError("the disk is full")

    monkeypatch.setattr(decide, "LOOSE_PARTS", 1)
    monkeypatch.setattr(Parts, "compact", full)
    commit(run, run.shards()[0], [run.shards()[0].tasks[0]])
    driver = Driver(run, Queue())
    for _ in range(3):
        driver.step(0.0)
    assert caplog.text.count("parts are not joined: the disk is full") == 1


def test_a_driver_that_slept_over_the_last_stage_does_not_call_its_old_plan_complete(
    run: RunDirectory,
) -> None:
    class Slow(Queue):
        def room(self) -> int:  # asked after the plan was read, before it is written
            run.write_plan(whole, complete=True)
            return super().room()

    whole = run.shards()
    run.write_plan(whole[:1], complete=False)
    commit(run, whole[0], [whole[0].tasks[0]])
    Driver(run, Slow()).step(0.0)
    assert tasks_of(run) == sorted(task.task_id for task in whole[0].tasks)
    assert not run.plan_complete()


def test_many_shards_are_cut_down_by_one_new_plan(
    model: Path, probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(paper_plan(model, probe, shard_size=4), tmp_path / "run", executor="local")
    before = tasks_of(run)
    for shard in run.shards()[:3]:
        commit(run, shard, list(shard.tasks[:1]))
    written = []
    write = run.write_plan
    monkeypatch.setattr(run, "write_plan", lambda *a, **k: (written.append(1), write(*a, **k))[1])
    driver = Driver(run, Queue())
    driver.step(0.0)
    assert len(written) == 1
    assert tasks_of(run) == before
    done = run.parts.look().done
    assert all(len({task.task_id in done for task in shard.tasks}) == 1 for shard in run.shards())
