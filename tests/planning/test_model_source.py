"""Where a model is found: a folder, the bundled one, or a hub, here a local stand-in that speaks its protocol."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from neuroscan_farm.demo import MODEL_DIR
from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.model_source import find_model
from tests.paper_models import paper_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_folder_is_taken_as_it_is_and_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = paper_model(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert find_model("tiny", weights=True) == folder
    assert find_model(str(folder), weights=False) == folder


def test_demo_is_the_bundled_model_unless_a_folder_of_that_name_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model("demo", weights=True) == MODEL_DIR
    own = paper_model(tmp_path / "demo")
    assert find_model("demo", weights=True) == own


def test_a_file_is_refused_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"this is a file; give the folder that holds config.json"):
        find_model(str(tmp_path / "model.gguf"), weights=True)


@pytest.mark.parametrize(
    "name", ["/nowhere/at/all", "./nowhere", "a/b/c", "what is this", "~nobody-of-that-name/m", "a\0b"]
)
def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(name: str) -> None:
    with pytest.raises(
        ModelError, match=r"no such folder; give a folder with config.json, a hub id, or `demo`"
    ):
        find_model(name, weights=True)


def test_a_name_that_is_too_long_for_any_folder_is_refused() -> None:
    with pytest.raises(ModelError, match="no such folder"):
        find_model("x" * 5000, weights=True)


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of a hub: a model's files, and each of them."""

    folder: ClassVar[Path]
    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        self.asked.append(path)
        names = sorted(file.name for file in self.folder.iterdir())
        if path.startswith("/api/models/acme/tiny"):
            files = [{"rfilename": name} for name in names]
            tree = [
                {"type": "file", "path": n, "size": (self.folder / n).stat().st_size, "oid": "0" * 40}
                for n in names
            ]
            info = {"id": "acme/tiny", "modelId": "acme/tiny", "sha": COMMIT, "siblings": files}
            self._send(json.dumps(tree if "/tree/" in path else info).encode(), body)
        elif path.startswith("/acme/tiny/resolve/") and path.rsplit("/", 1)[1] in names:
            self._send((self.folder / path.rsplit("/", 1)[1]).read_bytes(), body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, content: bytes, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, type[Hub]]]:
    class Here(Hub):
        folder = paper_model(tmp_path / "on-the-hub")
        asked: ClassVar[list[str]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Here
    server.shutdown()
    thread.join()
    server.server_close()


FIND = """
import sys
from neuroscan_farm.errors import NeuroscanError
from neuroscan_farm.planning.facts import fingerprint
from neuroscan_farm.planning.model_source import find_model
try:
    folder = find_model(sys.argv[1], weights=sys.argv[2] == "weights")
    print(folder, fingerprint(folder), *sorted(file.name for file in folder.iterdir()), sep="\\n")
except NeuroscanError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def find(
    model: str, what: str, *, home: Path, endpoint: str, offline: str = "0"
) -> subprocess.CompletedProcess[str]:
    """Look for a model in a process of its own: huggingface_hub reads its environment when it is imported."""
    variables = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    variables |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", FIND, model, what]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=120)


def test_a_hub_id_is_fetched_by_its_commit_and_then_found_offline(
    tmp_path: Path, hub: tuple[str, type[Hub]]
) -> None:
    endpoint, server = hub
    home = tmp_path / "hf"
    small = find("acme/tiny", "no weights", home=home, endpoint=endpoint)
    assert small.returncode == 0, small.stderr
    assert "model.safetensors" not in small.stdout, "a plan fetches no weights"

    whole = find("acme/tiny", "weights", home=home, endpoint=endpoint)
    folder, print_, *names = whole.stdout.splitlines()
    assert Path(folder).is_relative_to(home)
    assert print_ == f"hub-{COMMIT}"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)

    asked = len(server.asked)
    offline = find("acme/tiny", "weights", home=home, endpoint=endpoint, offline="1")
    assert offline.stdout == whole.stdout
    assert len(server.asked) == asked, "HF_HUB_OFFLINE is respected"


@pytest.mark.parametrize("state", ["offline", "unreachable", "unknown"])
def test_a_hub_id_that_cannot_be_had_is_refused_in_one_message(
    tmp_path: Path, hub: tuple[str, type[Hub]], state: str
) -> None:
    endpoint = "http://127.0.0.1:9" if state == "unreachable" else hub[0]
    found = find(
        "acme/other",
        "weights",
        home=tmp_path / "hf",
        endpoint=endpoint,
        offline="1" if state == "offline" else "0",
    )
    assert found.returncode == 5
    assert found.stdout == ""
    assert "model acme/other: no such folder, and the hub gave no such model" in found.stderr
    assert "HF_HUB_OFFLINE" in found.stderr
    assert "Traceback" not in found.stderr
