"""The Celery dispatcher on a real Redis, with no worker at the other end."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from pathlib import Path

import pytest
import redis

from neuroscan_farm.dispatch.base import Refused, WorkerDied
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_url import client_url
from neuroscan_farm.dispatch.celery_queue import (
    ORDERS_PER_WORKER,
    CeleryDispatcher,
    make_app,
    start_workers,
    submit,
)
from neuroscan_farm.dispatch.farm_records import Presence, Report, Running
from neuroscan_farm.dispatch.redis_server import RedisServer
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.errors import BrokerError
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.farm_fixtures import wait_for


@pytest.fixture
def run(make_run: MakeRun, broker: Broker) -> RunDirectory:
    run = make_run(executor="celery")
    submit(run, broker)
    return run


@pytest.fixture
def dispatcher(run: RunDirectory, broker: Broker) -> CeleryDispatcher:
    return CeleryDispatcher(run, broker, make_app(broker.url, broker.queue))


def order_for(run: RunDirectory, number: int = 0, attempt: int = 1) -> ShardOrder:
    shard_id = run.shards()[number].shard_id
    return ShardOrder(run_id=run.manifest.run_id, run_dir=str(run.root), shard_id=shard_id, attempt=attempt)


def running(order: ShardOrder, task_id: str | None = "t1") -> Running:
    return Running(order.shard_id, "token", "w1", "host", 4711, order.attempt, task_id, 1.0)


def take_next(broker: Broker) -> dict[str, object]:
    client = redis.Redis.from_url(client_url(broker.url), decode_responses=True)
    message: dict[str, object] = json.loads(client.rpop(broker.queue))
    client.close()
    return message


def test_an_order_travels_as_json_and_is_in_flight(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    dispatcher.poll(0)
    dispatcher.send(order_for(run))
    assert dispatcher.in_flight() == {order_for(run).shard_id}
    dispatcher.poll(0)
    assert dispatcher.in_flight() == {order_for(run).shard_id}
    message = take_next(broker)
    assert message["content-type"] == "application/json"


def test_only_a_few_orders_are_queued_for_each_worker(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    dispatcher.poll(0)
    assert dispatcher.room() == ORDERS_PER_WORKER
    for number in range(ORDERS_PER_WORKER):
        dispatcher.send(order_for(run, number))
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
    dispatcher.send(order_for(run))
    take_next(broker)
    assert wait_for(lambda: dispatcher.poll(0) == [] and not dispatcher.in_flight(), "the loss noticed")


def test_an_order_that_waits_long_is_not_lost(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    broker.timings = dataclasses.replace(broker.timings, lost_after=0.0)
    dispatcher.send(order_for(run))
    for _ in range(5):
        dispatcher.poll(0)
        assert dispatcher.in_flight() == {order_for(run).shard_id}


def test_a_claimed_shard_is_in_flight_as_long_as_its_claim_holds(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    broker.timings = dataclasses.replace(broker.timings, claim_ttl=0.3)
    order = order_for(run)
    dispatcher.send(order)
    take_next(broker)
    broker.claim(run.manifest.run_id, running(order))
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
    order = order_for(run)
    broker.claim(run.manifest.run_id, running(order))
    broker.bury(run.manifest.run_id, running(order), witnessed=True)
    assert len(dispatcher.poll(0)) == 1
    successor = CeleryDispatcher(run, broker, make_app(broker.url, broker.queue))
    assert len(successor.poll(0)) == 1


def test_who_vanishes_after_the_part_was_committed_did_not_die(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    broker.timings = dataclasses.replace(broker.timings, claim_ttl=0.05)
    order = order_for(run)
    broker.claim(run.manifest.run_id, running(order))
    run.parts.path(order.shard_id).parent.mkdir(exist_ok=True)
    run.parts.path(order.shard_id).touch()
    wait_for(lambda: dispatcher.poll(0) == [] and not broker.running(run.manifest.run_id), "the record gone")


def test_a_refusal_is_told_with_its_exit_code(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    order = order_for(run)
    broker.claim(run.manifest.run_id, running(order))
    refusal = Report(order.shard_id, "w1", 1, None, "no such model", 5)
    broker.release(run.manifest.run_id, running(order), refusal)
    assert dispatcher.poll(0) == [Refused(order.shard_id, "w1", 1, "no such model", 5)]


def test_after_a_wipe_nothing_is_sent_until_claims_are_back(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    broker.timings = dataclasses.replace(broker.timings, beat=0.2)
    dispatcher.send(order_for(run))
    dispatcher.poll(0)
    client = redis.Redis.from_url(client_url(broker.url))
    client.flushall()
    client.close()
    dispatcher.poll(0)
    assert dispatcher.room() == 0
    assert dispatcher.in_flight() == frozenset()
    wait_for(lambda: dispatcher.room() > 0, "the end of the hold")


def test_orders_reach_the_queue_after_a_wipe(
    run: RunDirectory, broker: Broker, dispatcher: CeleryDispatcher
) -> None:
    dispatcher.send(order_for(run))
    client = redis.Redis.from_url(client_url(broker.url))
    client.flushall()
    client.close()
    with warnings.catch_warnings(record=True) as caught:
        dispatcher.send(order_for(run))
    assert not caught
    assert broker.queued() == {run.manifest.run_id: {order_for(run).shard_id}}


def test_sending_to_a_broker_that_is_away_is_an_error_and_no_wait(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(executor="celery")
    with RedisServer() as server:
        broker = Broker(server.url)
        dispatcher = CeleryDispatcher(run, broker, make_app(server.url))
        dispatcher.send(order_for(run))
    with pytest.raises(BrokerError, match="out of reach"):
        dispatcher.send(order_for(run))
    with pytest.raises(BrokerError, match="out of reach"):
        submit(run, broker)


def test_celery_itself_does_not_wait_for_a_broker_that_is_away(make_run: MakeRun, broker: Broker) -> None:
    run = make_run(executor="celery")
    dispatcher = CeleryDispatcher(run, broker, make_app("redis://127.0.0.1:1/0", broker.queue))
    with pytest.raises(BrokerError, match="was not taken"):
        dispatcher.send(order_for(run))


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
    order = order_for(run)
    broker.claim(run.manifest.run_id, running(order))
    dispatcher.poll(0)
    wait_for(lambda: not broker.claimed(run.manifest.run_id, [running(order)]), "the claim run out")
    later = broker.now() + 3600
    monkeypatch.setattr(broker, "now", lambda: later)
    assert dispatcher.poll(0) == []
    assert dispatcher.in_flight() == {order.shard_id}
    assert broker.beat(run.manifest.run_id, running(order)), "its worker puts the claim back"
