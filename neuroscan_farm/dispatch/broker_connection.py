"""The connection to a farm's Redis: one client, one way to name keys, one way to say that it is out of reach."""

from __future__ import annotations

import functools
import ssl
import uuid
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from neuroscan_farm.dispatch.broker_url import check_url, client_url, redacted
from neuroscan_farm.dispatch.farm_records import Timings
from neuroscan_farm.errors import BrokerError

_P = ParamSpec("_P")
_R = TypeVar("_R")

# A run's keys go with it; should its end be missed, they go after a week.
KEEP_SECONDS = 7 * 24 * 3600


def reaching(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn every failure to talk to the broker into a BrokerError that names it."""

    @functools.wraps(method)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(*args, **kwargs)
        except (redis.RedisError, OSError) as error:
            raise explained(cast("BrokerConnection", args[0]).url, error) from error

    return wrapped


def explained(url: str, error: BaseException) -> BrokerError:
    """A failure to talk to the broker, with its mend and without the password."""
    text = str(error)
    if isinstance(error, redis.AuthenticationError) or "NOAUTH" in text or "WRONGPASS" in text:
        return BrokerError(
            f"broker {redacted(url)}: it refuses us ({text}); "
            "write the password as redis://:PASSWORD@HOST:PORT/0, best in NEUROSCAN_BROKER_URL"
        )
    if _is_certificate(error):
        return BrokerError(
            f"broker {redacted(url)}: its certificate is not trusted ({text}); name the authority that signed it: "
            "rediss://HOST:PORT/0?ssl_ca_certs=/path/ca.pem"
        )
    return BrokerError(
        f"broker {redacted(url)}: out of reach ({text}); "
        "start one with `neuroscan-farm up`, or set --broker or NEUROSCAN_BROKER_URL"
    )


def _is_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class BrokerConnection:
    """A client of the farm's Redis; one object may serve several threads.

    Args:
        url: redis://, rediss:// or redis+socket://, with the password inside where one is needed.
        queue: the name of the farm's queue; all keys begin with it, so that farms can share a Redis.
        timings: how patient to be.
        client: another client in place of the URL's (tests).
    """

    def __init__(
        self,
        url: str,
        *,
        queue: str = "neuroscan",
        timings: Timings | None = None,
        client: redis.Redis | None = None,
    ) -> None:
        self.url = check_url(url)
        self.queue = queue
        self.timings = timings or Timings()
        try:
            self._redis: Any = client or redis.Redis.from_url(
                client_url(url),
                decode_responses=True,
                encoding_errors="replace",  # the queue may hold anything
                socket_timeout=5.0,  # nothing here blocks on purpose; a frozen Redis must not freeze us
                socket_connect_timeout=5.0,
                health_check_interval=30,
                retry=Retry(NoBackoff(), 1),  # one more try on a connection that went stale
            )
        except ValueError as error:
            raise BrokerError(f"broker {redacted(url)}: {error}") from error

    def _key(self, *parts: str) -> str:
        return ":".join((self.queue, *parts))

    def _run_keys(self, run_id: str, *kinds: str) -> list[str]:
        return [self._key(kind, run_id) for kind in kinds]

    @reaching
    def ping(self) -> None:
        """Make sure that the broker answers.

        Raises:
            BrokerError: it is out of reach, or refuses the password, or its certificate is not trusted.
        """
        self._redis.ping()

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()

    @reaching
    def now(self) -> float:
        """The broker's clock, in seconds since 1970."""
        seconds, microseconds = self._redis.time()
        return float(seconds) + float(microseconds) / 1e6

    @reaching
    def epoch(self) -> str:
        """The broker's identity; another one than before says that it was wiped in between."""
        self._redis.set(self._key("epoch"), uuid.uuid4().hex, nx=True)
        return str(self._redis.get(self._key("epoch")))
