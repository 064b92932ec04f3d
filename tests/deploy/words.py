"""What is written in deploy/ and its pages: its files, the settings they name, the commands they start."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import typer.main

from neuroscan_farm.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
PAGES = sorted([*(ROOT / "docs").glob("deploy*.md"), DEPLOY / "README.md"])

# In a page's code anywhere in a line, after `docker compose exec` and the like; elsewhere as the line's own command.
_CALL = re.compile(r"(?:^|[\s/])neuroscan-farm +([a-z][^\n|;&)]*)")
_OWN = re.compile(r"^(?:\s*|ExecStart=/\S+/)(?:\w+=\S+ )*neuroscan-farm +([a-z][^\n|;&)]*)")


def text_of(path: Path) -> str:
    """A file's text."""
    return path.read_text(encoding="utf-8")


def calls(path: Path) -> list[list[str]]:
    """Every `neuroscan-farm …` of a file as words, without comments."""
    text = re.sub(r"\\\n\s*", " ", text_of(path))
    pattern = _OWN
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.M | re.S))
        pattern = _CALL
    found = []
    for line in text.splitlines():
        code = re.split(r"(?:^|\s)#", line, maxsplit=1)[0]
        found += [shlex.split(match.replace('"', " ").replace("'", " ")) for match in pattern.findall(code)]
    return found


def refusal(words: list[str]) -> str | None:
    """Why the program's own parser does not take these words as a command line; None if it does. Nothing is run."""
    command: Any = typer.main.get_command(app)
    words = list(words)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if hasattr(command, "commands"):
        return f"no such command: {words}"
    try:
        command.make_context(command.name, words)
    except Exception as error:
        return f"{command.name}: {getattr(error, 'message', error)!r}"
    return None
