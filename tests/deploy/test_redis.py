"""The broker, everywhere in deploy/: a real server takes our files, forgets nothing, and wants the password."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.parent_death import dying_with_parent
from neuroscan_farm.dispatch.redis_server import find_redis_server
from tests.deploy.reader import manifests
from tests.deploy.words import DEPLOY, text_of

COMPOSE = DEPLOY / "compose"
PASSWORD = "a-password.of_ours~1"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def served(command: list[str], environment: dict[str, str], url: str) -> Iterator[redis.Redis]:
    """A client of the server that a command starts; both are gone afterwards."""
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, preexec_fn=dying_with_parent()
    )
    client = redis.Redis.from_url(url, decode_responses=True)
    try:
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait()


@pytest.fixture
def compose_redis(tmp_path: Path) -> Iterator[redis.Redis]:
    """The server as compose and Kubernetes start it, but for port and folders."""
    port = free_port()
    configuration = tmp_path / "given.conf"
    moved = text_of(COMPOSE / "redis.conf").replace("dir /data", f"dir {tmp_path}")
    configuration.write_text(f"{moved}port {port}\n", encoding="utf-8")
    environment = {
        "REDIS_PASSWORD": PASSWORD,
        "REDIS_CONF": str(configuration),
        "REDIS_RUN_FOLDER": str(tmp_path),
        "REDIS_SERVER": str(find_redis_server()),
    }
    command = ["sh", str(COMPOSE / "start-redis.sh")]
    with served(command, environment, f"redis://:{PASSWORD}@127.0.0.1:{port}/0") as client:
        yield client


def test_the_server_of_compose_keeps_everything_and_forgets_nothing(compose_redis: redis.Redis) -> None:
    said = compose_redis.config_get("*")
    assert said["appendonly"] == "yes"
    assert said["appendfsync"] == "everysec"
    assert said["maxmemory-policy"] == "noeviction"
    assert int(said["maxmemory"]) == 512 * 2**20


def test_the_server_of_compose_wants_the_password(compose_redis: redis.Redis, tmp_path: Path) -> None:
    port = compose_redis.connection_pool.connection_kwargs["port"]
    with redis.Redis(port=port) as nobody, pytest.raises(redis.AuthenticationError):
        nobody.ping()
    broker = Broker(f"redis://:{PASSWORD}@127.0.0.1:{port}/0", queue="trial")
    broker.close()
    assert (tmp_path / "redis.conf").stat().st_mode & 0o077 == 0, "the file with the password is private"


@pytest.mark.parametrize("password", [None, "", "with space", "a@b", "a/b", "a:b"])
def test_a_password_that_is_no_part_of_a_url_is_refused(password: str | None, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "REDIS_RUN_FOLDER": str(tmp_path)}
    if password is not None:
        environment["REDIS_PASSWORD"] = password
    command = ["sh", str(COMPOSE / "start-redis.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "REDIS_PASSWORD" in done.stderr
    assert not list(tmp_path.iterdir())


def test_kubernetes_starts_the_broker_as_compose_does() -> None:
    configuration, *_ = manifests(DEPLOY / "kubernetes" / "base" / "redis.yaml")
    assert set(configuration["data"]) == {"redis.conf", "start-redis.sh"}
    for name, text in configuration["data"].items():
        assert text == text_of(COMPOSE / name), name


def test_the_broker_of_slurm_is_as_strict(tmp_path: Path) -> None:
    (text,) = re.findall(
        r"<<CONF\n(.*?)^CONF$", text_of(DEPLOY / "slurm" / "neuroscan-broker.sbatch"), re.M | re.S
    )
    port = free_port()
    for name, value in (("$port", str(port)), ("$folder", str(tmp_path)), ("$password", PASSWORD)):
        text = text.replace(name, value)
    assert "$" not in text
    configuration = tmp_path / "redis.conf"
    configuration.write_text(text, encoding="utf-8")
    command = [str(find_redis_server()), str(configuration)]
    with served(command, {}, f"redis://:{PASSWORD}@127.0.0.1:{port}/0") as client:
        said = client.config_get("*")
    assert said["appendonly"] == "yes"
    assert said["maxmemory-policy"] == "noeviction"


def test_a_redis_on_a_page_is_started_with_the_same() -> None:
    started = r"^.*(?:redis-server --|\| *redis-server -$).*$"
    lines = [
        (page.name, line)
        for page in DEPLOY.parent.rglob("docs/*.md")
        for line in re.findall(started, text_of(page), re.M)
    ]
    assert lines
    for page, line in lines:
        assert re.search(r"maxmemory-policy noeviction", line), page
        assert re.search(r"appendonly yes", line), page
