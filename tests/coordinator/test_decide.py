"""`decide` is pure: what it says follows from what is seen, and in a fair world every run ends finished."""

from __future__ import annotations

from dataclasses import replace

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from neuroscan_farm.coordinator.decide import (
    DEATHS_BEFORE_SPLIT,
    LOOSE_PARTS,
    LOOSE_PARTS_AT_THE_END,
    MAX_DEATHS_WHILE_LOADING,
    Action,
    Compact,
    Expand,
    Narrow,
    Resize,
    Send,
    Split,
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
    deaths_while_loading=(),
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
        ({"deaths_while_loading": ("killed",) * (MAX_DEATHS_WHILE_LOADING - 1), "room": 1}, [Send("a")]),
        (
            {"deaths_while_loading": ("killed",) * MAX_DEATHS_WHILE_LOADING, "finished": ALL},
            [Stop("finished")],
        ),
        ({"shards": ()}, [Stop("finished")]),
        ({"wanted": "paused"}, []),
        ({"wanted": "paused", "finished": ALL, "plan_complete": False}, []),
        ({"wanted": "paused", "finished": ALL}, [Stop("finished")]),
        ({"wanted": "paused", "refusal": "no such model"}, [Stop("refused", "no such model")]),
        ({"begun": frozenset("b")}, [Narrow("b")]),
        ({"begun": frozenset("b"), "in_flight": frozenset("b"), "room": 1}, [Send("a")]),
        ({"deaths": {"a": DEATHS_BEFORE_SPLIT - 1}}, [Send("a"), Send("b")]),
        ({"deaths": {"a": DEATHS_BEFORE_SPLIT}}, [Split("a")]),
        ({"deaths": {"a": 9}, "in_flight": frozenset("a"), "room": 1}, [Send("b")]),
        ({"deaths": {"a": 9}, "finished": frozenset("a"), "room": 1}, [Send("b")]),
        ({"better_cut": 2}, [Resize(2)]),
        ({"better_cut": 2, "in_flight": ALL}, []),
        ({"better_cut": 2, "begun": frozenset("c")}, [Narrow("c")]),
        ({"better_cut": 2, "wanted": "paused"}, []),
        ({"loose_parts": LOOSE_PARTS - 1, "room": 1}, [Send("a")]),
        ({"loose_parts": LOOSE_PARTS, "room": 1}, [Send("a"), Compact()]),
        ({"loose_parts": LOOSE_PARTS_AT_THE_END, "finished": ALL}, [Stop("finished")]),
        ({"loose_parts": LOOSE_PARTS_AT_THE_END + 1, "finished": ALL}, [Compact(), Stop("finished")]),
    ],
)
def test_what_is_done_follows_from_what_is_seen(seen: dict[str, object], done: list[Action]) -> None:
    assert decide(replace(FRESH, **seen)) == done


def test_workers_that_all_die_while_they_load_the_model_end_the_run_with_the_likely_reason() -> None:
    (stop,) = decide(replace(FRESH, deaths_while_loading=("killed", "killed", "Traceback:\nOSError: broken")))
    assert isinstance(stop, Stop)
    assert stop.state == "refused"
    assert stop.reason is not None
    assert "does not fit in memory" in stop.reason
    assert "OSError: broken" in stop.reason
    assert "--dtype" in stop.reason


names = st.integers(0, 9).map(str)
views = st.builds(
    View,
    shards=st.lists(names, unique=True).map(tuple),
    finished=st.frozensets(names),
    in_flight=st.frozensets(names),
    room=st.integers(-2, 12),
    plan_complete=st.booleans(),
    wanted=st.sampled_from(["running", "paused", "cancelled"]),
    refusal=st.none() | st.just("why"),
    deaths_while_loading=st.lists(st.just("killed"), max_size=4).map(tuple),
    begun=st.frozensets(names, max_size=2),
    deaths=st.dictionaries(names, st.integers(1, 3), max_size=2),
    better_cut=st.none() | st.integers(1, 9),
    loose_parts=st.sampled_from([0, LOOSE_PARTS]),
)


@given(views)
def test_orders_fit_in_the_room_and_name_each_missing_shard_at_most_once(view: View) -> None:
    actions = decide(view)
    sent = [action.shard_id for action in actions if isinstance(action, Send)]
    assert len(sent) <= max(view.room, 0)
    assert len(set(sent)) == len(sent)
    assert set(sent) <= set(view.shards) - view.finished - view.in_flight
    assert sent == [shard for shard in view.shards if shard in sent], "in the order of the plan"


@given(views)
def test_nothing_on_its_way_is_cut_and_nothing_is_sent_while_the_cut_changes(view: View) -> None:
    actions = decide(view)
    cut = [action.shard_id for action in actions if isinstance(action, Narrow | Split)]
    assert not set(cut) & (view.in_flight | view.finished)
    changes = bool(cut) or any(isinstance(action, Resize) for action in actions)
    assert not (changes and any(isinstance(action, Send) for action in actions))
    assert [action for action in actions if isinstance(action, Stop | Expand)] == actions[-1:] or not any(
        isinstance(action, Stop | Expand) for action in actions
    )


@given(views)
def test_deciding_twice_says_the_same(view: View) -> None:
    assert decide(view) == decide(view)


def name_of(tasks: frozenset[str]) -> str:
    return "+".join(sorted(tasks))


class Farm(RuleBasedStateMachine):
    """Workers that take, finish and die, tasks that kill, an unreliable broker, a disk that loses parts, a user.

    The model's coordinator does what `decide` says in the plainest way; what it keeps is what a run directory holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stages = [
            [frozenset({"a", "b", "c"}), frozenset({"d", "e"}), frozenset({"f"})],
            [frozenset({"g", "h"})],
        ]  # the second is only known after the first
        self.plan = list(self.stages[0])
        self.expanded = False
        self.plan_complete = False
        self.done: set[str] = set()
        self.died: list[tuple[str, str]] = []  # (shard, task)
        self.poison: set[str] = set()
        self.queue: list[str] = []
        self.working: list[str] = []
        self.workers = 2
        self.wanted = "running"
        self.loose = 0
        self.cut = False
        self.last: list[Action] = []

    def shard(self, name: str) -> frozenset[str] | None:
        return next((tasks for tasks in self.plan if name_of(tasks) == name), None)

    def view(self) -> View:
        in_flight = [*self.queue, *self.working]
        deaths: dict[str, int] = {}
        for name, task in self.died:
            left = (self.shard(name) or frozenset()) - self.done
            if len(left) > 1 and task in left:
                deaths[name] = deaths.get(name, 0) + 1
        return View(
            shards=tuple(map(name_of, self.plan)),
            finished=frozenset(name_of(tasks) for tasks in self.plan if tasks <= self.done),
            in_flight=frozenset(in_flight),
            room=2 * self.workers - len(in_flight),
            plan_complete=self.plan_complete,
            wanted=self.wanted,
            refusal=None,
            deaths_while_loading=(),
            begun=frozenset(name_of(tasks) for tasks in self.plan if tasks & self.done and tasks - self.done),
            deaths=deaths,
            better_cut=2 if not self.cut else None,
            loose_parts=self.loose,
        )

    @rule()
    def coordinate(self) -> None:
        view = self.view()
        before = len(self.queue) + len(self.working)
        self.last = decide(view)
        for action in self.last:
            match action:
                case Send(name):
                    assert name not in view.finished | view.in_flight
                    self.queue.append(name)
                case Narrow(name) | Split(name):
                    assert name not in view.in_flight
                    self.cut_down(name)
                case Resize(shards):
                    self.resize(shards, view.in_flight)
                case Compact():
                    self.loose = 0
                case Expand():
                    assert self.everything() <= self.done
                    self.plan_complete = self.expanded
                    if not self.expanded:
                        self.plan += self.stages[1]
                    self.expanded = True
                case Stop(state):
                    assert (
                        state == ("cancelled" if self.wanted == "cancelled" else "finished")
                        or self.complete()
                    )
        assert len(self.queue) + len(self.working) <= max(2 * self.workers, before)

    def cut_down(self, name: str) -> None:
        tasks = self.shard(name)
        assert tasks is not None
        missing = tasks - self.done
        alone = {task for shard, task in self.died if shard == name} & missing
        pieces = [missing - alone, *(frozenset({task}) for task in sorted(alone)), tasks & self.done]
        self.plan.remove(tasks)
        self.plan += [piece for piece in pieces if piece]

    def resize(self, shards: int, in_flight: frozenset[str]) -> None:
        waiting = [tasks for tasks in self.plan if not tasks <= self.done and name_of(tasks) not in in_flight]
        tasks = sorted(task for shard in waiting for task in shard - self.done)
        done = [shard & self.done for shard in waiting]
        self.plan = [shard for shard in self.plan if shard not in waiting]
        self.plan += [frozenset(tasks[k::shards]) for k in range(shards) if tasks[k::shards]]
        self.plan += [shard for shard in done if shard]
        self.cut = True

    def everything(self) -> set[str]:
        return {task for tasks in self.plan for task in tasks}

    def complete(self) -> bool:
        return self.plan_complete and self.everything() <= self.done

    @precondition(lambda self: self.queue and len(self.working) < self.workers)
    @rule()
    def take(self) -> None:
        name = self.queue.pop(0)
        tasks = self.shard(name)
        if tasks is not None and not tasks <= self.done and self.wanted == "running":
            self.working.append(name)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        self.carry_out(data.draw(st.sampled_from(self.working)))

    def carry_out(self, name: str) -> None:
        self.working.remove(name)
        tasks = self.shard(name)
        if tasks is None:  # it was cut anew while it was on its way: its rows count all the same
            tasks = frozenset(name.split("+"))
        missing = tasks - self.done
        sound = {task for task in missing if self.deaths_of(task) < 3}
        killers = sorted(self.poison & sound)
        if killers:
            together = all(shard != name for shard, _ in self.died)
            self.died.append((name, min(sound) if together else killers[0]))
            return
        self.done |= missing  # tasks with three deaths have rows that say so
        self.loose += 1

    def deaths_of(self, task: str) -> int:
        return sum(task == other for _, other in self.died)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.working))
        self.working.remove(name)
        self.died.append((name, data.draw(st.sampled_from(name.split("+")))))

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        """A worker that is asked to leave commits the tasks that it has finished."""
        name = data.draw(st.sampled_from(self.working))
        self.working.remove(name)
        self.done |= set(data.draw(st.sets(st.sampled_from(name.split("+")))))

    @rule(task=st.sampled_from("abcdefgh"))
    def turn_into_poison(self, task: str) -> None:
        self.poison.add(task)

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

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def lose_rows(self, data: st.DataObject) -> None:
        self.done -= data.draw(st.sets(st.sampled_from(sorted(self.done)), min_size=1))

    @rule(workers=st.integers(0, 3))
    def change_the_workers(self, workers: int) -> None:
        self.workers = workers
        del self.working[workers:]

    @rule()
    def gather_parts(self) -> None:
        self.loose = LOOSE_PARTS

    @rule(wanted=st.sampled_from(["running", "paused", "cancelled"]))
    def change_ones_mind(self, wanted: str) -> None:
        self.wanted = wanted

    @invariant()
    def an_end_is_only_called_when_it_is_one(self) -> None:
        if Stop("finished") in decide(self.view()):
            assert self.complete()

    @invariant()
    def every_task_is_in_the_plan_once(self) -> None:
        tasks = [task for shard in self.plan for task in shard]
        assert sorted(tasks) == sorted("abcdef" if not self.expanded else "abcdefgh")

    def teardown(self) -> None:
        """From wherever the faults have left it, a fair world ends finished, and soon, whatever tasks kill."""
        self.wanted, self.workers = "running", 2
        for _ in range(150):
            self.coordinate()
            if self.last[-1:] == [Stop("finished")]:
                assert self.done == set("abcdefgh")
                return
            while self.queue and len(self.working) < self.workers:
                self.take()
            if self.working:
                self.carry_out(self.working[-1])
        raise AssertionError("the run never ended")


TestFarm = Farm.TestCase
TestFarm.settings = hypothesis.settings(max_examples=100, stateful_step_count=30)
