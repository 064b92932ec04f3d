"""Every command that needs no model answers without torch: it takes seconds to import, and a laptop may lack its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from neuroscan_farm.cli.main import app
from neuroscan_farm.coordinator.prepare import prepare
from tests.paper_models import finish, paper_plan

# Runs several command lines in one process, each as the entry point would, and says which first imported what is heavy.
WRAPPER = """
import io, contextlib, json, sys
from neuroscan_farm.cli.main import app, run_guarded

ended = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = run_guarded(lambda: app(args=words, standalone_mode=True))
        except SystemExit as end:
            code = int(end.code or 0)
    heavy = sorted(name for name in ("torch", "transformers", "accelerate") if name in sys.modules)
    ended.append({"words": words, "code": code, "heavy": heavy, "stdout": out.getvalue(), "stderr": err.getvalue()})
print(json.dumps(ended))
"""


def test_commands_that_need_no_model_never_import_torch(model: Path, probe: Path, tmp_path: Path) -> None:
    run = prepare(paper_plan(model, probe), tmp_path / "runs" / "one", executor="local")
    finish(run, run.shards()[:2])
    unfinished, finished = str(run.root), str(tmp_path / "runs" / "two")
    finish(prepare(paper_plan(model, probe, shard_size=5), Path(finished), executor="local"))
    labels = tmp_path / "labels.json"
    labels.write_text('{"layer_labels": {"0": "early_processing"}}')
    lines = [
        ["--help"],
        ["--version"],
        ["plan", "duplication", "-m", str(model), "-p", str(probe)],
        ["plan", "duplication", "-m", "demo", "-p", "math", "--json"],
        ["probes", "ls"],
        ["probes", "ls", "--json"],
        ["probes", "show", "math"],
        ["probes", "validate", str(probe)],
        ["status", unfinished],
        ["status", unfinished, "--json"],
        ["watch", finished],
        ["ls"],
        ["ls", "--json"],
        ["config", "show"],
        ["config", "show", "--json"],
        ["models", "inspect", "demo"],
        ["models", "inspect", str(model), "--json"],
        ["report", finished],
        ["export", finished, "--format", "csv"],
        ["export", finished, "--format", "mergekit", "--block", "1,3"],
        ["top", finished],
        ["top", unfinished, "--json"],
        ["compare", unfinished, finished, "--json"],
        ["annotate", finished, str(labels)],
        ["cancel", unfinished],
        *([*words, "--help"] for words in commands()),
    ]
    environment = os.environ | {"NEUROSCAN_RUNS_DIR": str(tmp_path / "runs")}
    done = subprocess.run(
        [sys.executable, "-c", WRAPPER, json.dumps(lines)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for ended in json.loads(done.stdout):
        assert ended["code"] == 0, ended
        assert ended["heavy"] == [], f"{ended['words']} imports {ended['heavy']}"
        assert ended["stdout"] or ended["words"][0] in {"watch", "cancel"}, "stdout is data"
        if "--json" in ended["words"]:
            assert json.loads(ended["stdout"])["schema_version"] >= 1


def commands() -> list[list[str]]:
    """Every command of the program, as the words that name it."""
    group = typer.main.get_command(app)
    found = []
    for name, one in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(one, "commands", None)
        found += [[name, below] for below in inner] if inner else [[name]]
    return found


def test_every_command_of_the_first_issue_is_there() -> None:
    names = {" ".join(words) for words in commands()}
    wanted = "run submit plan status watch report cancel resume export ls worker up"
    assert set(wanted.split()) <= names
    assert {"probes ls", "probes show", "probes validate", "models inspect", "config show"} <= names


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_option_says_what_it_does(words: list[str]) -> None:
    one = typer.main.get_command(app)
    for word in words:
        one = one.commands[word]  # type: ignore[attr-defined]
    assert one.help
    for parameter in one.params:
        assert getattr(parameter, "help", None) or parameter.param_type_name == "argument", (
            words,
            parameter.name,
        )
