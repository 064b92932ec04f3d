"""A worker's log as JSON: every line one object, with the ids of what was worked on, and never the broker's password."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import submit
from neuroscan_farm.dispatch.redis_server import RedisServer
from tests.conftest import MakeRun
from tests.farm_fixtures import wait_for
from workers.__main__ import main
from workers.logs import tell


def test_a_worker_that_speaks_json_says_nothing_else(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(executor="celery")
    said = tmp_path / "stderr"
    command = [sys.executable, "-P", "-m", "workers", "--name", "w1", "--threads", "1", "--log-level", "INFO"]
    environment = os.environ | {"NEUROSCAN_LOG_FORMAT": "json"}
    with RedisServer(password="opensesame") as server, said.open("wb") as stderr:
        environment["NEUROSCAN_BROKER_URL"] = server.url
        worker = subprocess.Popen(command, env=environment, stderr=stderr, stdin=subprocess.DEVNULL)
        broker = Broker(server.url)
        try:
            submit(run, broker)
            wait_for(lambda: broker.ended(run.manifest.run_id), "the end of the run")
        finally:
            broker.close()
            worker.terminate()
            worker.wait(60)
    text = said.read_text()
    assert "opensesame" not in text
    lines = [json.loads(line) for line in text.splitlines() if not of_the_library(line)]
    assert any("worker w1 is ready" in line["message"] for line in lines)
    assert {line["worker"] for line in lines} == {"w1"}
    done = [line for line in lines if line["message"].endswith(": done")]
    assert {line["run"] for line in done} == {run.manifest.run_id}
    assert {line["attempt"] for line in done} == {1}
    assert all(line["shard"].startswith("s") and line["task"].startswith("t") for line in done)
    assert done
    [gate] = [line for line in lines if "gate passed" in line["message"]]
    assert gate["shard"] == done[0]["shard"], "the engine's lines carry the ids of the worker's task"


def of_the_library(line: str) -> bool:
    """What billiard's semaphore tracker, a process of its own, writes as it ends."""
    return "semaphore_tracker" in line or line.startswith("  warnings.warn(")


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_ends_a_worker_at_its_start_is_told_in_the_form_of_the_log(
    form: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "workers.__main__.log_to_stderr", lambda *args, **options: None
    )  # this process's log stays
    assert main(["--log-format", form, "--name", "a b", "--broker", "redis://:opensesame@127.0.0.1:1/0"]) == 5
    said = capfd.readouterr().err
    message = json.loads(said)["message"] if form == "json" else said
    assert message.startswith("error: name 'a b'")
    assert "opensesame" not in said


def test_a_line_that_must_be_seen_is_seen_at_any_level(capfd: pytest.CaptureFixture[str]) -> None:
    tell("ready", "json", worker="w")
    tell("ready")
    first, second = capfd.readouterr().err.splitlines()
    assert {name: json.loads(first)[name] for name in ("level", "message", "worker")} == {
        "level": "INFO",
        "message": "ready",
        "worker": "w",
    }
    assert second == "ready"
