"""The command line as a person uses it: words in; exit code, data and messages out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from neuroscan_farm.cli.main import app, run_guarded
from tests.paper_models import paper_model, paper_probe


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str


Command = Callable[..., Said]


@pytest.fixture(autouse=True)
def at_home(own_settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder of the test's own, and without anybody's variables; put the signals back afterwards."""
    for name in [name for name in os.environ if name.startswith("NEUROSCAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NEUROSCAN_CACHE_DIR", str(own_settings / "cache"))
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that gives a command line to the program, as its entry point does."""

    def give(*words: str | Path) -> Said:
        capsys.readouterr()
        try:
            code = run_guarded(lambda: app(args=[str(word) for word in words], standalone_mode=True))
        except SystemExit as end:
            code = int(end.code or 0)
        return Said(code, *capsys.readouterr())

    return give


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return paper_model(tmp_path / "tiny")


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    return paper_probe(tmp_path / "sums.json")
