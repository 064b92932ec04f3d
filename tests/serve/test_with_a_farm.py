"""The API beside a real broker: submissions go to the farm, workers are shown as it tells of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.farm_records import Presence, Running
from neuroscan_farm.store.run_directory import RunDirectory
from tests.serve.api import Api, a_request


@pytest.fixture
def api(broker: Broker, tmp_path: Path) -> Api:
    api = Api(tmp_path / "runs", broker_url=broker.url, queue=broker.queue)
    api.server.farm.look()
    return api


def presence(name: str = "gpu1-1", state: str = "ready") -> Presence:
    return Presence(name, "gpu1", 77, "NVIDIA H200", state, 1000.0, model="demo 1a2b", memory_mb=700)


def test_a_submission_goes_to_the_farm_and_says_that_no_worker_is_there(api: Api, broker: Broker) -> None:
    made = api.post("/runs", a_request(), status=201)
    assert made["executor"] == "farm"
    assert made["run"]["state"] == "queued"
    assert "neuroscan-farm worker" in made["says"]
    entry = broker.entry(made["run_id"])
    assert entry is not None
    run = RunDirectory.open(entry.location)
    assert run.executor() == "celery"
    assert run.farm() == (broker.queue, run.location)
    assert api.server.local.queue() == []


def test_this_machine_can_be_asked_for_all_the_same(api: Api, broker: Broker) -> None:
    made = api.ask("POST", "/runs", status=201, params={"executor": "local"}, json=a_request())
    assert made["executor"] == "local"
    assert broker.entry(made["run_id"]) is None


def test_a_run_in_a_workers_hands_runs_and_names_it(api: Api, broker: Broker) -> None:
    made = api.post("/runs", a_request(), status=201)
    broker.show_presence(presence())
    run = RunDirectory.open(Path(api.config.runs_dir) / made["id"])
    shard = run.shards()[0]
    assert broker.claim(
        made["run_id"],
        Running(shard.shard_id, "token", "gpu1-1", "gpu1", 77, 1, shard.tasks[0].task_id, 1000.0),
    )
    api.server.farm.look()
    one = api.get(f"/runs/{made['id']}")
    assert one["state"] == "running"
    assert one["workers"] == ["gpu1-1"]
    (row,) = api.get("/workers")["workers"]
    assert (row["run"], row["shard"], row["task"]) == (made["id"], shard.shard_id, shard.tasks[0].task_id)
    assert row["model"] == "demo 1a2b"
    assert row["memory_mb"] == 700
    assert row["busy_seconds"] >= 0
    assert api.get("/runs", state="running")["total"] == 1


def test_a_run_that_the_farm_forgot_is_stopped_and_resumed(api: Api, broker: Broker) -> None:
    from neuroscan_farm.dispatch.farm_records import Ended

    made = api.post("/runs", a_request(), status=201)
    broker.unregister(made["run_id"], Ended("error", "wiped", 1))
    api.server.farm.look()
    assert api.get(f"/runs/{made['id']}")["state"] == "stopped"
    assert api.post(f"/runs/{made['id']}/resume")["state"] == "queued"
    assert broker.entry(made["run_id"]) is not None


def test_a_worker_is_drained_and_stays_after_all(api: Api, broker: Broker) -> None:
    broker.show_presence(presence())
    assert api.post("/workers/gpu1-1/drain") == {"name": "gpu1-1", "draining": True}
    assert broker.wanted_drained("gpu1-1") is True
    assert api.get("/workers")["workers"][0]["draining"]
    assert api.ask("POST", "/workers/gpu1-1/drain", params={"undo": True})["draining"] is False
    assert broker.wanted_drained("gpu1-1") is False
    assert api.post("/workers/nobody/drain", status=404)["mend"]


def test_a_broker_that_goes_away_is_said_to_be_away_and_runs_stay(api: Api) -> None:
    made = api.post("/runs", a_request(), status=201)
    gone = Api(Path(api.config.runs_dir))
    gone.server.farm.look()
    assert gone.get("/workers")["broker"] == "away"
    one = gone.get(f"/runs/{made['id']}")
    assert one["state"] == "queued"
    assert "nobody knows who works on it" in one["says"]
    assert "out of reach" in gone.post(f"/runs/{made['id']}/resume", status=503)["error"]
    assert gone.post(f"/runs/{made['id']}/pause")["state"] == "paused"  # that needs the directory alone
