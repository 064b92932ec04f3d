"""`neuroscan-farm serve` as a process of its own, with a real model and a real run going on: killed, and started again."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neuroscan_farm.analyses import read_request
from neuroscan_farm.coordinator.prepare import make_plan, prepare
from neuroscan_farm.store.run_directory import RunDirectory
from tests.farm_fixtures import wait_for
from tests.serve.api import a_request

Start = Callable[..., "Served"]


class Client:
    """Asks a server over the network."""

    def __init__(self, port: int) -> None:
        self.port, self.base = port, f"http://127.0.0.1:{port}"

    def answers(self) -> bool:
        try:
            return bool(self.get("/health")["status"] == "ok")
        except OSError:
            return False

    def ask(self, path: str, body: Any = None, **headers: str) -> Any:
        data = None if body is None else json.dumps(body).encode()
        said = {"content-type": "application/json"} if body is not None else {}
        request = urllib.request.Request(f"{self.base}/api/v1{path}", data, {**said, **headers})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def get(self, path: str) -> Any:
        return self.ask(path)

    def events(self, path: str, **headers: str) -> Iterator[dict[str, Any]]:
        """The data of the events as they come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", f"/api/v1{path}", headers={"accept-encoding": "gzip", **headers})
        answer = connection.getresponse()
        assert answer.headers["content-type"].startswith("text/event-stream")
        try:
            while line := answer.readline():
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
        finally:
            connection.close()


class Served(Client):
    """A server process."""

    def __init__(self, folder: Path, port: int, *options: str, **environment: str) -> None:
        super().__init__(port)
        command = [sys.executable, "-m", "neuroscan_farm", "serve", "--port", str(port), *options]
        self.log = (folder / f"serve-{time.monotonic_ns()}.log").open("wb+")
        settings = {
            "NEUROSCAN_BROKER_URL": "redis://127.0.0.1:1/0",
            "NEUROSCAN_RUNS_DIR": str(folder / "runs"),
        }
        self.process = subprocess.Popen(
            command, stderr=self.log, env={**os.environ, **settings, **environment}, start_new_session=True
        )
        wait_for(self._is_up, f"an answer of {self.base}")

    def _is_up(self) -> bool:
        assert self.process.poll() is None, Path(self.log.name).read_text()
        return self.answers()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def start(tmp_path: Path, free_port: int) -> Iterator[Start]:
    started: list[Served] = []

    def make(*options: str, **environment: str) -> Served:
        started.append(Served(tmp_path, free_port, *options, **environment))
        return started[-1]

    yield make
    for served in started:
        served.process.kill()
        served.process.wait()
        served.log.close()


def test_a_run_goes_on_under_the_eyes_of_a_listener_and_over_the_death_of_the_server(
    start: Start, tiny_llama: Path, long_probe: Path, tmp_path: Path
) -> None:
    roots = {
        "NEUROSCAN_SERVE_MODELS": str(tiny_llama.parent),
        "NEUROSCAN_SERVE_PROBES": str(long_probe.parent),
    }
    served = start(**roots)
    request = {
        "analysis": "duplication",
        "model": "tiny-llama",
        "probes": ["long.json"],
        "parameters": {"max_block": 1},
        "engine": {"batch_size": 4, "lane": "general"},
        "shard_size": 2,
    }
    made = served.ask("/runs", request)
    run = RunDirectory.open(tmp_path / "runs" / made["id"])
    other = served.ask("/runs", {**request, "model": "demo", "probes": ["demo-chain"], "engine": {}})

    states: list[str] = []
    for event in served.events(f"/runs/{made['id']}/events"):
        states.append(event["state"])
        if event["tasks_finished"] > 0:
            break
    assert states[0] == "queued"
    assert states[-1] == "running"
    assert served.get(f"/runs/{made['id']}/figures/heatmap-log_odds")["data"]
    served.process.kill()  # as the kernel does, in the middle of the run
    served.process.wait()

    served = start(**roots)
    seen = served.get(f"/runs/{made['id']}")
    assert seen["state"] in {"running", "finished"}
    assert served.get(f"/runs/{other['id']}")["state"] in {"queued", "running", "finished"}
    for event in served.events(f"/runs/{made['id']}/events", **{"last-event-id": "something-from-before"}):
        if event["state"] == "finished":
            break
    wait_for(
        lambda: served.get(f"/runs/{other['id']}")["state"] == "finished", "the run that waited behind it"
    )
    rows = run.parts.read(["task_id", "sample_id"])
    assert rows.num_rows == event["tasks"] * sum(run.manifest.n_samples.values())
    assert served.get("/workers")["local"] == {"running": None, "queue": []}


def test_a_server_that_is_asked_to_stop_stops_its_run_in_order_and_goes_on_with_it_later(
    start: Start, tiny_llama: Path, long_probe: Path
) -> None:
    roots = {
        "NEUROSCAN_SERVE_MODELS": str(tiny_llama.parent),
        "NEUROSCAN_SERVE_PROBES": str(long_probe.parent),
    }
    served = start(**roots)
    request = {
        "analysis": "duplication",
        "model": "tiny-llama",
        "probes": ["long.json"],
        "engine": {"batch_size": 1, "lane": "general"},
        "shard_size": 2,
    }
    made = served.ask("/runs", request)
    listener = served.events(f"/runs/{made['id']}/events")
    assert any(event["state"] == "running" for event in listener)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(timeout=60) == 143
    assert list(listener) is not None  # the stream has ended, too
    served = start(**roots)
    assert served.get(f"/runs/{made['id']}")["state"] in {"queued", "running"}
    served.ask(f"/runs/{made['id']}/cancel", {})
    wait_for(lambda: served.get(f"/runs/{made['id']}")["state"] == "cancelled", "the cancellation")


def test_up_brings_the_page_too_and_its_workers_carry_out_what_is_submitted(
    tmp_path: Path, free_port: int
) -> None:
    command = [
        sys.executable,
        "-m",
        "neuroscan_farm",
        "up",
        "--workers",
        "1",
        "--serve",
        "--serve-port",
        str(free_port),
    ]
    up = subprocess.Popen(
        command, env={**os.environ, "NEUROSCAN_RUNS_DIR": str(tmp_path / "runs")}, stderr=subprocess.DEVNULL
    )
    try:
        client = Client(free_port)
        wait_for(client.answers, "the page")
        wait_for(lambda: client.get("/workers")["workers"], "a worker")
        made = client.ask("/runs", a_request(parameters={"blocks": ["3,7"]}))
        assert made["executor"] == "farm"
        wait_for(lambda: client.get(f"/runs/{made['id']}")["state"] == "finished", "the end of the run")
        up.send_signal(signal.SIGTERM)
        assert up.wait(timeout=60) == 143
        assert not client.answers()
    finally:
        up.kill()
        up.wait()


def test_a_farm_that_was_killed_and_brought_up_anew_goes_on_with_its_runs(
    tmp_path: Path, free_port: int
) -> None:
    """`up` makes a new broker each time, which knows of nothing; the runs' folder is what it is told."""
    request = read_request(a_request(parameters={"blocks": ["3,7"]}), where="here")
    plan = make_plan(request)
    run = prepare(plan, tmp_path / "these" / plan.run_id, executor="celery")
    run.give_to_farm("neuroscan", run.location)
    options = ["--workers", "1", "--serve", "--serve-port", str(free_port), "--runs-dir", "these/"]
    up = subprocess.Popen(
        [sys.executable, "-m", "neuroscan_farm", "up", *options],
        env={**os.environ, "NEUROSCAN_RUNS_DIR": str(tmp_path / "others")},
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    try:
        client = Client(free_port)
        wait_for(client.answers, "the page")
        wait_for(lambda: client.get(f"/runs/{plan.run_id}")["state"] == "finished", "the end of the run")
        assert run.parts.look().done == {task.task_id for shard in run.shards() for task in shard.tasks}
        up.send_signal(signal.SIGTERM)
        assert up.wait(timeout=60) == 143
    finally:
        up.kill()
        up.wait()


def test_bad_starts_are_one_message(start: Start, tmp_path: Path) -> None:
    served = start()
    for options, said in (
        (["--host", "0.0.0.0"], "set a token with NEUROSCAN_SERVE_TOKEN"),
        (["--host", "0.0.0.0", "--token", "short"], "16 or more"),
        (["--port", str(served.port)], "choose another with --port"),
    ):
        command = [sys.executable, "-m", "neuroscan_farm", "serve", *options]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert result.returncode == 5, result
        assert said in result.stderr
        assert "Traceback" not in result.stderr


def test_a_token_in_the_environment_is_asked_for(start: Start) -> None:
    served = start(NEUROSCAN_SERVE_TOKEN="a-token-that-nobody-guesses")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        served.get("/runs")
    assert served.ask("/runs", None, authorization="Bearer a-token-that-nobody-guesses")["all"] == 0
