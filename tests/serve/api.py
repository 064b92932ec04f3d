"""A server of a test's own, asked without a network; its queue and its farm stand still unless they are started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from neuroscan_farm.serve.app import make_app
from neuroscan_farm.serve.config import ServeConfig
from neuroscan_farm.serve.state import Server

NOBODY = "redis://127.0.0.1:1/0"  # no broker listens there


class Api:
    """The API over a folder of runs.

    Args:
        runs: the folder.
        started: whether the server looks at its farm and carries runs out.
        config: fields of `ServeConfig`.
    """

    def __init__(self, runs: Path, **config: Any) -> None:
        runs.mkdir(exist_ok=True)
        base = ServeConfig(runs_dir=runs, broker_url=NOBODY, cache_dir=runs.parent / "cache")
        self.config = replace(base, **config)
        self.app = make_app(self.config)
        self.client = TestClient(self.app, base_url="http://127.0.0.1:8642", raise_server_exceptions=False)

    @property
    def server(self) -> Server:
        """The server behind it."""
        server: Server = self.app.state.server
        return server

    def rest(self) -> None:
        """Wait until everything is worked out that was to be worked out in the background."""
        self.server.results._pool.submit(lambda: None).result(timeout=60)

    def ask(self, method: str, path: str, *, status: int = 200, **options: Any) -> Any:
        """Ask, check the status, and return what JSON says."""
        response = self.client.request(method, f"/api/v1{path}", **options)
        assert response.status_code == status, response.text
        return response.json()

    def get(self, path: str, /, *, status: int = 200, **query: Any) -> Any:
        """Read."""
        return self.ask("GET", path, status=status, params=query)

    def post(self, path: str, body: Any = None, /, *, status: int = 200, **query: Any) -> Any:
        """Write."""
        return self.ask("POST", path, status=status, params=query, **({} if body is None else {"json": body}))


def a_request(**changes: Any) -> dict[str, Any]:
    """A small request for the bundled model."""
    return {
        "analysis": "duplication",
        "model": "demo",
        "probes": ["demo-chain"],
        "parameters": {"max_block": 1},
        **changes,
    }
