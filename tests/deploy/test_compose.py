"""Image and compose file: linted, valid, and saying what a farm needs."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_kubernetes import GRACE
from tests.deploy.words import DEPLOY, ROOT, refusal, text_of

DOCKER = DEPLOY / "docker"
COMPOSE = DEPLOY / "compose"
BIN = Path(sys.executable).parent


def compose() -> Any:
    return yaml.safe_load(text_of(COMPOSE / "compose.yaml"))


def workers() -> dict[str, Any]:
    return {name: one for name, one in compose()["services"].items() if name.startswith("worker")}


def seconds(text: str) -> int:
    assert re.fullmatch(r"\d+s", text)
    return int(text[:-1])


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    command = [
        str(BIN / "hadolint"),
        "--no-color",
        "--failure-threshold",
        "style",
        str(DOCKER / "Dockerfile"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_runs_as_nobody_special_and_takes_signals() -> None:
    text = text_of(DOCKER / "Dockerfile")
    final = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", final, re.M)
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", final, re.M)
    assert json.loads(entry) == ["tini", "--", "neuroscan-farm"]
    (default,) = re.findall(r"^CMD (\[.*)$", final, re.M)
    assert refusal(json.loads(default)) is None
    assert "HEALTHCHECK" in final


def test_the_image_installs_the_torch_that_we_pin() -> None:
    (torch,) = re.findall(r"torch==(\S+)", text_of(DOCKER / "Dockerfile"))
    assert f"torch=={torch}" in text_of(ROOT / "constraints.txt").splitlines()
    assert "pypi.org/simple" in re.findall(r"^ARG TORCH_INDEX=(\S+)", text_of(DOCKER / "Dockerfile"), re.M)[0]


def test_everything_that_the_dockerfile_copies_is_in_the_context() -> None:
    kept = [line[1:] for line in text_of(ROOT / ".dockerignore").splitlines() if line.startswith("!")]
    assert text_of(ROOT / ".dockerignore").splitlines()[1] == "*", "left out unless it is named"
    copied = []
    for line in re.findall(r"^COPY (.*)$", text_of(DOCKER / "Dockerfile"), re.M):
        words = [word for word in line.split() if not word.startswith("--")]
        copied += [] if "--from" in line else words[:-1]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source
    assert set(kept) == set(copied)


def test_the_image_installs_the_packages_of_pyproject() -> None:
    command = [sys.executable, str(DOCKER / "requirements.py"), str(ROOT / "pyproject.toml")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert any(line.startswith("celery") for line in printed)
    assert not [line for line in printed if line.startswith(("pytest", "ruff"))]


class _Numbers(BaseHTTPRequestHandler):
    body = b"neuroscan_workers 2.0\n"

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


class _OtherNumbers(_Numbers):
    body = b"python_info 1.0\n"


def ask(port: int | str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NEUROSCAN_METRICS_PORT": str(port)}
    command = [sys.executable, str(DOCKER / "healthcheck.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_healthy_is_what_answers_with_our_numbers() -> None:
    for handler, code in ((_Numbers, 0), (_OtherNumbers, 1)):
        with HTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            assert ask(server.server_port).returncode == code
            server.shutdown()
            thread.join()
            port = server.server_port
    gone = ask(port)
    assert gone.returncode == 1
    assert "does not answer" in gone.stderr
    assert "nothing to ask" in ask(0).stderr


def test_the_compose_file_is_one_by_the_compose_specification() -> None:
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, str(COMPOSE / "compose.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def compose_program() -> list[str] | None:
    """Docker Compose itself, if this machine has it; reading a file takes no daemon."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], capture_output=True, check=False)
            if done.returncode == 0:
                return command
    return None


def test_compose_itself_reads_the_file_where_it_is_installed(tmp_path: Path) -> None:
    program = compose_program()
    if program is None:  # the specification's schema, above, is what remains
        return
    for profile, worker in (("gpu3", "worker-gpu3"), ("cpu", "worker-cpu")):
        environment = os.environ | {"REDIS_PASSWORD": "x", "COMPOSE_PROFILES": profile}
        command = [*program, "-f", str(COMPOSE / "compose.yaml"), "config", "--services"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert set(done.stdout.split()) == {"redis", "coordinator", worker}
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_PASSWORD"}
    command = [*program, "--env-file", str(tmp_path / "none"), "-f", str(COMPOSE / "compose.yaml"), "config"]
    (tmp_path / "none").write_text("", encoding="utf-8")
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "copy .env.example to .env" in refused.stderr
    assert "services:" not in refused.stdout


def test_the_specification_is_asked_in_earnest(tmp_path: Path) -> None:
    wrong = compose()
    wrong["services"]["redis"]["restrat"] = "always"
    path = tmp_path / "compose.yaml"
    path.write_text(yaml.safe_dump(wrong), encoding="utf-8")
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_every_gpu_has_a_worker_of_its_own_and_there_is_one_without() -> None:
    found = workers()
    assert {"worker-cpu"} | {f"worker-gpu{number}" for number in range(8)} == set(found)
    assert "deploy" not in found["worker-cpu"]
    for number in range(8):
        worker = found[f"worker-gpu{number}"]
        assert worker["profiles"] == [f"gpu{number}"]
        (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "device_ids": [str(number)], "capabilities": ["gpu"]}


def test_a_worker_is_stopped_later_than_it_takes_to_leave() -> None:
    for worker in workers().values():
        assert seconds(worker["stop_grace_period"]) >= GRACE + 10


def test_every_service_is_confined_and_comes_back() -> None:
    for name, service in compose()["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert service["logging"]["options"]["max-size"], name
        assert not service["image"].endswith(":latest"), name


def test_every_process_of_the_farm_waits_for_a_healthy_broker() -> None:
    services = compose()["services"]
    assert services["redis"]["healthcheck"]["test"]
    for name, service in services.items():
        if name != "redis":
            assert service["depends_on"]["redis"]["condition"] == "service_healthy", name
            assert refusal(service["command"]) is None, name


def test_every_variable_of_the_compose_file_is_explained_in_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", text_of(COMPOSE / "compose.yaml")))
    example = text_of(COMPOSE / ".env.example")
    assert used <= set(re.findall(r"^#?([A-Z_]+)=", example, re.M))
    assert re.search(r"^REDIS_PASSWORD=$", example, re.M), "an example holds no password"


def test_no_password_is_written_down_in_the_compose_file() -> None:
    text = text_of(COMPOSE / "compose.yaml")
    assert not re.search(r"redis://:(?!\$\{REDIS_PASSWORD:\?)", text), (
        "unset is an error, not an empty password"
    )


@pytest.mark.parametrize("name", ["coordinator", "worker-cpu", "worker-gpu0"])
def test_runs_are_where_workers_take_them_from(name: str) -> None:
    service = compose()["services"][name]
    assert service["environment"]["NEUROSCAN_RUNS_DIR"] == service["environment"]["NEUROSCAN_ROOTS"]
    assert service["environment"]["NEUROSCAN_METRICS_HOST"] == "0.0.0.0"
    places = {volume.rpartition(":")[2] for volume in service["volumes"]}
    assert {"/data/runs", "/data/models", "/data/cache"} == places
