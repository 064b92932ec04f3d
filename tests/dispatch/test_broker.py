from __future__ import annotations

import dataclasses
import json
import socket

import fakeredis
import pytest

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_url import client_url, redacted
from neuroscan_farm.dispatch.farm_records import Ended, OrderName, Presence, Report, Running, Timings
from neuroscan_farm.errors import BrokerError

RUN = "duplication-tiny-0123456789"
SHARD = "s0123456789ab"


@pytest.fixture
def client() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis(decode_responses=True)


@pytest.fixture
def farm(client: fakeredis.FakeRedis) -> Broker:
    broker = Broker("redis://nowhere", timings=Timings(claim_ttl=0.2), client=client)
    broker.register(RUN, "/runs/r")
    return broker


def running(worker: str = "w1", task_id: str | None = None, attempt: int = 1) -> Running:
    return Running(SHARD, f"token-of-{worker}", worker, "host", 4711, attempt, task_id, 1.0)


def let_claim_run_out(client: fakeredis.FakeRedis) -> None:
    client.delete(f"neuroscan:claim:{RUN}:{SHARD}")


def test_a_shard_is_claimed_by_one_worker_only(farm: Broker) -> None:
    assert farm.claim(RUN, running("w1"))
    assert not farm.claim(RUN, running("w2"))
    assert farm.claimed(RUN, farm.running(RUN)) == {SHARD}


def test_a_shard_of_a_run_that_has_ended_is_nobodys(farm: Broker) -> None:
    farm.unregister(RUN, Ended("finished", None, 0))
    assert not farm.claim(RUN, running())
    assert farm.ended(RUN) == Ended("finished", None, 0)


def test_a_released_shard_can_be_claimed_again(farm: Broker) -> None:
    farm.claim(RUN, running("w1"))
    assert farm.release(RUN, running("w1", task_id="t1"))
    assert farm.running(RUN) == []
    assert farm.claim(RUN, running("w2"))


def test_only_its_holder_releases_a_claim(farm: Broker) -> None:
    farm.claim(RUN, running("w1"))
    assert not farm.release(RUN, running("w2"))
    assert farm.claimed(RUN, farm.running(RUN)) == {SHARD}


def test_a_beat_says_which_task_runs_and_keeps_the_claim(farm: Broker, client: fakeredis.FakeRedis) -> None:
    farm.claim(RUN, running())
    client.pexpire(f"neuroscan:claim:{RUN}:{SHARD}", 20)
    assert farm.beat(RUN, running(task_id="t1"))
    assert client.pttl(f"neuroscan:claim:{RUN}:{SHARD}") > 20
    assert farm.running(RUN) == [running(task_id="t1")]


def test_a_beat_restores_the_claim_on_a_wiped_broker(farm: Broker, client: fakeredis.FakeRedis) -> None:
    farm.claim(RUN, running())
    client.flushall()
    assert farm.beat(RUN, running(task_id="t1"))
    assert farm.claimed(RUN, farm.running(RUN)) == {SHARD}


def test_a_beat_tells_a_worker_that_its_shard_is_anothers(farm: Broker, client: fakeredis.FakeRedis) -> None:
    farm.claim(RUN, running("w1"))
    let_claim_run_out(client)
    farm.claim(RUN, running("w2"))
    assert not farm.beat(RUN, running("w1"))
    assert [record.worker for record in farm.running(RUN)] == ["w2"]


def test_a_death_is_reported_once_with_the_task(farm: Broker, client: fakeredis.FakeRedis) -> None:
    farm.claim(RUN, running())
    farm.beat(RUN, running(task_id="t1"))
    assert not farm.bury(RUN, running(task_id="t1")), "its claim holds"
    let_claim_run_out(client)
    assert farm.bury(RUN, running(task_id="t1"))
    assert not farm.bury(RUN, running(task_id="t1"))
    [(receipt, report)] = farm.reports(RUN)
    assert (report.shard_id, report.task_id, report.worker, report.exit_code) == (SHARD, "t1", "w1", None)
    assert "4711" in report.error
    farm.settle(RUN, [receipt])
    assert farm.reports(RUN) == []


def test_a_witnessed_death_need_not_wait_for_the_claim_to_run_out(farm: Broker) -> None:
    farm.claim(RUN, running())
    assert farm.bury(RUN, running(), witnessed=True)
    assert farm.claim(RUN, running("w2"))


def test_a_death_that_nobody_saw_is_reported_by_the_next_claim(
    farm: Broker, client: fakeredis.FakeRedis
) -> None:
    farm.claim(RUN, running("w1"))
    let_claim_run_out(client)
    farm.claim(RUN, running("w2"))
    assert [report.worker for _, report in farm.reports(RUN)] == ["w1"]
    assert [record.worker for record in farm.running(RUN)] == ["w2"]


def test_a_refusal_travels_with_the_release(farm: Broker) -> None:
    refusal = Report(SHARD, "w1", 1, None, "no such model", 5)
    farm.claim(RUN, running())
    farm.release(RUN, running(), refusal)
    assert [report for _, report in farm.reports(RUN)] == [refusal]


def test_a_run_that_comes_back_forgets_what_was_said_after_its_end(
    farm: Broker, client: fakeredis.FakeRedis
) -> None:
    farm.claim(RUN, running())
    farm.unregister(RUN, Ended("refused", "no such model", 5))
    farm.release(RUN, running(), Report(SHARD, "w1", 1, None, "no such model", 5))
    farm.register(RUN, "/runs/r")
    assert farm.reports(RUN) == []
    assert farm.ended(RUN) is None


def test_the_epoch_changes_with_a_wipe_and_with_nothing_else(
    farm: Broker, client: fakeredis.FakeRedis
) -> None:
    first = farm.epoch()
    assert farm.epoch() == first
    client.flushall()
    assert farm.epoch() != first


def test_one_reconciler_holds_the_lease(farm: Broker, client: fakeredis.FakeRedis) -> None:
    assert farm.take_lease(RUN, "a")
    assert farm.take_lease(RUN, "a")
    assert not farm.take_lease(RUN, "b")
    client.delete(f"neuroscan:lease:{RUN}")
    assert farm.take_lease(RUN, "b")


def test_workers_are_listed_with_what_they_do(farm: Broker) -> None:
    idle = Presence("w0", "host", 1, "all visible", "ready", 1.0)
    farm.show_presence(idle)
    farm.show_presence(dataclasses.replace(idle, name="w1"))
    farm.claim(RUN, running("w1"))
    farm.beat(RUN, running("w1", task_id="t1"))
    assert farm.workers() == [
        idle,
        Presence("w1", "host", 1, "all visible", "ready", 1.0, RUN, SHARD, "t1", 1.0),
    ]
    farm.end_presence("w0")
    assert [worker.name for worker in farm.workers()] == ["w1"]


def test_orders_are_recognised_in_the_queue_and_strangers_are_not(
    farm: Broker, client: fakeredis.FakeRedis
) -> None:
    ours = json.dumps({"headers": {"id": str(OrderName(RUN, SHARD, 2))}})
    client.rpush("neuroscan", ours, "no json", "[]", '{"headers": {"id": "5f9d"}}')
    assert farm.queued() == {RUN: {SHARD}}


def test_farms_with_other_queues_do_not_see_each_other(farm: Broker, client: fakeredis.FakeRedis) -> None:
    other = Broker("redis://nowhere", queue="other", client=client)
    assert other.runs() == {}
    farm.show_presence(Presence("w0", "host", 1, "all visible", "ready", 1.0))
    assert other.workers() == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:geheim@host:6379/0", "redis://:***@host:6379/0"),
        ("rediss://me:ge@heim@host/1", "rediss://me:***@host/1"),
        ("redis+socket://:geheim@/run/redis.sock", "redis+socket://:***@/run/redis.sock"),
        ("redis://host", "redis://host"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    ("url", "client"),
    [
        ("redis+socket:///run/redis.sock", "unix:///run/redis.sock"),
        ("redis+socket://:geheim@/run/redis.sock?virtual_host=3", "unix://:geheim@/run/redis.sock?db=3"),
        ("redis://me:geheim@host:7000/2", "redis://me:geheim@host:7000/2"),
    ],
)
def test_a_url_in_celerys_spelling_is_translated_for_redis_py(url: str, client: str) -> None:
    assert client_url(url) == client
    Broker(url)


def test_tls_options_reach_redis_py() -> None:
    kwargs = Broker("rediss://host/0?ssl_ca_certs=/ca.pem")._redis.connection_pool.connection_kwargs
    assert kwargs["ssl_ca_certs"] == "/ca.pem"


@pytest.mark.parametrize("url", ["amqp://host", "host:6379", "redis://host:port/0", "redis://host/zero?db=x"])
def test_a_url_that_is_none_is_refused_with_the_accepted_forms(url: str) -> None:
    with pytest.raises(BrokerError, match="broker"):
        Broker(url)


def test_a_broker_that_is_away_is_named_with_the_mend() -> None:
    with socket.socket() as taken:  # bound but not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        broker = Broker(f"redis://:geheim@127.0.0.1:{taken.getsockname()[1]}/0")
        with pytest.raises(BrokerError, match=r"out of reach.*neuroscan-farm up") as caught:
            broker.ping()
        assert caught.value.exit_code == 4
        assert "geheim" not in str(caught.value)
