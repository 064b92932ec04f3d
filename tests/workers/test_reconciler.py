"""One reconciler over many runs, with no worker at the other end: what it looks at, what it sends, what stops it."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_url import client_url
from neuroscan_farm.dispatch.celery_queue import ORDERS_PER_WORKER, make_app, submit
from neuroscan_farm.dispatch.farm_records import Presence, Report, RunEntry, Running, Snapshot
from neuroscan_farm.dispatch.places_here import PlacesHere
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.farm_fixtures import entry_of, order_of, wait_for
from workers.reconciler import Reconciler

MakeReconciler = Callable[..., Reconciler]


@pytest.fixture
def make_reconciler(broker: Broker) -> MakeReconciler:
    def make(**places: tuple[str, ...]) -> Reconciler:
        return Reconciler(broker, make_app(broker.url, broker.queue), places=PlacesHere(**places))

    return make


@pytest.fixture
def runs(make_run: MakeRun) -> list[RunDirectory]:
    return [make_run(f"run-{size}", executor="celery", shard_size=size) for size in range(2, 8)]


def test_every_run_gets_its_few_orders_by_one_look_at_the_broker(
    broker: Broker,
    make_reconciler: MakeReconciler,
    runs: list[RunDirectory],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for run in runs:
        submit(run, broker)
    reconciler = make_reconciler()
    looks = []
    look = broker.snapshot

    def counted(run_ids: list[str]) -> Snapshot:
        looks.append(1)
        return look(run_ids)

    monkeypatch.setattr(broker, "snapshot", counted)
    for _ in range(3):
        reconciler.step()
    assert len(looks) == 3
    queued = broker.queued()
    assert {run_id: len(shards) for run_id, shards in queued.items()} == {
        run.manifest.run_id: ORDERS_PER_WORKER for run in runs
    }


def test_an_idle_pass_writes_nothing_but_leases(
    broker: Broker, make_reconciler: MakeReconciler, runs: list[RunDirectory]
) -> None:
    broker.timings = dataclasses.replace(broker.timings, lost_after=600.0)
    for run in runs:
        submit(run, broker)
    reconciler = make_reconciler()
    reconciler.step()
    client = redis.Redis.from_url(client_url(broker.url), decode_responses=True)

    def calls() -> Counter[str]:
        stats = client.info("commandstats")
        return Counter({name.removeprefix("cmdstat_"): said["calls"] for name, said in stats.items()})

    before = calls()
    reconciler.step()
    done = calls() - before
    client.close()
    assert not {"hset", "hdel", "lpush", "rpush", "lrem", "del", "expire"} & set(done)
    assert done["evalsha"] == len(runs)
    assert done["hgetall"] <= len(runs) + 2


def test_a_run_that_cannot_be_opened_here_does_not_stop_the_others(
    broker: Broker,
    make_reconciler: MakeReconciler,
    runs: list[RunDirectory],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good, damaged, foreign, cut, *_ = runs
    Path(damaged.location, "manifest.json").write_text("{")
    Path(cut.location, "plan.parquet").write_bytes(b"PAR1")
    fingerprint = good.manifest.model_fingerprint
    broker.register("a-missing-run", RunEntry(str(tmp_path / "missing"), fingerprint))
    broker.register("b-outside", RunEntry("/etc", fingerprint))
    broker.register("c-foreign", entry_of(foreign))
    broker.register("d-elsewhere", RunEntry("s3://bucket/run", fingerprint))
    for run in (damaged, cut, good):
        submit(run, broker)
    reconciler = make_reconciler(roots=(str(tmp_path),))
    for _ in range(2):
        reconciler.step()
    assert set(broker.queued()) == {good.manifest.run_id}
    complaints = [
        record.getMessage() for record in caplog.records if "cannot be driven" in record.getMessage()
    ]
    assert len(complaints) == 6, "each is told once"
    assert len(broker.runs()) == 7, "another machine may be able to"


def test_what_one_reconciler_cannot_open_is_left_to_another(
    broker: Broker, make_reconciler: MakeReconciler, runs: list[RunDirectory], tmp_path: Path
) -> None:
    run = runs[0]
    broker.register(run.manifest.run_id, dataclasses.replace(entry_of(run), location="/mnt/run"))
    blind = make_reconciler()
    seeing = make_reconciler(path_map=(("/mnt/run", run.location),))
    blind.step()
    seeing.step()
    assert set(broker.queued()) == {run.manifest.run_id}


def test_who_holds_no_lease_opens_no_run_and_reads_no_orders(
    broker: Broker,
    make_reconciler: MakeReconciler,
    runs: list[RunDirectory],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for run in runs:
        submit(run, broker)
    make_reconciler().step()
    monkeypatch.setattr(RunDirectory, "open", lambda location: pytest.fail(f"{location} was opened"))
    monkeypatch.setattr(broker, "snapshot", lambda run_ids: pytest.fail("the orders were read"))
    make_reconciler().step()


def test_two_reconcilers_do_not_send_twice(
    broker: Broker, make_reconciler: MakeReconciler, runs: list[RunDirectory]
) -> None:
    for run in runs:
        submit(run, broker)
    pair = [make_reconciler(), make_reconciler()]
    for _ in range(3):
        for reconciler in pair:
            reconciler.step()
    client = redis.Redis.from_url(client_url(broker.url), decode_responses=True)
    waiting = sum(client.llen(key) for key in client.keys(f"{broker.queue}.*") if client.type(key) == "list")
    client.close()
    assert waiting == len(runs) * ORDERS_PER_WORKER


def test_a_run_that_is_submitted_under_another_name_is_driven_under_it(
    broker: Broker, make_reconciler: MakeReconciler, runs: list[RunDirectory]
) -> None:
    run = runs[0]
    broker.register(run.manifest.run_id, dataclasses.replace(entry_of(run), location="/old/run"))
    reconciler = make_reconciler(path_map=(("/old/run", run.location), ("/new/run", run.location)))
    reconciler.step()
    client = redis.Redis.from_url(client_url(broker.url))
    client.delete(*client.keys(f"{broker.queue}.*"))
    broker.register(run.manifest.run_id, dataclasses.replace(entry_of(run), location="/new/run"))

    def sent_anew() -> bool:
        reconciler.step()
        return bool(broker.queued())

    wait_for(sent_anew, "orders anew")
    [key] = client.keys(f"{broker.queue}.*")
    messages = client.lrange(key, 0, -1)
    client.close()
    bodies = [base64.b64decode(json.loads(message)["body"]) for message in messages]
    assert all(b'"/new/run"' in body for body in bodies)
    assert bodies


def test_a_run_ends_when_every_live_worker_refused_it_and_leaves_no_keys(
    broker: Broker, make_reconciler: MakeReconciler, runs: list[RunDirectory]
) -> None:

    broker.timings = dataclasses.replace(broker.timings, lost_after=0.0)
    run, run_id = runs[0], runs[0].manifest.run_id
    submit(run, broker)
    broker.show_presence(Presence("w1", "host", 1, "all visible", "ready", 1.0))
    reconciler = make_reconciler()
    reconciler.step()
    record = Running(order_of(run).shard_id, "t", "w1", "host", 1, 1, None, 1.0)
    broker.claim(run_id, record)
    broker.release(run_id, record, Report(record.shard_id, "w1", 1, None, "no such model", 5))
    end = wait_for(lambda: (reconciler.step(), broker.ended(run_id))[1], "the end of the run")
    assert (end.state, end.reason, end.exit_code) == ("refused", "no such model", 5)
    client = redis.Redis.from_url(client_url(broker.url), decode_responses=True)
    left = {key.removeprefix(broker.queue) for key in client.keys(f"{broker.queue}*")}
    client.close()
    assert left == {":epoch", f":ended:{run_id}", ":worker:w1", ":workers"}
