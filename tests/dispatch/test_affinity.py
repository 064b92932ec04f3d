"""In which order a worker looks into its queues: as a law over plain values, and through kombu on a real Redis."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Iterator

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.dispatch.affinity import Affinity
from neuroscan_farm.dispatch.celery_queue import make_app, queue_of, send_order
from neuroscan_farm.dispatch.redis_server import RedisServer
from neuroscan_farm.dispatch.wire import ShardOrder, model_queue

MODELS = ("a" * 32, "b" * 32, "c" * 32)


class Clock:
    """Time that the test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def affinity(clock: Clock) -> Affinity:
    return Affinity("farm.", patience=600.0, clock=clock)


def test_the_queue_of_the_model_that_is_held_comes_first(affinity: Affinity) -> None:
    cycle = affinity()
    cycle.update(["farm", "farm.a", "farm.b", "farm.c"])
    cycle.rotate("farm.b")
    assert cycle.consume(4) == ["farm.b", "farm", "farm.a", "farm.c"]
    assert affinity.held == "b"
    cycle.rotate("farm")
    assert affinity.held == "b", "the base queue holds no model's orders"


def test_it_comes_last_once_when_patience_is_over(affinity: Affinity, clock: Clock) -> None:
    cycle = affinity()
    cycle.update(["farm.a", "farm.b", "farm.c"])
    cycle.rotate("farm.a")
    clock.now = 601.0
    assert cycle.consume(3) == ["farm.b", "farm.c", "farm.a"]
    cycle.rotate("farm.b")
    assert cycle.consume(3)[0] == "farm.b"
    clock.now = 1300.0
    assert cycle.consume(3) == ["farm.c", "farm.a", "farm.b"]


def test_who_holds_a_model_that_nobody_else_waits_behind_keeps_it(affinity: Affinity, clock: Clock) -> None:
    cycle = affinity()
    cycle.update(["farm.a", "farm.b"])
    cycle.rotate("farm.a")
    clock.now = 601.0
    cycle.rotate("farm.a")  # it came last, so the other one was empty
    assert cycle.consume(2)[0] == "farm.a"


def test_it_outlives_a_connection_and_travels_to_a_child(affinity: Affinity) -> None:
    affinity().rotate("farm.b")
    cycle = affinity()
    cycle.update(["farm.a", "farm.b"])
    assert cycle.consume(2)[0] == "farm.b"
    assert pickle.loads(pickle.dumps(Affinity("farm.", patience=1.0))).held is None


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 100)), max_size=60))
def test_whatever_happens_every_queue_is_looked_into_and_none_starves(steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    affinity = Affinity("", patience=50.0, clock=clock)
    cycle = affinity()
    queues = ["a", "b", "c"]
    cycle.update(queues)
    waiting_since = 0.0
    for number, seconds in steps:
        order = cycle.consume(3)
        assert sorted(order) == queues
        # All queues hold messages always: the first in order is the one that is taken from.
        taken = order[0]
        if taken != affinity.held:
            waiting_since = clock.now
        cycle.rotate(taken)
        assert clock.now - waiting_since <= 50.0 + 100.0, (
            "a switch comes with the first message after the patience"
        )
        clock.now += seconds
        cycle.update(queues[number:] + queues[:number])


@pytest.fixture
def app(redis_server: RedisServer, clock: Clock) -> Iterator[Celery]:
    """A farm's application as a worker has it, with a clock of the test's own."""
    name = f"q-{uuid.uuid4().hex[:8]}"
    app = make_app(redis_server.url, name, affinity=Affinity(f"{name}.", patience=600.0, clock=clock))
    yield app
    app.close()


def order(model: str, number: int, priority: int = 5) -> ShardOrder:
    return ShardOrder(
        run_id=f"run-{model[0]}",
        location="/runs/r",
        shard_id=f"s{number:012x}",
        attempt=1,
        model=model,
        priority=priority,
        limit_seconds=60.0,
    )


def take(app: Celery, most: int) -> list[str]:
    """Take messages one at a time, each acknowledged before the next, as a worker does; say model and shard of each."""
    taken: list[str] = []

    def on_message(message: object) -> None:
        [fields], _, _ = message.payload  # type: ignore[attr-defined]
        taken.append(f"{fields['model'][0]}{int(fields['shard_id'][1:], 16)}")
        message.ack()  # type: ignore[attr-defined]

    queue = app.conf.task_default_queue
    with app.connection_for_read() as connection:
        queues = [queue_of(model_queue(queue, model)) for model in MODELS]
        consumer = connection.Consumer(queues, on_message=on_message, prefetch_count=1, accept=["json"])
        consumer.qos(prefetch_count=1)
        with consumer:
            for _ in range(most):
                connection.drain_events(timeout=5)
    return taken


def test_a_worker_stays_with_its_model_and_lets_no_other_starve(app: Celery, clock: Clock) -> None:
    queue = app.conf.task_default_queue
    for number in range(4):
        for model in MODELS[:2]:
            send_order(app, queue, order(model, number))
    first = take(app, 3)
    assert {name[0] for name in first} == {first[0][0]}, "all of one model"
    assert [name[1] for name in first] == ["0", "1", "2"], "in the order in which they were sent"
    clock.now = 601.0
    second = take(app, 2)
    assert {name[0] for name in second}.isdisjoint({first[0][0]}), "the other model's turn"
    assert len(take(app, 3)) == 3


def test_what_is_urgent_overtakes_at_the_next_message(app: Celery) -> None:
    queue = app.conf.task_default_queue
    for number in range(3):
        send_order(app, queue, order(MODELS[0], number))
    held = take(app, 1)
    send_order(app, queue, order(MODELS[0], 8, priority=7))
    send_order(app, queue, order(MODELS[1], 9, priority=9))
    send_order(app, queue, order(MODELS[2], 7, priority=0))
    assert held + take(app, 5) == ["a0", "b9", "a8", "a1", "a2", "c7"]
