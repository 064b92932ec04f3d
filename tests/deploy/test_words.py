"""What deploy/ and its pages say is true of the code: settings, commands, files, grace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neuroscan_farm.settings import Settings
from tests.deploy.words import DEPLOY, FILES, PAGES, ROOT, calls, refusal, text_of

everywhere = pytest.mark.parametrize("path", FILES + PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def test_there_are_files_and_pages_for_each_way() -> None:
    assert {path.relative_to(DEPLOY).parts[0] for path in FILES} == {
        "README.md", "docker", "compose", "kubernetes", "systemd", "slurm",
    }  # fmt: skip
    names = {path.name for path in PAGES}
    ways = ("compose", "kubernetes", "systemd", "slurm")
    assert names == {"README.md", "deploy.md", *(f"deploy-{way}.md" for way in ways)}
    index = text_of(ROOT / "docs" / "deploy.md")
    assert all(f"(deploy-{way}.md)" in index for way in ways)
    assert "docs/deploy.md" in text_of(DEPLOY / "README.md")


@everywhere
def test_every_variable_of_ours_is_a_setting(path: Path) -> None:
    known = {f"NEUROSCAN_{field.upper()}" for field in Settings.model_fields}
    # Which image compose takes is compose's own.
    assert set(re.findall(r"\bNEUROSCAN_[A-Z_]+\b", text_of(path))) <= known | {"NEUROSCAN_IMAGE"}


@everywhere
def test_every_command_is_taken_by_the_programs_own_parser(path: Path) -> None:
    assert not {" ".join(words): why for words in calls(path) if (why := refusal(words))}


def test_commands_are_found_and_wrong_ones_are_refused() -> None:
    assert refusal(["worker", "--nmae", "x"])
    assert refusal(["wroker"])
    assert refusal(["status"]), "it lacks the run"
    assert ["worker", "--name", "$name"] in calls(DEPLOY / "slurm" / "neuroscan-worker.sbatch")
    assert ["worker", "--name", "%H-gpu%i"] in calls(DEPLOY / "systemd" / "neuroscan-worker@.service")
    for page in PAGES:
        if page.name.startswith("deploy-"):
            assert any(words[0] == "drain" for words in calls(page)), (
                f"{page.name}: how is a worker taken away?"
            )


@everywhere
def test_every_file_that_is_named_is_there(path: Path) -> None:
    for name in re.findall(r"\b(?:deploy|docs)/[\w./@-]*\w\.\w+", text_of(path)):
        assert (ROOT / name).exists(), f"{path.name} names {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_holds_a_secret(path: Path) -> None:
    text = text_of(path)
    assert not re.search(r"\b[0-9a-f]{32,}\b|\bAKIA[0-9A-Z]{12,}", text)
    passwords = re.findall(r"rediss?://[^\s:@]*:([^\s@]+)@", text)
    assert all(word == "PASSWORD" or word.startswith("$") for word in passwords), path
