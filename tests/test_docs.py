"""What the pages print is true of the code: generated pages are up to date, and every command in them exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from neuroscan_farm.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("configs/*.md"), *ROOT.glob("deploy/*.md")]
PAGES += [ROOT / "neuroscan_farm" / "demo" / "README.md"]


def commands_of(page: Path) -> list[str]:
    """The lines of code blocks that call the program; generated help is no call."""
    blocks = re.findall(r"^```(?:console|bash)?\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"(\w+=\S+ )*neuroscan-farm ", line)]


def test_the_generated_pages_are_what_the_code_says_now(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    for page in tmp_path.iterdir():
        written = (ROOT / "docs" / page.name).read_text(encoding="utf-8")
        assert written == page.read_text(encoding="utf-8"), f"docs/{page.name} is old; run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_on_a_page_exists_with_its_options(page: Path) -> None:
    root = typer.main.get_command(app)
    assert commands_of(ROOT / "README.md")
    for line in commands_of(page):
        words = shlex.split(line.replace("|", " "))
        words = words[words.index("neuroscan-farm") + 1 :]
        command = root
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        assert command is not root, line
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word.partition("=")[0] for word in words if re.match(r"-[-a-z]", word)}
        assert used <= known | {"--help"}, line


def test_pages_link_to_files_that_are_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
