"""Broker URLs: checked, shown without their password, and written as redis-py and Celery each want them."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

from neuroscan_farm.errors import BrokerError

_SCHEMES = ("redis", "rediss", "redis+socket")


def check_url(url: str) -> str:
    """Return a broker URL that we understand.

    Raises:
        BrokerError: another scheme, or a port that is no number.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise BrokerError(f"broker {redacted(url)}: {error}; write redis://HOST:PORT/0") from error
    if parts.scheme not in _SCHEMES:
        raise BrokerError(
            f"broker {redacted(url)}: the scheme is {parts.scheme or 'missing'}; accepted: "
            "redis://HOST:PORT/0, rediss://HOST:PORT/0 (TLS), redis+socket:///PATH"
        )
    return url


def redacted(url: str) -> str:
    """The URL without its password, for messages and logs."""
    scheme, separator, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    if not at:
        return url
    user = credentials.partition(":")[0]
    return f"{scheme}{separator}{user}:***@{place}"


def client_url(url: str) -> str:
    """The URL as redis-py writes it: `redis+socket:///path?virtual_host=1` is `unix:///path?db=1` there."""
    parts = urlsplit(url)
    if parts.scheme != "redis+socket":
        return url
    pairs = [("db" if key == "virtual_host" else key, value) for key, value in parse_qsl(parts.query)]
    query = urlencode(pairs)
    return f"unix://{parts.netloc}{parts.path}" + (f"?{query}" if query else "")


def celery_url(url: str) -> str:
    """The URL as Celery is given it: without `ssl_cert_reqs`, its transport would trust any certificate."""
    parts = urlsplit(url)
    if parts.scheme != "rediss" or "ssl_cert_reqs" in dict(parse_qsl(parts.query)):
        return url
    return f"{url}{'&' if parts.query else '?'}ssl_cert_reqs=required"
