"""What a server is told at its start: plain values, read from the command line and the settings by `cli/`."""

from __future__ import annotations

import fnmatch
import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from neuroscan_farm.errors import RequestError

DEFAULT_PORT = 8642
MOST_BODY_BYTES = 1_000_000
_SHORTEST_TOKEN = 16


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Everything that a server knows of its surroundings."""

    runs_dir: Path | str = Path("runs")  # a folder, or the URL of an object store
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token: str | None = None  # asked of every client; None asks nobody
    names: tuple[str, ...] = ()  # further host names under which clients may reach the server
    models: tuple[Path, ...] = ()  # folders below which submitted models may lie
    hub_models: tuple[str, ...] = ()  # patterns of hub ids that may be submitted, such as Qwen/*
    probes: tuple[Path, ...] = ()  # folders below which submitted probe files may lie
    materialize: Path | None = None  # the folder in which checkpoints are written; None writes none
    broker_url: str = "redis://127.0.0.1:6379/0"
    queue: str = "neuroscan"
    roots: str = ""  # see NEUROSCAN_ROOTS
    path_map: str = ""  # see NEUROSCAN_PATH_MAP
    cache_dir: Path = Path("cache")
    poll_seconds: float = 1.0  # how often directories are looked at for those who listen to events
    beat_seconds: float = 10.0  # how often a silent stream of events says that it lives

    @property
    def cookie(self) -> str:
        """The name of the cookie, another one for each port: cookies do not tell ports apart."""
        return f"neuroscan_serve_{self.port}"

    def check(self) -> None:
        """Refuse what would be unsafe.

        Raises:
            RequestError: another address than this machine's own without a token, or a token that can be guessed.
        """
        if not is_loopback(self.host) and self.token is None:
            raise RequestError(
                f"--host {self.host}: others could read and start runs; set a token with NEUROSCAN_SERVE_TOKEN or "
                "--token, or bind to 127.0.0.1"
            )
        if self.token is not None and (len(self.token) < _SHORTEST_TOKEN or not self.token.isascii()):
            raise RequestError(
                f"the token has {len(self.token)} characters; use {_SHORTEST_TOKEN} or more, ASCII alone, such as "
                "`openssl rand -hex 24` makes"
            )
        if self.token is not None and (not self.token.isprintable() or " " in self.token):
            raise RequestError("the token holds spaces or control characters; use letters, digits and signs")

    def knows_host(self, name: str) -> bool:
        """Whether a request's Host may be `name`, without its port: a name of somebody else's may be rebound to us."""
        name = name.lower().rstrip(".")
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name in {"localhost", self.host.lower(), *_own_names(), *map(str.lower, self.names)}
        return True

    def accepts_hub_model(self, name: str) -> bool:
        """Whether this hub id may be submitted."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.hub_models)


def is_loopback(host: str) -> bool:
    """Whether an address to bind to is reached by this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def folders_of(text: str, *, name: str) -> tuple[Path, ...]:
    """Read a setting that names folders, separated as in PATH; they are made absolute, links resolved.

    Raises:
        RequestError: one of them is no folder.
    """
    found = []
    for piece in filter(None, (piece.strip() for piece in text.split(os.pathsep))):
        try:
            folder = Path(piece).expanduser().resolve()
            there = folder.is_dir()
        except (OSError, RuntimeError, ValueError):
            there = False
        if not there:
            raise RequestError(f"{name} is {text!r}: {piece!r} is no folder; name folders that exist")
        found.append(folder)
    return tuple(found)


def words_of(text: str) -> tuple[str, ...]:
    """Read a setting of words that are separated by commas."""
    return tuple(word for word in (piece.strip() for piece in text.split(",")) if word)


def is_below(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a path, links resolved, is one of the roots or below one."""
    return any(path == root or root in path.parents for root in roots)


@cache
def _own_names() -> frozenset[str]:
    return frozenset(name.lower() for name in (socket.gethostname(), socket.getfqdn()))
