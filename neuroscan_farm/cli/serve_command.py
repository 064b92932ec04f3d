"""`serve`: the page and the API over the runs of this machine or farm."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroscan_farm.cli.progress import note
from neuroscan_farm.cli.run_commands import BrokerOption
from neuroscan_farm.errors import RequestError
from neuroscan_farm.settings import Settings, load_settings
from neuroscan_farm.store.places import is_url

if TYPE_CHECKING:
    from neuroscan_farm.serve.config import ServeConfig

_PORT = 8642
_STOP_SECONDS = 3


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("serve")(serve)


def serve(
    host: Annotated[
        str, typer.Option(help="The address to bind to; any other than this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = _PORT,
    token: Annotated[
        str | None,
        typer.Option(
            help="Asked of every client. Better in NEUROSCAN_SERVE_TOKEN: others see what a command line says."
        ),
    ] = None,
    runs_dir: Annotated[
        str | None,
        typer.Option(help="Where the runs are: a folder, or a URL; default is NEUROSCAN_RUNS_DIR."),
    ] = None,
    broker: BrokerOption = None,
) -> None:
    """Serve a live page and an API: submit runs, watch them, look at their figures, take out their results."""
    settings = load_settings()
    try:
        import uvicorn

        from neuroscan_farm.serve.app import make_app
    except ModuleNotFoundError as error:
        raise RequestError(
            f"serve needs {error.name}, which is not installed; install it with: pip install 'neuroscan-farm[serve]'"
        ) from error
    config = _config(settings, host=host, port=port, token=token, runs_dir=runs_dir, broker=broker)
    app = make_app(config)
    listening = _listen(host, port)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=64 * 1024,
        )
    )
    app.state.server.stopping = lambda: server.should_exit
    shown = "localhost" if host in {"127.0.0.1", "::1"} else f"[{host}]" if ":" in host else host
    note(f"http://{shown}:{port}/ shows the runs in {config.runs_dir}; Ctrl-C stops")
    if config.token is not None:
        note(f"in a browser, open http://{shown}:{port}/login?token=... with the token first")
    server.run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything is started, so that a port that is taken is one message.

    Raises:
        RequestError: it cannot be had.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, number)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise RequestError(
            f"{host}:{port} cannot be had ({error.strerror or error}); choose another with --port, or stop who has it"
        ) from error
    return listening


def _config(
    settings: Settings, *, host: str, port: int, token: str | None, runs_dir: str | None, broker: str | None
) -> ServeConfig:
    from neuroscan_farm.serve.config import ServeConfig, folders_of, words_of

    where: Path | str = settings.runs_dir if runs_dir is None else runs_dir.rstrip("/") or "/"
    materialize = folders_of(settings.serve_materialize, name="NEUROSCAN_SERVE_MATERIALIZE")
    return ServeConfig(
        runs_dir=where if is_url(where) else Path(where).absolute(),
        host=host,
        port=port,
        token=token or settings.serve_token or None,
        names=words_of(settings.serve_names),
        models=folders_of(settings.serve_models, name="NEUROSCAN_SERVE_MODELS"),
        hub_models=words_of(settings.serve_hub_models),
        probes=folders_of(settings.serve_probes, name="NEUROSCAN_SERVE_PROBES"),
        materialize=materialize[0] if materialize else None,
        broker_url=broker or settings.broker_url,
        queue=settings.queue,
        roots=settings.roots,
        path_map=settings.path_map,
        cache_dir=settings.cache_dir,
    )
