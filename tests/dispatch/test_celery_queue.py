"""The Celery dispatcher on a real Redis, with no worker at the other end."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import redis

from neuroscan_farm.dispatch.base import Refused, WorkerDied
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_orders import lists_of
from neuroscan_farm.dispatch.broker_url import client_url
from neuroscan_farm.dispatch.celery_queue import (
    ORDERS_PER_WORKER,
    CeleryDispatcher,
    location_on,
    make_app,
    start_workers,
    submit,
)
from neuroscan_farm.dispatch.farm_records import Ended, Presence, Report, Running, Snapshot
from neuroscan_farm.dispatch.redis_server import RedisServer
from neuroscan_farm.dispatch.wire import model_queue
from neuroscan_farm.engine.shard import execute_shard
from neuroscan_farm.engine.warm import WarmModel
from neuroscan_farm.errors import BrokerError, RunError
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.farm_fixtures import order_of, wait_for


@pytest.fixture
def run(make_run: MakeRun, broker: Broker) -> RunDirectory:
    run = make_run(executor="celery")
    submit(run, broker)
    return run


@pytest.fixture
def dispatcher(run: RunDirectory, broker: Broker) -> CeleryDispatcher:
    return CeleryDispatcher(run, broker, make_app(broker.url, broker.queue))


def running(shard_id: str, task_id: str | None = "t1", worker: str = "w1") -> Running:
    return Running(shard_id, f"token-of-{worker}", worker, "host", 4711, 1, task_id, 1.0)


def take_next(broker: Broker) -> dict[str, object]:
    client = redis.Redis.from_url(client_url(broker.url), decode_responses=True)
    for name in lists_of(model_queue(broker.queue, next(iter(broker.runs().values())).model)):
        if text := client.rpop(name):
            message: dict[str, object] = json.loads(text)
            client.close()
            return message
    raise AssertionError("no message waits")


def test_an_order_travels_as_json_and_is_in_flight(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    dispatcher.poll(0)
    dispatcher.send(order_of(run))
    assert dispatcher.in_flight() == {order_of(run).shard_id}
    dispatcher.poll(0)
    assert dispatcher.in_flight() == {order_of(run).shard_id}
    message = take_next(broker)
    assert message["content-type"] == "application/json"


def test_only_a_few_orders_are_queued_for_each_worker(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    dispatcher.poll(0)
    assert dispatcher.room() == ORDERS_PER_WORKER
    for number in range(ORDERS_PER_WORKER):
        dispatcher.send(order_of(run, number))
    assert dispatcher.room() == 0
    for name in ("a", "b"):
        broker.show_presence(Presence(name, "host", 1, "all visible", "ready", 1.0))
    broker.show_presence(Presence("c", "host", 1, "all visible", "leaving", 1.0))
    dispatcher.poll(0)
    assert dispatcher.room() == ORDERS_PER_WORKER


def test_a_lost_order_is_in_flight_no_more_after_a_while(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    broker.timings = dataclasses.replace(broker.timings, lost_after=0.2)
    dispatcher.send(order_of(run))
    take_next(broker)
    assert wait_for(lambda: dispatcher.poll(0) == [] and not dispatcher.in_flight(), "the loss noticed")


def test_an_order_that_waits_long_is_not_lost(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    broker.timings = dataclasses.replace(broker.timings, lost_after=0.0)
    dispatcher.send(order_of(run))
    for _ in range(5):
        dispatcher.poll(0)
        assert dispatcher.in_flight() == {order_of(run).shard_id}


def test_a_claimed_shard_is_in_flight_as_long_as_its_claim_holds(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    broker.timings = dataclasses.replace(broker.timings, claim_ttl=0.3)
    order = order_of(run)
    dispatcher.send(order)
    take_next(broker)
    broker.claim(run.manifest.run_id, running(order.shard_id))
    dispatcher.poll(0)
    assert dispatcher.in_flight() == {order.shard_id}
    events = wait_for(lambda: dispatcher.poll(0), "the death")
    assert [type(event) for event in events] == [WorkerDied]
    assert isinstance(events[0], WorkerDied)
    assert (events[0].shard_id, events[0].task_id, events[0].attempt) == (order.shard_id, "t1", 1)
    assert dispatcher.in_flight() == frozenset()
    assert dispatcher.poll(0) == [], "it is settled by the poll after the one that told it"


def test_a_report_is_told_again_to_the_next_one_when_its_listener_died(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    order = order_of(run)
    broker.claim(run.manifest.run_id, running(order.shard_id))
    broker.bury(run.manifest.run_id, running(order.shard_id), witnessed=True)
    assert len(dispatcher.poll(0)) == 1
    successor = CeleryDispatcher(run, broker, make_app(broker.url, broker.queue))
    assert len(successor.poll(0)) == 1


def test_who_vanishes_after_the_part_was_committed_did_not_die(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher, warm: WarmModel
) -> None:
    broker.timings = dataclasses.replace(broker.timings, claim_ttl=0.05)
    order = order_of(run)
    broker.claim(run.manifest.run_id, running(order.shard_id))
    execute_shard(run, order.shard_id, 1, worker="w1", warm=warm)
    wait_for(lambda: dispatcher.poll(0) == [] and not broker.running(run.manifest.run_id), "the record gone")


def refuse(broker: Broker, run: RunDirectory, worker: str, why: str = "no such model") -> None:
    record = running(order_of(run).shard_id, worker=worker)
    broker.claim(run.manifest.run_id, record)
    broker.release(run.manifest.run_id, record, Report(record.shard_id, worker, 1, None, why, 5))


def show(broker: Broker, name: str, state: str = "ready") -> None:
    broker.show_presence(Presence(name, "host", 1, "all visible", state, 1.0))


def test_a_run_is_refused_when_its_only_worker_refuses_it(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    show(broker, "w1")
    refuse(broker, run, "w1")
    assert dispatcher.poll(0) == [], "another worker may just be coming up"
    [event] = wait_for(lambda: (show(broker, "w1"), dispatcher.poll(0))[1], "the refusal")
    assert event == Refused(order_of(run).shard_id, "w1", 1, "no such model", 5)
    assert dispatcher.poll(0) == [], "it is told once"


def test_a_run_goes_on_while_a_live_worker_has_not_refused_it(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    broker.timings = dataclasses.replace(broker.timings, lost_after=0.0)
    refuse(broker, run, "w1")
    assert dispatcher.poll(0) == [], "nobody is there to refuse it: one may come"
    show(broker, "w1")
    show(broker, "w2")
    assert dispatcher.poll(0) == []
    assert dispatcher.room() == ORDERS_PER_WORKER, "one worker counts"
    refuse(broker, run, "w2", "the gate fails")
    [event] = dispatcher.poll(0)
    assert isinstance(event, Refused)
    assert event.worker == "w1, w2"
    assert event.error == "no worker can do this run\nw1: no such model\nw2: the gate fails"


def test_a_worker_that_leaves_is_not_asked_whether_it_refuses(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    broker.timings = dataclasses.replace(broker.timings, lost_after=0.0)
    show(broker, "w1")
    show(broker, "w2", "draining")
    refuse(broker, run, "w1")
    assert [type(event) for event in dispatcher.poll(0)] == [Refused]


def test_a_run_that_is_submitted_again_is_refused_no_more(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    broker.timings = dataclasses.replace(broker.timings, lost_after=0.0)
    show(broker, "w1")
    refuse(broker, run, "w1")
    submit(run, broker)
    assert dispatcher.poll(0) == []
    assert dispatcher.room() == ORDERS_PER_WORKER


def test_orders_wait_in_the_list_of_their_priority(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    dispatcher.poll(0)
    dispatcher.send(order_of(run, 0, priority=0))
    dispatcher.send(order_of(run, 1, priority=9))
    dispatcher.send(order_of(run, 2, priority=5))
    taken = [json.dumps(take_next(broker)) for _ in range(3)]
    names = [order_of(run, number).shard_id for number in (1, 2, 0)]
    assert [name in message for name, message in zip(names, taken, strict=True)] == [True] * 3


def test_one_look_at_the_broker_serves_many_runs(make_run: MakeRun, broker: Broker) -> None:
    app = make_app(broker.url, broker.queue)
    runs = [
        make_run(f"run-{number}", executor="celery", shard_size=size) for number, size in enumerate((3, 5))
    ]
    for run in runs:
        submit(run, broker)
    looks = []

    def look() -> Snapshot:
        if not looks:
            looks.append(broker.snapshot())
        return looks[0]

    dispatchers = [CeleryDispatcher(run, broker, app, look=look) for run in runs]
    for run, dispatcher in zip(runs, dispatchers, strict=True):
        dispatcher.poll(0)
        dispatcher.send(order_of(run))
    looks.clear()
    for run, dispatcher in zip(runs, dispatchers, strict=True):
        dispatcher.poll(0)
        assert dispatcher.in_flight() == {order_of(run).shard_id}
    assert len(looks) == 1


def test_after_a_wipe_nothing_is_sent_until_claims_are_back(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    broker.timings = dataclasses.replace(broker.timings, beat=0.2)
    dispatcher.send(order_of(run))
    dispatcher.poll(0)
    client = redis.Redis.from_url(client_url(broker.url))
    client.flushall()
    client.close()
    dispatcher.poll(0)
    assert dispatcher.room() == 0
    assert dispatcher.in_flight() == frozenset()
    wait_for(lambda: (dispatcher.poll(0), dispatcher.room() > 0)[1], "the end of the hold")


def test_orders_reach_the_queue_after_a_wipe(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    dispatcher.send(order_of(run))
    client = redis.Redis.from_url(client_url(broker.url))
    client.flushall()
    client.close()
    with warnings.catch_warnings(record=True) as caught:
        dispatcher.send(order_of(run))
    assert not caught
    submit(run, broker)
    assert broker.queued() == {run.manifest.run_id: {order_of(run).shard_id}}


def test_sending_to_a_broker_that_is_away_is_an_error_and_no_wait(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(executor="celery")
    with RedisServer() as server:
        broker = Broker(server.url)
        dispatcher = CeleryDispatcher(run, broker, make_app(server.url))
        dispatcher.send(order_of(run))
    with pytest.raises(BrokerError, match="out of reach"):
        dispatcher.send(order_of(run))
    with pytest.raises(BrokerError, match="out of reach"):
        submit(run, broker)


def test_celery_itself_does_not_wait_for_a_broker_that_is_away(make_run: MakeRun, broker: Broker) -> None:
    run = make_run(executor="celery")
    dispatcher = CeleryDispatcher(run, broker, make_app("redis://127.0.0.1:1/0", broker.queue))
    with pytest.raises(BrokerError, match="was not taken"):
        dispatcher.send(order_of(run))


def test_the_password_is_in_no_command_line() -> None:
    process = start_workers([sys.executable, "-c", "import signal; signal.pause()"], "redis://:geheim@host/0")
    try:
        assert "geheim" not in Path(f"/proc/{process.pid}/cmdline").read_text()
        assert "geheim" in Path(f"/proc/{process.pid}/environ").read_text()
    finally:
        process.kill()
        process.wait()


def test_claims_that_ran_out_while_the_broker_was_away_are_no_deaths(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.timings = dataclasses.replace(broker.timings, claim_ttl=0.05, beat=30.0)
    order = order_of(run)
    broker.claim(run.manifest.run_id, running(order.shard_id))
    dispatcher.poll(0)
    run_id = run.manifest.run_id
    wait_for(lambda: not broker.snapshot([run_id]).states[run_id].claimed, "the claim run out")
    later = broker.now() + 3600
    monkeypatch.setattr(broker, "now", lambda: later)
    assert dispatcher.poll(0) == []
    assert dispatcher.in_flight() == {order.shard_id}
    assert broker.beat(run.manifest.run_id, running(order.shard_id)), "its worker puts the claim back"


def test_one_run_at_two_places_is_refused_while_the_farm_has_the_first(
    make_run: MakeRun, broker: Broker
) -> None:
    first, second = make_run("first"), make_run("second")
    assert first.manifest.run_id == second.manifest.run_id
    submit(first, broker)
    submit(first, broker)
    with pytest.raises(RunError, match="already") as refusal:
        submit(second, broker)
    assert first.location in str(refusal.value)
    assert broker.runs()[first.manifest.run_id].location == first.location
    assert second.farm() is None
    broker.unregister(first.manifest.run_id, Ended("finished", None, 0))
    submit(second, broker)
    assert broker.runs()[first.manifest.run_id].location == second.location


def test_the_same_place_under_another_name_is_the_same_run(
    make_run: MakeRun, broker: Broker, tmp_path: Path
) -> None:
    run = make_run("real")
    submit(run, broker)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    again = RunDirectory.open(tmp_path / "link")
    assert location_on(broker, again) == run.location
    submit(again, broker)
    assert broker.runs()[run.manifest.run_id].location == run.location
    assert again.farm() == (broker.queue, run.location)


def test_a_registered_run_that_is_not_to_be_found_is_told_with_the_way_out(
    make_run: MakeRun, broker: Broker
) -> None:
    gone, new = make_run("gone"), make_run("new")
    submit(gone, broker)
    shutil.rmtree(gone.root)
    with pytest.raises(RunError, match=f"neuroscan-farm cancel {new.manifest.run_id}"):
        submit(new, broker)
