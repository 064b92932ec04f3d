"""Runs that a broker forgot are handed over again by the server: once, and only where nobody wants anything else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from neuroscan_farm.coordinator.extend import plan_addition
from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_url import client_url
from neuroscan_farm.dispatch.farm_records import Ended
from neuroscan_farm.dispatch.redis_server import RedisServer
from neuroscan_farm.serve.forgotten import PATIENCE_SECONDS
from neuroscan_farm.store.additions import place_of_addition
from neuroscan_farm.store.attempts import Attempt
from neuroscan_farm.store.run_directory import RunDirectory
from tests.farm_fixtures import wait_for
from tests.paper_models import finish, paper_model, paper_plan, paper_probe
from tests.serve.api import NOBODY, Api

LATER = 2 * PATIENCE_SECONDS


@pytest.fixture
def wipe(redis_server: RedisServer, broker: Broker) -> Iterator[Callable[[], None]]:
    """Return what has the broker forget everything."""
    client = redis.Redis.from_url(client_url(redis_server.url))

    def forget() -> None:
        for key in client.scan_iter(f"{broker.queue}:*"):
            client.delete(key)

    yield forget
    client.close()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run that its directory gives to the farm, whose first shard is finished; no broker knows it."""
    plan = paper_plan(paper_model(tmp_path / "model"), paper_probe(tmp_path / "sums.json"))
    run = prepare(plan, tmp_path / "runs" / "one", executor="celery")
    finish(run, run.shards()[:1])
    return run


@pytest.fixture
def api(broker: Broker, tmp_path: Path) -> Api:
    return serving(tmp_path, broker.url, broker.queue)


def serving(tmp_path: Path, url: str, queue: str, **config: str) -> Api:
    api = Api(tmp_path / "runs", broker_url=url, queue=queue, **config)
    api.server.farm.look()
    return api


def look_twice(api: Api, *, between: float = LATER) -> None:
    """Have the server look for forgotten runs now, and again after a while."""
    for now in (100.0, 100.0 + between):
        api.server.farm.look()
        api.server.runs.listing(fresh=True)
        api.server.forgotten.step(now)


def test_a_run_that_no_broker_knows_is_handed_over_after_some_seconds(
    api: Api, broker: Broker, run: RunDirectory
) -> None:
    look_twice(api, between=PATIENCE_SECONDS / 2)
    assert broker.runs() == {}
    said = api.get("/runs/one")
    assert (said["state"], "in a moment" in said["says"]) == ("stopped", True)
    api.server.forgotten.step(100 + PATIENCE_SECONDS)
    assert broker.runs()[run.manifest.run_id].location == run.location
    assert run.farm() == (broker.queue, run.location)
    assert api.get("/runs/one")["state"] == "queued"


def test_a_wiped_broker_gets_back_what_it_had(
    api: Api, broker: Broker, run: RunDirectory, wipe: Callable[[], None]
) -> None:
    api.post("/runs/one/resume")
    assert set(broker.runs()) == {run.manifest.run_id}
    for _ in range(2):  # each time anew
        wipe()
        assert broker.runs() == {}
        look_twice(api)
        assert set(broker.runs()) == {run.manifest.run_id}


@pytest.mark.parametrize("wanted", ["paused", "cancelled", "finished", "refused", "local", "another farm's"])
def test_what_is_not_to_go_on_by_itself_does_not(
    api: Api, broker: Broker, run: RunDirectory, wanted: str
) -> None:
    if wanted == "finished":
        finish(run)
    elif wanted == "refused":
        shard = run.shards()[1].shard_id
        run.attempts.record(Attempt(shard, 1, "refused", None, "w", "it cannot", "2026-01-01T00:00:00+00:00"))
    elif wanted == "local":
        run.set_wanted(executor="local")
    elif wanted == "another farm's":
        run.give_to_farm("other", run.location)
    else:
        run.set_wanted(wanted)
    look_twice(api)
    assert broker.runs() == {}


def test_a_run_that_is_cancelled_at_the_last_moment_stays_so(
    api: Api, broker: Broker, run: RunDirectory
) -> None:
    api.server.farm.look()
    api.server.runs.listing(fresh=True)
    api.server.forgotten.step(100.0)
    seen = api.server.runs.listing()
    api.server.runs.listing = lambda *, fresh=False: seen  # type: ignore[method-assign]
    run.set_wanted("cancelled")
    api.server.forgotten.step(100.0 + LATER)
    assert broker.runs() == {}
    assert run.wanted() == "cancelled"


def test_one_that_the_farm_ended_with_an_error_is_left_alone_and_says_why(
    api: Api, broker: Broker, run: RunDirectory
) -> None:
    api.post("/runs/one/resume")
    broker.unregister(run.manifest.run_id, Ended("error", "Traceback\nValueError: a bug", 1))
    look_twice(api)
    assert broker.runs() == {}
    said = api.get("/runs/one")
    assert said["state"] == "stopped"
    assert "ValueError: a bug" in said["says"]
    assert "resume it" in said["says"]
    assert api.post("/runs/one/resume")["state"] == "queued"  # by hand it goes


def test_one_that_does_not_stay_is_not_handed_over_in_a_loop(
    api: Api, broker: Broker, run: RunDirectory, redis_server: RedisServer
) -> None:
    look_twice(api)
    client = redis.Redis.from_url(client_url(redis_server.url))
    client.delete(f"{broker.queue}:runs")  # the same broker loses it, and remembers nothing of it
    client.close()
    look_twice(api)
    look_twice(api)
    assert broker.runs() == {}


def test_what_was_added_to_a_run_is_handed_over_too(api: Api, broker: Broker, run: RunDirectory) -> None:
    finish(run)
    paper_probe(run.root.parent.parent / "more.json", name="more")
    plan = plan_addition(run, [str(run.root.parent.parent / "more.json")])
    prepare(plan, place_of_addition(run, plan.run_id), executor="celery")
    look_twice(api)
    assert set(broker.runs()) == {plan.run_id}


def test_a_damaged_part_is_moved_aside_so_that_its_tasks_are_measured_again(
    api: Api, broker: Broker, run: RunDirectory
) -> None:
    (part,) = (run.root / "parts").glob("*.parquet")
    part.write_bytes(b"PAR1")
    look_twice(api)
    assert set(broker.runs()) == {run.manifest.run_id}
    assert (part.parent / f".bad-{part.name}").exists()


def test_a_place_outside_of_the_roots_is_not_told_to_the_farm(
    broker: Broker, run: RunDirectory, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    api = serving(tmp_path, broker.url, broker.queue, roots=str(tmp_path / "elsewhere"))
    look_twice(api)
    assert broker.runs() == {}
    assert "outside of the roots" in api.get("/runs/one")["says"]


def test_the_farm_calls_a_run_as_it_did_before(broker: Broker, run: RunDirectory, tmp_path: Path) -> None:
    """Its submitter has the folder at another place than this server."""
    run.give_to_farm(broker.queue, "/mnt/theirs/one")
    api = serving(tmp_path, broker.url, broker.queue, path_map=f"/mnt/theirs={run.root.parent}")
    look_twice(api)
    assert broker.runs()[run.manifest.run_id].location == "/mnt/theirs/one"


def test_a_copy_is_not_handed_over_in_place_of_the_run_itself(
    api: Api, broker: Broker, run: RunDirectory, tmp_path: Path
) -> None:
    run.give_to_farm(broker.queue, run.location)
    shutil.copytree(run.root, tmp_path / "runs" / "two")  # which is looked at first
    look_twice(api)
    assert broker.runs()[run.manifest.run_id].location == run.location
    assert "copy of the one" in api.server.forgotten.says(RunDirectory.open(tmp_path / "runs" / "two"))


def test_a_run_of_another_version_is_left_alone(api: Api, broker: Broker, run: RunDirectory) -> None:
    manifest = run.root / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "engine_version": "0"}))
    look_twice(api)
    assert broker.runs() == {}
    assert "this program has" in api.get("/runs/one")["says"]


def test_a_broker_that_comes_back_is_given_time(broker: Broker, run: RunDirectory, tmp_path: Path) -> None:
    api = serving(tmp_path, NOBODY, broker.queue)
    look_twice(api)  # nobody answers: nothing is known, and nothing is done
    assert api.get("/runs/one")["state"] == "queued"
    api.server.farm._config = replace(api.config, broker_url=broker.url)
    api.server.farm._broker = None
    api.server.farm.look()
    api.server.forgotten.step(1000.0)
    assert broker.runs() == {}
    api.server.forgotten.step(1000.0 + PATIENCE_SECONDS)
    assert set(broker.runs()) == {run.manifest.run_id}


def test_a_server_that_runs_looks_by_itself(api: Api, broker: Broker, run: RunDirectory) -> None:
    with api.client:  # starts it, and stops it
        wait_for(broker.runs, "the run in the farm's care", seconds=30)
    assert set(broker.runs()) == {run.manifest.run_id}
