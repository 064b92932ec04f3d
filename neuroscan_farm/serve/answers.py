"""How errors are answered, and how the description of the API documents them."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Match

from neuroscan_farm.errors import (
    BrokerError,
    CancelledRun,
    ModelError,
    NeuroscanError,
    ProbeError,
    RequestError,
    RunError,
    StorageError,
)
from neuroscan_farm.logs import without_secrets
from neuroscan_farm.serve.models import Error
from neuroscan_farm.serve.pages import missing_html
from neuroscan_farm.serve.runs import NoRun
from neuroscan_farm.serve.security import Refused, too_large
from neuroscan_farm.serve.submission_errors import fields_of

log = logging.getLogger(__name__)

MEANING = {
    400: "The request is malformed: no JSON, or no host name.",
    401: "The server asks for a token.",
    403: "A page of another site sent this.",
    404: "There is nothing of this name.",
    406: "The rows are not given out in this form.",
    405: "This address takes other methods.",
    409: "The run is in no state for this, or damaged.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    421: "The host is not a name of this server.",
    422: "A value is wrong; `fields` says which, where that is known.",
    500: "A fault of the server's own; its log says more.",
    503: "The broker or the store is out of reach.",
}
_OF_ALL = (400, 401, 403, 421, 422, 500, 503)
_STATUS: tuple[tuple[type[NeuroscanError], int], ...] = (
    (NoRun, 404),
    (RequestError, 422),
    (ProbeError, 422),
    (ModelError, 422),
    (RunError, 409),
    (CancelledRun, 409),
    (BrokerError, 503),
    (StorageError, 503),
)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors that an address answers with, beside those of all."""
    return {
        status: {"model": Error, "description": MEANING[status]} for status in sorted({*_OF_ALL, *statuses})
    }


def errors_beside(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same of an address whose success is no JSON: FastAPI would give errors the form of the success."""
    form = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        status: {"description": MEANING[status], "content": form} for status in sorted({*_OF_ALL, *statuses})
    }


EVENTS: dict[int | str, dict[str, Any]] = {
    **errors_beside(404, 409),
    200: {
        "description": "Server-sent events, without an end.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
}


def answer(
    status: int, error: str, mend: str | None = None, fields: dict[str, str] | None = None
) -> JSONResponse:
    """An error as the API says it; what is absent is left out."""
    said = Error(error=without_secrets(error), mend=mend, fields=fields)
    return JSONResponse(said.model_dump(exclude_none=True), status_code=status)


def _methods(app: FastAPI, request: Request) -> list[str]:
    """Every method that the address of a request takes; each route knows its own alone."""
    found = []
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        asked = {**request.scope, "method": method}
        if any(route.matches(dict(asked))[0] is Match.FULL for route in app.router.routes):
            found.append(method)
    return found


def _is_for_a_person(request: Request) -> bool:
    """Whether a browser asks for a page, and not a page's script for data or a file."""
    path = request.url.path
    asks = "text/html" in request.headers.get("accept", "")
    return asks and request.method == "GET" and not path.startswith(("/api/", "/static/"))


def add_error_answers(app: FastAPI) -> None:
    """Turn every error into JSON with its status."""

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> JSONResponse:
        return answer(error.status, error.error, error.mend, error.fields)

    @app.exception_handler(NeuroscanError)
    async def ours(_request: Request, error: NeuroscanError) -> JSONResponse:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        mend = "GET /api/v1/runs lists the runs" if status == 404 else None
        return answer(status, str(error), mend, fields_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        problems: dict[str, str] = {}
        for one in error.errors():
            kind, *rest = one["loc"] or ("body",)
            name = ".".join(str(part) for part in rest) or str(kind)
            problems.setdefault(name, str(one["msg"]).removeprefix("Value error, "))
        status = 400 if any(one["type"] == "json_invalid" for one in error.errors()) else 422
        if status == 400:
            return answer(400, "the body is no JSON", "send one JSON object")
        text = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        return answer(422, text[:5000], None, problems)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            headers = {"allow": ", ".join(_methods(app, request))}
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
            said = f"this address takes no {request.method[:40]}"
            response = answer(405, said, f"it takes {headers['allow']}")
            response.headers.update(headers)
            return response
        if error.status_code == 404 and _is_for_a_person(request):
            return HTMLResponse(missing_html(request.url.path), status_code=404)
        refusal = too_large() if error.status_code == 413 else Refused(error.status_code, str(error.detail))
        response = answer(refusal.status, refusal.error, refusal.mend)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        log.error("an error of our own at %s %s", request.method, request.url.path, exc_info=error)
        return answer(500, "a fault of the server's own", "its log says more; please report it")
