"""The server itself: a sign of life, its numbers, and how a browser gets in."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

import neuroscan_farm
from neuroscan_farm.serve.answers import errors, errors_beside
from neuroscan_farm.serve.models import Health
from neuroscan_farm.serve.numbers import numbers_text
from neuroscan_farm.serve.pages import login_html
from neuroscan_farm.serve.security import cookie_value, is_token
from neuroscan_farm.serve.state import Server, TheServer

router = APIRouter(tags=["server"])
login_router = APIRouter(include_in_schema=False)
_KEEP_SECONDS = 30 * 24 * 3600


@router.get("/health", responses=errors())
def health() -> Health:
    """Say that the server lives; asked without a token."""
    return Health(version=neuroscan_farm.__version__)


@router.get(
    "/metrics",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors_beside()},
    response_class=PlainTextResponse,
)
def metrics(server: TheServer) -> PlainTextResponse:
    """Return numbers for Prometheus: of the runs, the farm, and this machine's own work."""
    return PlainTextResponse(numbers_text(server), media_type="text/plain; version=0.0.4; charset=utf-8")


@login_router.get("/login")
def login_by_link(
    request: Request, server: TheServer, token: Annotated[str | None, Query(max_length=1000)] = None
) -> Response:
    """Let a browser in by a link that holds the token; without one, show the page, which asks for it."""
    if token is None:
        return HTMLResponse(login_html(None))
    return _let_in(request, server, token)


@login_router.post("/login")
async def login_by_form(request: Request, server: TheServer) -> Response:
    """Let a browser in by a form with the field `token`."""
    fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
    return _let_in(request, server, fields.get("token", [""])[0])


@login_router.post("/logout")
def logout(server: TheServer) -> Response:
    """Let a browser's cookie go."""
    response = RedirectResponse("/", status_code=303)
    response.delete_cookie(server.config.cookie, httponly=True, samesite="lax")
    return response


def _let_in(request: Request, server: Server, said: str) -> Response:
    token = server.config.token
    if token is not None and not is_token(said, token):
        said = "this is not the server's token; it is the one of --token or NEUROSCAN_SERVE_TOKEN"
        return HTMLResponse(login_html(said), status_code=401)
    response = RedirectResponse("/", status_code=303)
    if token is not None:
        response.set_cookie(
            server.config.cookie,
            cookie_value(token),
            max_age=_KEEP_SECONDS,
            httponly=True,
            samesite="lax",  # writes are checked by their origin besides
            secure=request.url.scheme == "https",
        )
    return response
