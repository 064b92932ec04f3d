from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from neuroscan_farm.dispatch import redis_server
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import make_app
from neuroscan_farm.dispatch.farm_records import OrderName, RunEntry
from neuroscan_farm.dispatch.redis_server import RedisServer, find_redis_server
from neuroscan_farm.errors import BrokerError
from tests.farm_fixtures import wait_for


def test_a_server_on_path_is_taken_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("valkey-server", "redis-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_redis_server() == tmp_path / name


def test_without_one_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(redis_server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BrokerError, match="apt install redis-server"):
        find_redis_server()


def test_the_socket_is_the_users_alone_and_the_folder_goes_with_the_server() -> None:
    with RedisServer() as server:
        folder = server.socket.parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        Broker(server.url).ping()
    assert not folder.exists()


def test_a_password_is_asked_for_and_never_shown() -> None:
    with RedisServer(password="geheim-1") as server:
        Broker(server.url).ping()
        for database in (0, 3):
            url = f"{server.url}?virtual_host={database}"
            broker = Broker(url, queue="both")
            make_app(url, "both").send_task("t", task_id=str(OrderName("r", "s", 1)))
            assert broker.queued() == {"r": {"s"}}, "Celery and redis-py read the URL in the same way"
        command = Path(f"/proc/{server.pid}/cmdline").read_text()
        assert "geheim" not in command
        for url in (server.url.replace("geheim-1", "falsch"), f"redis+socket://{server.socket}"):
            with pytest.raises(BrokerError, match="refuses us") as caught:
                Broker(url).ping()
            assert "falsch" not in str(caught.value)


def test_a_server_that_does_not_come_up_shows_the_end_of_its_log() -> None:
    with pytest.raises(BrokerError, match=r"did not come up.*\n(.*\n)*.*port 99999"):
        RedisServer(port=99999).start()


def test_a_server_with_a_folder_of_its_own_remembers_when_told_to(tmp_path: Path) -> None:
    server = RedisServer(folder=tmp_path, appendonly=True)
    entry = RunEntry("/runs/r", "0123456789abcdef")
    with server:
        Broker(server.url).register("r", entry)
    with server:
        assert Broker(server.url).runs() == {"r": entry}


def test_the_server_dies_with_the_process_that_started_it() -> None:
    program = (
        "from neuroscan_farm.dispatch.redis_server import RedisServer\n"
        "server = RedisServer().start()\n"
        "print(server.pid, server.socket.parent, flush=True)\n"
        "input()\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdin is not None
    pid, folder = owner.stdout.readline().decode().split()
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    stat_file = Path(f"/proc/{pid}/stat")
    wait_for(lambda: not stat_file.exists() or " Z " in stat_file.read_text(), "the server's end")
    shutil.rmtree(folder)
