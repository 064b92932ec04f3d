from __future__ import annotations

import dataclasses
import json
import socket

import fakeredis
import pytest

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_orders import lists_of, message_priority
from neuroscan_farm.dispatch.broker_url import celery_url, client_url, redacted
from neuroscan_farm.dispatch.farm_records import (
    Ended,
    OrderName,
    Presence,
    Refusal,
    Report,
    RunEntry,
    Running,
    Timings,
)
from neuroscan_farm.dispatch.wire import model_queue
from neuroscan_farm.errors import BrokerError

RUN = "duplication-tiny-0123456789"
SHARD = "s0123456789ab"
ENTRY = RunEntry("/runs/r", "0123456789abcdef0123456789abcdef", "tiny")


@pytest.fixture
def client() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis(decode_responses=True)


@pytest.fixture
def farm(client: fakeredis.FakeRedis) -> Broker:
    broker = Broker("redis://nowhere", timings=Timings(claim_ttl=0.2), client=client)
    broker.register(RUN, ENTRY)
    return broker


def running(worker: str = "w1", task_id: str | None = None, attempt: int = 1) -> Running:
    return Running(SHARD, f"token-of-{worker}", worker, "host", 4711, attempt, task_id, 1.0)


def claimed(farm: Broker) -> frozenset[str]:
    return farm.snapshot([RUN]).states[RUN].claimed


def let_claim_run_out(client: fakeredis.FakeRedis) -> None:
    client.delete(f"neuroscan:claim:{RUN}:{SHARD}")


def test_a_shard_is_claimed_by_one_worker_only(farm: Broker) -> None:
    assert farm.claim(RUN, running("w1"))
    assert not farm.claim(RUN, running("w2"))
    assert claimed(farm) == {SHARD}


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
    assert claimed(farm) == {SHARD}


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
    assert claimed(farm) == {SHARD}


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


def refuse(farm: Broker, worker: str = "w1", error: str = "no such model") -> None:
    farm.claim(RUN, running(worker))
    farm.release(RUN, running(worker), Report(SHARD, worker, 1, None, error, 5))


def test_a_refusal_travels_with_the_release_and_is_no_report(farm: Broker) -> None:
    refuse(farm)
    [refusal] = farm.refusals(RUN).values()
    assert refusal == Refusal("w1", SHARD, 1, "no such model", 5, refusal.at)
    assert farm.reports(RUN) == []
    assert farm.has_refused("w1", RUN)
    assert farm.runs_for("w1") == {}
    assert farm.runs_for("w2") == {RUN: ENTRY}


def test_a_refusal_holds_although_the_claim_ran_out(farm: Broker, client: fakeredis.FakeRedis) -> None:
    farm.claim(RUN, running())
    let_claim_run_out(client)
    assert not farm.release(RUN, running(), Report(SHARD, "w1", 1, None, "no such model", 5))
    assert farm.has_refused("w1", RUN)


def test_refusals_are_taken_back_by_waking_the_run_and_by_starting_the_worker_anew(farm: Broker) -> None:
    refuse(farm)
    farm.register(RUN, ENTRY)
    assert farm.refusals(RUN) == {}
    refuse(farm)
    farm.forgive("w2", farm.runs())
    assert farm.has_refused("w1", RUN)
    farm.forgive("w1", farm.runs())
    assert farm.refusals(RUN) == {}


def test_nobody_comes_back_from_the_dead(farm: Broker, client: fakeredis.FakeRedis) -> None:
    farm.claim(RUN, running("w1"))
    let_claim_run_out(client)
    farm.bury(RUN, running("w1"))
    assert not farm.beat(RUN, running("w1")), "its death is on record"
    assert farm.claim(RUN, running("w2"))
    let_claim_run_out(client)
    farm.claim(RUN, running("w3"))
    farm.release(RUN, running("w3"))
    assert not farm.beat(RUN, running("w2")), "the next claim told of its death"


def test_a_death_is_reported_with_its_cause_where_that_is_known(farm: Broker) -> None:
    farm.claim(RUN, running())
    farm.bury(RUN, running(), witnessed=True, error="hung: no progress for 7 s")
    [(_, report)] = farm.reports(RUN)
    assert report.error.endswith("loading the model: hung: no progress for 7 s")


def test_a_run_that_comes_back_forgets_what_was_said_after_its_end(
    farm: Broker, client: fakeredis.FakeRedis
) -> None:
    farm.claim(RUN, running())
    farm.unregister(RUN, Ended("refused", "no such model", 5))
    farm.release(RUN, running(), Report(SHARD, "w1", 1, None, "no such model", 5))
    farm.register(RUN, ENTRY)
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
    said = {"heartbeat_age": 0.0, "clock": 0.0, "version": "", "timings": ""}
    seen = [dataclasses.replace(worker, **said) for worker in farm.workers()]
    assert seen == [
        idle,
        Presence("w1", "host", 1, "all visible", "ready", 1.0, RUN, SHARD, "t1", 1.0),
    ]
    farm.end_presence("w0")
    assert [worker.name for worker in farm.workers()] == ["w1"]


def message(shard: str = SHARD, run: str = RUN, attempt: int = 2) -> str:
    return json.dumps({"headers": {"id": str(OrderName(run, shard, attempt))}})


def test_orders_are_recognised_in_every_list_of_the_queues_and_strangers_are_not(
    farm: Broker, client: fakeredis.FakeRedis
) -> None:
    queue = model_queue("neuroscan", ENTRY.model)
    client.rpush("neuroscan", message("sa"), "no json", "[]", '{"headers": {"id": "5f9d"}}', "[" * 100_000)
    for priority in range(10):
        client.rpush(lists_of(queue)[message_priority(priority)], message(f"s{priority}"))
    client.rpush(model_queue("neuroscan", "f" * 32), message("sz"))
    expected = {"sa", *(f"s{priority}" for priority in range(10))}
    assert farm.queued() == {RUN: expected}
    assert farm.snapshot().states[RUN].queued == expected


def test_the_most_urgent_list_is_taken_first_and_is_the_users_nine() -> None:
    lists = lists_of("q")
    assert [lists.index(lists[message_priority(priority)]) for priority in (9, 5, 0)] == [0, 4, 9]
    assert [message_priority(5, attempt) for attempt in (1, 2, 3)] == [4, 3, 3], (
        "what is tried again goes first"
    )
    assert message_priority(9, 2) == 0
    assert lists[0] == "q"
    assert len(set(lists)) == 10


def test_the_age_of_a_heartbeat_is_told_by_the_broker(farm: Broker, client: fakeredis.FakeRedis) -> None:
    farm.show_presence(Presence("w0", "host", 1, "all visible", "ready", 1.0))
    client.pexpire("neuroscan:worker:w0", int((farm.timings.presence_ttl - 4) * 1000))
    [worker] = farm.workers()
    assert 4.0 <= worker.heartbeat_age <= farm.timings.presence_ttl
    client.delete("neuroscan:worker:w0")
    assert farm.workers() == []
    assert client.smembers("neuroscan:workers") == set()


def test_a_snapshot_says_what_the_single_questions_say(farm: Broker, client: fakeredis.FakeRedis) -> None:
    other = "duplication-tiny-9876543210"
    farm.register(other, dataclasses.replace(ENTRY, location="s3://bucket/other"))
    client.rpush(model_queue("neuroscan", ENTRY.model), message("s1"), message("s2", run=other))
    farm.note_sent(RUN, ["s1"])
    farm.claim(RUN, running("w1"))
    farm.bury(RUN, running("w1"), witnessed=True)
    refuse(farm, "w2")
    farm.claim(RUN, running("w3"))
    farm.show_presence(Presence("w3", "host", 1, "all visible", "ready", 1.0))
    seen = farm.snapshot()
    assert seen.runs == farm.runs()
    assert seen.epoch == farm.epoch()
    assert [(worker.name, worker.run_id, worker.shard_id) for worker in seen.workers] == [("w3", RUN, SHARD)]
    for run_id in (RUN, other):
        state = seen.states[run_id]
        assert state.queued == farm.queued()[run_id]
        assert list(state.running) == farm.running(run_id)
        assert state.sent == farm.sent(run_id)
        assert list(state.reports) == farm.reports(run_id)
        assert state.refusals == farm.refusals(run_id)
    assert (seen.states[RUN].claimed, seen.states[other].claimed) == ({SHARD}, set())
    assert set(farm.snapshot([RUN]).states) == {RUN}


@pytest.mark.parametrize(
    "text",
    ["", "/runs/r", "[]", "{}", '{"location": "../etc", "model": "0123456789ab", "model_name": ""}'],
)
def test_an_entry_of_the_registry_that_is_none_does_not_hide_the_others(
    farm: Broker, client: fakeredis.FakeRedis, text: str
) -> None:
    client.hset("neuroscan:runs", "another", text)
    assert farm.runs() == {RUN: ENTRY}
    assert set(farm.snapshot().states) == {RUN}


def test_nothing_of_a_run_stays_after_its_end_but_how_it_ended(
    farm: Broker, client: fakeredis.FakeRedis
) -> None:
    farm.epoch()
    before = set(client.keys("*"))
    queue = lists_of(model_queue("neuroscan", ENTRY.model))[4]
    for number in range(50):
        record = dataclasses.replace(running(), shard_id=f"s{number}", token=f"t{number}")
        farm.note_sent(RUN, [record.shard_id, f"q{number}"])
        farm.claim(RUN, record)
        failure = Report(record.shard_id, "w1", 1, "t", "a bug", None)
        if number % 2:
            farm.release(RUN, record, failure if number % 3 else None)
        else:
            farm.bury(RUN, record, witnessed=True)
        client.lpush(queue, message(f"q{number}"))
    refuse(farm)
    farm.take_lease(RUN, "a")
    kept_for_ever = {key for key in client.keys("*") if client.ttl(key) == -1} - before
    assert kept_for_ever <= {queue}, "should its end be missed, all of it expires"
    farm.unregister(RUN, Ended("finished", None, 0))
    assert set(client.keys("*")) - before == {f"neuroscan:ended:{RUN}"}
    assert client.ttl(f"neuroscan:ended:{RUN}") > 0


def test_orders_of_other_runs_stay_when_one_ends(farm: Broker, client: fakeredis.FakeRedis) -> None:
    farm.register("other", ENTRY)
    queue = model_queue("neuroscan", ENTRY.model)
    client.lpush(queue, message(), message(run="other"), "no json")
    farm.unregister(RUN, Ended("cancelled", None, 1))
    assert client.llen(queue) == 2
    assert farm.queued() == {"other": {SHARD}}


def test_a_worker_is_asked_to_leave_and_asked_to_stay(farm: Broker, client: fakeredis.FakeRedis) -> None:
    assert farm.wanted_drained("w1") is None
    farm.want_drained("w1", drained=True)
    assert farm.wanted_drained("w1") is True
    farm.want_drained("w1", drained=False)
    assert farm.wanted_drained("w1") is False
    assert client.ttl("neuroscan:drain:w1") > 0
    farm.forget_drained("w1")
    assert farm.wanted_drained("w1") is None


def test_a_lease_is_given_up_by_its_holder_alone(farm: Broker) -> None:
    farm.take_lease(RUN, "a")
    farm.end_lease(RUN, "b")
    assert not farm.take_lease(RUN, "b")
    farm.end_lease(RUN, "a")
    assert farm.take_lease(RUN, "b")


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


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("redis://host/0", "redis://host/0"),
        ("rediss://host/0", "rediss://host/0?ssl_cert_reqs=required"),
        ("rediss://host/0?ssl_ca_certs=/c", "rediss://host/0?ssl_ca_certs=/c&ssl_cert_reqs=required"),
        ("rediss://host/0?ssl_cert_reqs=none", "rediss://host/0?ssl_cert_reqs=none"),
    ],
)
def test_celery_trusts_no_certificate_unasked(url: str, given: str) -> None:
    assert celery_url(url) == given


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
