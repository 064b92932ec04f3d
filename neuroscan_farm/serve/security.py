"""Who may ask what: Host, token, origin of writes and size of bodies are checked before anything else sees a request.

Written as plain ASGI, so that streams of events and bodies without a length go through the same checks.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuroscan_farm.serve.config import MOST_BODY_BYTES, ServeConfig

_READS = {"GET", "HEAD", "OPTIONS"}
# Asked without a token: what lets people in, and pages and files that hold nothing of a run.
_OPEN_PATHS = {"/login", "/api/v1/health", "/", "/new", "/compare", "/workers", "/favicon.ico"}
_OPEN_FOLDERS = ("/static/", "/run/")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
# Plotly writes styles into the page; everything else comes from files of this server.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Refused(Exception):
    """A request that goes no further, with the status and what is said."""

    def __init__(
        self, status: int, error: str, mend: str | None = None, fields: dict[str, str] | None = None
    ) -> None:
        super().__init__(error)
        self.status, self.error, self.mend, self.fields = status, error, mend, fields


def cookie_value(token: str) -> str:
    """What the cookie holds: it proves the token and does not tell it."""
    return hmac.new(token.encode(), b"neuroscan-farm serve: cookie", hashlib.sha256).hexdigest()


def is_token(said: str, token: str) -> bool:
    """Whether `said` is the token, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(
        hashlib.sha256(said.encode()).digest(), hashlib.sha256(token.encode()).digest()
    )


class Guard:
    """The checks, and the headers that every answer has."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self._app, self._config = app, config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # there are no websockets here

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            self._check(scope)
        except Refused as refusal:
            await _answer(refusal, scope, with_headers)
            return
        await self._app(scope, _bounded(receive), with_headers)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = self._host(headers)
        self._check_token(scope["path"], headers)
        if scope["method"] not in _READS:
            _check_origin(headers, host)
            _check_form(scope["path"], headers)
        said = headers.get("content-length", "0")
        if not said.isdecimal():
            raise Refused(400, "Content-Length is no number")
        if len(said) > 12 or int(said) > MOST_BODY_BYTES:
            raise too_large()

    def _host(self, headers: Headers) -> str:
        found = headers.getlist("host")
        match = _HOST.fullmatch(found[0]) if len(found) == 1 else None
        if match is None:
            raise Refused(400, "the Host header is missing or no host name")
        if not self._config.knows_host(match[1]):
            raise Refused(
                421,
                f"host {match[1]!r} is not a name of this server",
                "use its address, or name the host in NEUROSCAN_SERVE_NAMES",
            )
        return found[0].lower()

    def _check_token(self, path: str, headers: Headers) -> None:
        token = self._config.token
        if token is None or path in _OPEN_PATHS or path.startswith(_OPEN_FOLDERS):
            return
        scheme, _, said = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and is_token(said.strip(), token):
            return
        held = _cookie(headers, self._config.cookie)
        if held is not None and is_token(held, cookie_value(token)):
            return
        raise Refused(
            401,
            "this server asks for a token",
            "send `Authorization: Bearer TOKEN`, or open /login in a browser",
        )


def too_large() -> Refused:
    """The refusal of a body beyond the bound."""
    return Refused(
        413, f"the body is larger than {MOST_BODY_BYTES:,} bytes", "send less, or use the command line"
    )


def _check_origin(headers: Headers, host: str) -> None:
    """Refuse a write that another site's page sent by a visitor's browser; programs send neither header."""
    site = headers.get("sec-fetch-site")
    if site is not None and site not in {"same-origin", "none"}:
        raise Refused(
            403, f"a page of another site sent this ({site[:40]})", "use this server's own page, or a program"
        )
    origin = headers.get("origin")
    if origin is not None:
        try:
            theirs = urlsplit(origin).netloc.lower()
        except ValueError:
            theirs = ""
        if not theirs or _with_port(origin, theirs) != _with_port(origin, host):
            raise Refused(
                403,
                f"a page of {origin[:100]!r} sent this",
                "use this server's own page, or a program without Origin",
            )


def _check_form(path: str, headers: Headers) -> None:
    """Refuse a body that is no JSON: a page of another site can send forms and texts, but not this, without asking."""
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if path.startswith("/api/") and has_body and kind != "application/json":
        raise Refused(415, f"the body is {kind[:100]!r}", "send JSON with Content-Type: application/json")


def _with_port(origin: str, netloc: str) -> str:
    """A host with its port, be it written or not."""
    name, port = (
        (netloc, "")
        if netloc.endswith("]")
        else netloc.rpartition(":")[::2]
        if ":" in netloc
        else (netloc, "")
    )
    return f"{name}:{port or ('443' if origin.lower().startswith('https:') else '80')}"


def _cookie(headers: Headers, name: str) -> str | None:
    for text in headers.getlist("cookie"):
        try:
            found = SimpleCookie(text).get(name)
        except CookieError:
            continue
        if found is not None:
            return str(found.value)
    return None


def _bounded(receive: Receive) -> Receive:
    """Count what arrives: a body that comes in pieces says no length beforehand."""
    arrived = 0

    async def counted() -> Message:
        nonlocal arrived
        message = await receive()
        if message["type"] == "http.request":
            arrived += len(message.get("body", b""))
            if arrived > MOST_BODY_BYTES:
                raise HTTPException(413)  # which FastAPI passes on while it reads a body
        return message

    return counted


async def _answer(refusal: Refused, scope: Scope, send: Send) -> None:
    headers = Headers(scope=scope)
    if refusal.status == 401 and scope["method"] == "GET" and not scope["path"].startswith("/api/"):
        wanted = headers.get("accept", "")
        if "text/html" in wanted:
            await send({"type": "http.response.start", "status": 303, "headers": [(b"location", b"/login")]})
            await send({"type": "http.response.body", "body": b""})
            return
    said = {"error": refusal.error} | ({"mend": refusal.mend} if refusal.mend else {})
    body = json.dumps(said).encode()
    sent = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 401:
        sent.append((b"www-authenticate", b'Bearer realm="neuroscan-farm"'))
    if refusal.status == 413:
        sent.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": sent})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
