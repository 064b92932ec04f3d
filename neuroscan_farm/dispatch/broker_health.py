"""What a broker says of itself: version, memory, what it keeps over a restart, its clock. For `doctor`; Redis alone."""

from __future__ import annotations

import statistics
import time
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import redis

from neuroscan_farm.dispatch.broker_connection import BrokerConnection, reaching

_PINGS = 7
_LOCAL = {"127.0.0.1", "::1", "localhost", ""}


@dataclass(frozen=True, slots=True)
class BrokerHealth:
    """A broker, as far as it answers questions; None is what it does not say."""

    product: str  # "Redis" or "Valkey"
    version: tuple[int, ...]
    latency_seconds: float  # of one question and its answer, the median of some
    clock_ahead_seconds: float  # its clock less ours
    eviction: str | None  # maxmemory-policy
    memory_used: int
    memory_most: int  # maxmemory; 0 is no limit of its own
    appends: bool  # an append-only file is kept
    snapshots: bool  # or snapshots, now and then
    write_error: str | None  # why it takes no writes
    local: bool  # reached by a unix socket or on this machine alone
    password: bool  # the URL has one
    tls: bool


class BrokerExamination(BrokerConnection):
    """A connection that asks a broker how it is."""

    @reaching
    def examine(self) -> BrokerHealth:
        """Ask. One key of a second's life is written.

        Raises:
            BrokerError: the broker is out of reach, or refuses the password.
        """
        self._redis.ping()
        latencies = []
        for _ in range(_PINGS):
            started = time.perf_counter()
            self._redis.ping()
            latencies.append(time.perf_counter() - started)
        before = time.time()
        clock = self.now()
        ahead = clock - (before + time.time()) / 2
        info: dict[str, Any] = self._redis.info()
        parts = urlsplit(self.url)
        return BrokerHealth(
            product="Valkey" if "valkey_version" in info else "Redis",
            version=_version(str(info.get("valkey_version") or info.get("redis_version", ""))),
            latency_seconds=statistics.median(latencies),
            clock_ahead_seconds=ahead,
            eviction=info.get("maxmemory_policy"),
            memory_used=int(info.get("used_memory", 0)),
            memory_most=int(info.get("maxmemory", 0)),
            appends=bool(info.get("aof_enabled")),
            snapshots=self._snapshots(),
            write_error=self._write_error(),
            local=parts.scheme == "redis+socket" or (parts.hostname or "") in _LOCAL,
            password=bool(parts.password),
            tls=parts.scheme == "rediss",
        )

    def _snapshots(self) -> bool:
        try:
            return bool(self._redis.config_get("save").get("save"))
        except redis.ResponseError:  # a managed broker does not say
            return False

    def _write_error(self) -> str | None:
        try:
            self._redis.set(self._key("doctor", uuid.uuid4().hex), "", px=1000)
        except redis.ResponseError as error:  # out of memory, a replica, a disk that is full
            return str(error)
        return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(piece) for piece in text.split(".") if piece.isdecimal())
