"""`decide` is pure: what it says follows from what is seen, and in a fair world every run ends finished."""

from __future__ import annotations

from dataclasses import replace

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from neuroscan_farm.coordinator.decide import (
    MAX_DEATHS_WHILE_LOADING,
    Action,
    Expand,
    Send,
    Stop,
    View,
    decide,
)

FRESH = View(
    shards=("a", "b", "c"),
    finished=frozenset(),
    in_flight=frozenset(),
    room=2,
    plan_complete=True,
    wanted="running",
    refusal=None,
    deaths_while_loading=0,
)
ALL = frozenset("abc")


@pytest.mark.parametrize(
    ("seen", "done"),
    [
        ({}, [Send("a"), Send("b")]),
        ({"room": 0}, []),
        ({"room": -1}, []),
        ({"room": 9}, [Send("a"), Send("b"), Send("c")]),
        ({"finished": frozenset("a")}, [Send("b"), Send("c")]),
        ({"in_flight": frozenset("b"), "room": 1}, [Send("a")]),
        ({"in_flight": ALL}, []),
        ({"finished": frozenset("ab"), "in_flight": frozenset("c")}, []),
        ({"finished": ALL}, [Stop("finished")]),
        ({"finished": ALL, "in_flight": frozenset("c")}, [Stop("finished")]),
        ({"finished": ALL, "plan_complete": False}, [Expand()]),
        ({"finished": frozenset("ab"), "plan_complete": False, "in_flight": frozenset("c")}, []),
        ({"wanted": "cancelled"}, [Stop("cancelled")]),
        ({"wanted": "cancelled", "finished": ALL}, [Stop("finished")]),
        ({"wanted": "cancelled", "finished": ALL, "plan_complete": False}, [Stop("cancelled")]),
        ({"refusal": "no such model"}, [Stop("refused", "no such model")]),
        ({"refusal": "no such model", "finished": ALL}, [Stop("finished")]),
        ({"refusal": "no such model", "wanted": "cancelled"}, [Stop("refused", "no such model")]),
        ({"deaths_while_loading": MAX_DEATHS_WHILE_LOADING - 1, "room": 1}, [Send("a")]),
        ({"deaths_while_loading": MAX_DEATHS_WHILE_LOADING, "finished": ALL}, [Stop("finished")]),
        ({"shards": ()}, [Stop("finished")]),
    ],
)
def test_what_is_done_follows_from_what_is_seen(seen: dict[str, object], done: list[Action]) -> None:
    assert decide(replace(FRESH, **seen)) == done


def test_workers_that_all_die_while_they_load_the_model_end_the_run_with_the_likely_reason() -> None:
    (stop,) = decide(replace(FRESH, deaths_while_loading=MAX_DEATHS_WHILE_LOADING))
    assert isinstance(stop, Stop)
    assert stop.state == "refused"
    assert stop.reason is not None
    assert "does not fit in memory" in stop.reason
    assert "--dtype" in stop.reason


names = st.integers(0, 9).map(str)
views = st.builds(
    View,
    shards=st.lists(names, unique=True).map(tuple),
    finished=st.frozensets(names),
    in_flight=st.frozensets(names),
    room=st.integers(-2, 12),
    plan_complete=st.booleans(),
    wanted=st.sampled_from(["running", "cancelled"]),
    refusal=st.none() | st.just("why"),
    deaths_while_loading=st.integers(0, 4),
)


@given(views)
def test_orders_fit_in_the_room_and_name_each_missing_shard_at_most_once(view: View) -> None:
    actions = decide(view)
    sent = [action.shard_id for action in actions if isinstance(action, Send)]
    assert len(sent) <= max(view.room, 0)
    assert len(set(sent)) == len(sent)
    assert set(sent) <= set(view.shards) - view.finished - view.in_flight
    assert sent == [shard for shard in view.shards if shard in sent], "in the order of the plan"
    assert len(sent) == len(actions) or len(actions) == 1


@given(views)
def test_deciding_twice_says_the_same(view: View) -> None:
    assert decide(view) == decide(view)


class Farm(RuleBasedStateMachine):
    """Workers that take, finish and die, an unreliable broker, a disk that loses parts, a user who changes his mind."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = [
            tuple(f"s{k}" for k in range(4)),
            ("s4", "s5"),
        ]  # the second is only known after the first
        self.shards = self.stages[0]
        self.plan_complete = False
        self.parts: set[str] = set()
        self.queue: list[str] = []
        self.working: list[str] = []
        self.workers = 2
        self.wanted = "running"
        self.last: list[Action] = []

    def view(self) -> View:
        in_flight = [*self.queue, *self.working]
        return View(
            shards=self.shards,
            finished=frozenset(self.parts & set(self.shards)),
            in_flight=frozenset(in_flight),
            room=2 * self.workers - len(in_flight),
            plan_complete=self.plan_complete,
            wanted=self.wanted,
            refusal=None,
            deaths_while_loading=0,
        )

    @rule()
    def coordinate(self) -> None:
        view = self.view()
        before = len(self.queue) + len(self.working)
        self.last = decide(view)
        for action in self.last:
            match action:
                case Send(shard_id):
                    assert shard_id not in view.finished
                    assert shard_id not in view.in_flight
                    self.queue.append(shard_id)
                case Expand():
                    assert self.parts >= set(self.shards)
                    self.plan_complete = self.shards != self.stages[0]
                    self.shards = self.stages[0] + self.stages[1]
                case Stop(state):
                    assert (
                        state == ("cancelled" if self.wanted == "cancelled" else "finished")
                        or self.complete()
                    )
        assert len(self.queue) + len(self.working) <= max(2 * self.workers, before)

    def complete(self) -> bool:
        return self.plan_complete and self.parts >= set(self.shards)

    @precondition(lambda self: self.queue and len(self.working) < self.workers)
    @rule()
    def take(self) -> None:
        shard_id = self.queue.pop(0)
        if shard_id not in self.parts and self.wanted == "running":
            self.working.append(shard_id)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        shard_id = data.draw(st.sampled_from(self.working))
        self.working.remove(shard_id)
        self.parts.add(shard_id)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.working.remove(data.draw(st.sampled_from(self.working)))

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def lose_an_order(self, data: st.DataObject) -> None:
        self.queue.remove(data.draw(st.sampled_from(self.queue)))

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def double_an_order(self, data: st.DataObject) -> None:
        self.queue.append(data.draw(st.sampled_from(self.queue)))

    @rule()
    def wipe_the_broker(self) -> None:
        self.queue.clear()

    @precondition(lambda self: self.parts)
    @rule(data=st.data())
    def lose_a_part(self, data: st.DataObject) -> None:
        self.parts.remove(data.draw(st.sampled_from(sorted(self.parts))))

    @rule(workers=st.integers(0, 3))
    def change_the_workers(self, workers: int) -> None:
        self.workers = workers
        del self.working[workers:]

    @rule()
    def cancel(self) -> None:
        self.wanted = "cancelled"

    @rule()
    def resume(self) -> None:
        self.wanted = "running"

    @invariant()
    def an_end_is_only_called_when_it_is_one(self) -> None:
        if Stop("finished") in decide(self.view()):
            assert self.complete()

    def teardown(self) -> None:
        """From wherever the faults have left it, a fair world ends finished, and soon."""
        self.wanted, self.workers = "running", 2
        for _ in range(60):
            self.coordinate()
            if self.last == [Stop("finished")]:
                assert set(self.shards) == {"s0", "s1", "s2", "s3", "s4", "s5"}
                return
            while self.queue and len(self.working) < self.workers:
                self.take()
            if self.working:
                self.parts.add(self.working.pop())
        raise AssertionError("the run never ended")


TestFarm = Farm.TestCase
TestFarm.settings = hypothesis.settings(max_examples=50, stateful_step_count=30)
