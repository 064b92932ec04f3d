"""Submitting runs, and what a person may want of them; the queue of a machine without a farm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.coordinator.run_lock import lock_of
from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.serve.local_work import LocalWork
from neuroscan_farm.serve.waiting import Waiting, write_waiting
from neuroscan_farm.store.run_directory import RunDirectory
from tests.paper_models import finish, paper_model, paper_plan, paper_probe
from tests.serve.api import Api, a_request

PROBE = {"name": "mine", "samples": [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2=", "answer": "4"}]}


@pytest.fixture
def api(tmp_path: Path) -> Api:
    return Api(tmp_path / "runs")


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Api:
    """One server for all that is refused, and so changes nothing."""
    return Api(tmp_path_factory.mktemp("refusing") / "runs")


@pytest.fixture
def paper(tmp_path: Path, api: Api) -> RunDirectory:
    """A run on paper among the runs, two of whose shards are finished and failed."""
    del api
    plan = paper_plan(paper_model(tmp_path / "model"), paper_probe(tmp_path / "sums.json"))
    run = prepare(plan, tmp_path / "runs" / "paper", executor="local")
    finish(run, run.shards()[:1])
    finish(run, run.shards()[1:2], outcome=Outcome.NON_FINITE)
    return run


def test_a_request_becomes_a_run_that_waits_and_the_same_again_finds_it(api: Api, tmp_path: Path) -> None:
    made = api.client.post("/api/v1/runs", json=a_request())
    assert made.status_code == 201
    said = made.json()
    assert made.headers["location"] == f"/api/v1/runs/{said['id']}"
    assert said["executor"] == "local"
    assert said["run"]["state"] == "queued"
    assert "this machine" in said["says"]
    again = api.post(
        "/runs", a_request(parameters={"max_block": 1, "min_block": 1})
    )  # a default, written out
    assert (again["id"], again["created"]) == (said["id"], False)
    assert api.get("/runs")["all"] == 1
    assert RunDirectory.open(tmp_path / "runs" / said["id"]).executor() == "local"


def test_a_run_that_somebody_made_elsewhere_among_the_runs_is_found_too(
    api: Api, paper: RunDirectory, tmp_path: Path
) -> None:
    api_with_model = Api(tmp_path / "runs", models=(tmp_path,), probes=(tmp_path,))
    body = {
        "analysis": "duplication", "model": str(tmp_path / "model"), "probes": ["sums.json"], "shard_size": 4,
    }  # fmt: skip
    assert api_with_model.post("/runs", body)["id"] == "paper"


def test_a_probe_in_the_request_is_kept_with_the_run_and_the_request_can_be_submitted_again(api: Api) -> None:
    from neuroscan_farm.coordinator.prepare import make_plan

    made = api.post("/runs", a_request(probes=["demo-chain", PROBE]), status=201)
    run = api.server.runs.find(made["id"]).directory
    assert [probe.name for probe in run.probes()] == ["demo-chain", "mine"]
    assert make_plan(run.request()).run_id == run.manifest.run_id
    assert api.post("/runs", a_request(probes=["demo-chain", PROBE]))["id"] == made["id"]
    changed = {**PROBE, "samples": [*PROBE["samples"], {"prompt": "3+3=", "answer": "6"}]}
    assert api.post("/runs", a_request(probes=["demo-chain", changed]), status=201)["id"] != made["id"]


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"parameters": {"min_block": 0, "nothing": 1}}, {"parameters.min_block", "parameters.nothing"}),
        ({"analysis": "none"}, set()),
        ({"metric": "luck"}, {"metric"}),
        ({"engine": {"dtype": "int4"}}, {"engine.dtype"}),
        ({"confirm": 2}, {"confirm"}),
        ({"probes": []}, {"probes"}),
        ({"probes": [{"name": "bad"}]}, {"probes.0"}),
        ({"model": ""}, {"model"}),
        ({"shard_size": 0}, {"shard_size"}),
        ({"parameters": {"times": 10**9}}, set()),
        ({"parameters": {"blocks": ["9,99"]}}, set()),
    ],
)
def test_a_wrong_request_is_refused_at_its_fields_and_leaves_nothing(
    refusing: Api, changes: dict[str, Any], fields: set[str]
) -> None:
    said = refusing.post("/runs", a_request(**changes), status=422)
    assert said["error"]
    assert fields <= set(said.get("fields", {}))
    assert refusing.get("/runs")["all"] == 0


def test_a_run_is_paused_resumed_and_cancelled(api: Api, paper: RunDirectory) -> None:
    assert api.get("/runs/paper")["state"] == "stopped"
    assert api.post("/runs/paper/resume")["state"] == "queued"
    assert api.server.local.queue() == ["paper"]
    paused = api.post("/runs/paper/pause")
    assert paused["state"] == "paused"
    assert paused["can"] == ["cancel", "resume", "retry"]
    assert api.server.local.queue() == []
    assert api.post("/runs/paper/resume")["state"] == "queued"
    assert api.post("/runs/paper/cancel")["state"] == "cancelled"
    assert paper.wanted() == "cancelled"
    assert api.server.local.queue() == []
    assert api.post("/runs/paper/resume")["state"] == "queued"
    assert paper.wanted() == "running"


def test_a_finished_run_cannot_be_paused_and_says_so(api: Api, paper: RunDirectory) -> None:
    finish(paper)
    for action in ("pause", "cancel", "resume"):
        said = api.post(f"/runs/paper/{action}", status=409)
        assert "finished already" in said["error"]
        assert said["mend"]
    api.post("/runs/none/pause", status=404)


def test_failed_tasks_are_tried_again_and_others_stay(api: Api, paper: RunDirectory) -> None:
    before = api.get("/runs/paper")
    assert before["tasks_failed"] == 3
    retried = api.post("/runs/paper/retry")
    assert retried["state"] == "queued"
    assert retried["tasks_finished"] == before["tasks_finished"] - 3
    assert "no task has failed" in api.post("/runs/paper/retry", status=409)["error"]


def test_a_run_that_a_process_of_this_machine_drives_goes_on_there(api: Api, paper: RunDirectory) -> None:
    with lock_of(paper.location):
        assert api.get("/runs/paper")["state"] == "running"
        api.post("/runs/paper/pause")
        assert api.post("/runs/paper/resume")["state"] == "running"
        assert paper.wanted() == "running"
        assert api.server.local.queue() == []  # it is not ours to start


def test_a_run_of_another_version_is_not_gone_on_with(api: Api, paper: RunDirectory) -> None:
    manifest = paper.root / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "engine_version": "0"}))
    assert "this program has" in api.post("/runs/paper/resume", status=409)["error"]


def test_the_queue_lies_in_the_run_directories_and_survives_the_server(api: Api, tmp_path: Path) -> None:
    ids = [
        api.post("/runs", a_request(probes=[name]), status=201)["id"]
        for name in ("demo-json", "demo-chain", "demo-recall")
    ]
    assert api.server.local.queue() == ids
    anew = Api(tmp_path / "runs")
    assert anew.server.local.queue() == ids
    assert "2 before it" in anew.get(f"/runs/{ids[2]}")["says"]
    anew.post(f"/runs/{ids[0]}/cancel")
    assert anew.get("/workers")["local"] == {"running": None, "queue": ids[1:]}


def test_one_that_was_stopped_by_its_user_is_not_started_by_the_server(api: Api, paper: RunDirectory) -> None:
    assert api.server.local.queue() == []
    assert "resume it" in api.get("/runs/paper")["says"]


def test_nothing_is_begun_while_a_process_of_an_earlier_server_works(
    api: Api, paper: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(LocalWork, "_begin", lambda self, run: begun.append(run.id))
    other = api.post("/runs", a_request(), status=201)["id"]
    write_waiting(paper, Waiting(1.0))
    with lock_of(paper.location):
        api.server.runs.listing(fresh=True)
        assert api.server.local.running() == "paper"
        api.server.local._step()
        assert begun == []
    api.server.runs.listing(fresh=True)
    api.server.local._step()
    assert begun == ["paper"]  # which has waited longer than the other
    finish(paper)
    api.server.runs.listing(fresh=True)
    api.server.local._step()
    assert begun == ["paper", other]
    assert not (paper.root / "serve.json").exists()


def test_a_run_that_could_not_be_carried_out_says_why_and_waits_no_more(
    api: Api, paper: RunDirectory
) -> None:
    api.post("/runs/paper/resume")
    local = api.server.local
    local._step()  # a model of no weights: its process ends with an error
    assert local._in_hand is not None
    local._in_hand.process.wait(timeout=120)
    api.server.runs.listing(fresh=True)
    local._step()
    one = api.get("/runs/paper")
    assert one["state"] in {"stopped", "refused"}
    assert "cannot be loaded" in one["says"]
    assert local.queue() == []
    assert "resume" in one["can"]
    assert api.post("/runs/paper/resume")["state"] == "queued"


def test_checkpoints_are_written_into_the_configured_folder_alone(tmp_path: Path) -> None:
    api = Api(tmp_path / "runs")
    run = api.post("/runs", a_request(), status=201)["id"]
    assert (
        "NEUROSCAN_SERVE_MATERIALIZE"
        in api.post(f"/runs/{run}/materialize", {"block": "3,7"}, status=422)["error"]
    )
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    api = Api(tmp_path / "runs", materialize=folder)
    assert api.get(f"/runs/{run}")["can_materialize"]
    for wrong in (
        {},
        {"block": "3,7", "top": 1},
        {"path": "0..99"},
        {"path": "0..4,5:mlp,6..13"},
        {"output": "/tmp"},
    ):
        api.post(f"/runs/{run}/materialize", wrong, status=422)
    api.post(f"/runs/{run}/materialize", {"top": 1}, status=409)  # nothing is measured
    job = api.post(f"/runs/{run}/materialize", {"block": "3,7"}, status=202)
    assert job["path"] == "0..6,3..13"
    api.server.jobs._running[job["id"]].wait(timeout=120)
    done = api.get(f"/runs/{run}/materialize/{job['id']}")
    assert done["state"] == "finished", done
    assert json.loads((folder / done["folder"] / "config.json").read_text())["num_hidden_layers"] == 18
    assert api.post(f"/runs/{run}/materialize", {"path": "0..6,3..13"})["id"] == job["id"]
    anew = Api(tmp_path / "runs", materialize=folder)
    assert anew.get(f"/runs/{run}/materialize")["jobs"] == [done]
    anew.get(f"/runs/{run}/materialize/../../x", status=404)
    assert [one.name for one in folder.iterdir() if not one.name.startswith(".")] == [done["folder"]]


def test_a_checkpoint_that_was_interrupted_says_so_and_can_be_asked_for_again(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    api = Api(tmp_path / "runs", materialize=folder)
    run = api.post("/runs", a_request(), status=201)["id"]
    job = api.post(f"/runs/{run}/materialize", {"block": "2,4"}, status=202)
    api.server.jobs._running[job["id"]].kill()
    api.server.jobs._running[job["id"]].wait()
    anew = Api(tmp_path / "runs", materialize=folder)
    assert anew.get(f"/runs/{run}/materialize/{job['id']}")["state"] in {"interrupted", "finished"}


def test_what_may_be_submitted_is_told(api: Api) -> None:
    told = api.get("/options")
    assert [one["name"] for one in told["analyses"]] == ["duplication", "ablation", "circuits"]
    assert told["models"][0]["model"] == "demo"
    assert "demo-chain" in [one["name"] for one in told["probes"]]
    assert told["executor"] == "local"
    assert "one at a time" in told["says"]


def test_a_farm_that_is_asked_for_and_out_of_reach_is_an_error_and_leaves_no_run(api: Api) -> None:
    said = api.ask("POST", "/runs", status=503, params={"executor": "farm"}, json=a_request())
    assert "out of reach" in said["error"]
    assert api.get("/runs")["all"] == 0
    assert "out of reach" in api.post("/workers/w1/drain", status=503)["error"]
