"""The page: shells without data, and the files that they are made of. All data comes from the API, by the page's script.

Shells and files can be had without a token: there is nothing in them that is not in this program's package.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

import jinja2
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse

import neuroscan_farm
from neuroscan_farm.serve.submit_form import analysis_forms, common_fields

_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_YEAR = 365 * 24 * 3600
# Shared with the report: name here -> (name there, what is put after it).
_OF_THE_REPORT = {
    "report.css": ("style.css", ""),
    "figure_drawing.js": ("figure_drawing.js", "\nexport { framed, fitted };\n"),
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page, ready to be sent."""

    content: bytes
    media_type: str
    tag: str  # changes with the content

    @classmethod
    def of(cls, content: bytes, media_type: str) -> Asset:
        """Return the asset of this content."""
        return cls(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:20]}"')


def add_pages(app: FastAPI) -> None:
    """Add the routes of the page: shells for people, and `/static/...`; none of them is part of the API."""
    router = APIRouter(include_in_schema=False)

    @router.get("/", response_class=HTMLResponse)
    def runs() -> str:
        return _shell("runs.html.j2", here="Runs", analyses=[form.name for form in analysis_forms()])

    @router.get("/run/{run_id}", response_class=HTMLResponse)
    def run(run_id: str) -> str:
        return _shell("run.html.j2", here="Runs", run_id=run_id)

    @router.get("/compare", response_class=HTMLResponse)
    def compare() -> str:
        return _shell("compare.html.j2", here="Compare")

    @router.get("/workers", response_class=HTMLResponse)
    def workers() -> str:
        return _shell("workers.html.j2", here="Workers")

    @router.get("/new", response_class=HTMLResponse)
    def new() -> str:
        return _shell("new.html.j2", here="Submit", analyses=analysis_forms(), common=common_fields())

    @router.get("/static/{name}")
    def static(name: str, request: Request) -> Response:
        return _file(name, request)

    app.include_router(router)


def login_html(said: str | None = None) -> str:
    """Return the page that asks for the server's token; `said` is what was wrong with the last one."""
    return _shell("login.html.j2", here="", said=said)


def missing_html(path: str) -> str:
    """Return the page that says that there is none at an address."""
    return _shell("missing.html.j2", here="", path=path[:200])


def _file(name: str, request: Request) -> Response:
    """A file of the page; the browser asks again each time whether it changed, but for plotly.js, whose name tells."""
    asset = _plotly() if name == plotly_name() else _assets().get(name)
    if asset is None:
        return Response("no such file\n", status_code=404, media_type="text/plain")
    keep = f"public, max-age={_YEAR}, immutable" if name == plotly_name() else "no-cache"
    headers = {"Cache-Control": keep, "ETag": asset.tag, "Vary": "Accept-Encoding"}
    if asset.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = asset.content
    if len(content) > 2000 and "gzip" in request.headers.get("accept-encoding", ""):
        content = _packed(name)
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=asset.media_type, headers=headers)


@cache
def plotly_name() -> str:
    """The name under which plotly.js is served; another version has another name, so that browsers may keep it."""
    from plotly import __version__

    return f"plotly-{__version__}.js"


@cache
def _plotly() -> Asset:
    """The plotly.js of the plotly package: the one that draws the report."""
    from plotly.offline import get_plotlyjs

    return Asset.of(get_plotlyjs().encode(), _TYPES[".js"])


@cache
def _packed(name: str) -> bytes:
    asset = _plotly() if name == plotly_name() else _assets()[name]
    return gzip.compress(asset.content, compresslevel=6, mtime=0)


@cache
def _assets() -> Mapping[str, Asset]:
    """Every file that may be asked for, by name."""
    own = resources.files("neuroscan_farm.serve").joinpath("static")
    shared = resources.files("neuroscan_farm.report").joinpath("templates")
    found = {entry.name: _asset(entry) for entry in own.iterdir() if _ending(entry.name) in _TYPES}
    for name, (there, after) in _OF_THE_REPORT.items():
        found[name] = _asset(shared.joinpath(there), after)
    return found


def _asset(file: Traversable, after: str = "") -> Asset:
    return Asset.of(file.read_bytes() + after.encode(), _TYPES[_ending(file.name)])


def _ending(name: str) -> str:
    return name[name.rfind(".") :] if "." in name else ""


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("neuroscan_farm.serve"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shell(name: str, *, here: str, **values: object) -> str:
    """Render a shell; `here` is the page's name in the navigation."""
    template = _environment().get_template(name)
    return template.render(version=neuroscan_farm.__version__, plotly=plotly_name(), here=here, **values)
