"""The application: checks before everything, the API under /api/v1, pages and files beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.middleware.gzip import GZipMiddleware

import neuroscan_farm
from neuroscan_farm.serve import control_routes, read_routes, system_routes, table_routes, workers
from neuroscan_farm.serve.answers import add_error_answers
from neuroscan_farm.serve.config import ServeConfig
from neuroscan_farm.serve.pages import add_pages
from neuroscan_farm.serve.security import Guard
from neuroscan_farm.serve.state import Server

PREFIX = "/api/v1"
_ABOUT = """Runs of neuroscan-farm: submit them, watch them, take out their results.

Every error is JSON: `error` says what is wrong, `mend` what to do about it. Where the server was started with a token,
send `Authorization: Bearer TOKEN`. Absent values are null, with a reason beside them; never 0 and never NaN."""


def make_app(config: ServeConfig) -> FastAPI:
    """Return the application of a server.

    Raises:
        RequestError: the configuration would be unsafe.
    """
    config.check()
    server = Server(config)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        server.start()
        try:
            yield
        finally:
            server.close()

    app = FastAPI(
        title="neuroscan-farm",
        version=neuroscan_farm.__version__,
        description=_ABOUT,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        lifespan=life,
        redirect_slashes=False,
    )
    app.state.server = server
    add_error_answers(app)
    api = APIRouter(prefix=PREFIX)
    for module in (system_routes, read_routes, control_routes, table_routes, workers):
        api.include_router(module.router)
    app.include_router(api)
    app.include_router(system_routes.login_router)
    add_pages(app)
    app.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=5)
    app.add_middleware(Guard, config=config)
    return app
