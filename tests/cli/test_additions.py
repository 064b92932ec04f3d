"""What a person wants of a run holds for the probes that were added to it, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from neuroscan_farm.cli import control_commands
from neuroscan_farm.coordinator.extend import plan_addition
from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.store.additions import place_of_addition
from neuroscan_farm.store.run_directory import RunDirectory
from tests.cli.conftest import Command
from tests.paper_models import finish, paper_plan, paper_probe


@pytest.fixture
def first(model: Path, probe: Path, tmp_path: Path) -> RunDirectory:
    run = prepare(paper_plan(model, probe), tmp_path / "first", executor="local")
    finish(run)
    return run


@pytest.fixture
def addition(first: RunDirectory, tmp_path: Path) -> RunDirectory:
    plan = plan_addition(first, [str(paper_probe(tmp_path / "more.json", name="more"))])
    return prepare(plan, place_of_addition(first, plan.run_id), executor="local")


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places of the runs that would have been driven here; each ends as one with failed tasks does."""
    places: list[str] = []

    def carry_out(directory: RunDirectory, *_: object, **__: object) -> None:
        places.append(directory.location)
        raise typer.Exit(3)

    monkeypatch.setattr(control_commands, "carry_out", carry_out)
    return places


@pytest.mark.parametrize(("word", "wanted"), [("pause", "paused"), ("cancel", "cancelled")])
def test_pause_and_cancel_reach_what_is_being_added_to_a_finished_run(
    word: str, wanted: str, first: RunDirectory, addition: RunDirectory, command: Command
) -> None:
    said = command(word, first.location)
    assert said.code == 0, said.stderr
    assert addition.wanted() == wanted
    assert first.wanted() == "running"
    finish(addition)
    assert "the run is finished already" in command(word, first.location).stderr


def test_retry_tries_the_failed_tasks_of_what_was_added(
    first: RunDirectory, addition: RunDirectory, carried_out: list[str], command: Command
) -> None:
    finish(addition, outcome=Outcome.ERROR)
    planned = len(addition.planned().task_ids)
    said = command("retry", first.location, "--failed")
    assert f"{planned} tasks are tried again" in said.stderr
    assert carried_out == [addition.location]
    assert not addition.parts.look().done


def test_what_was_added_goes_on_where_tasks_of_the_run_have_failed(
    first: RunDirectory, addition: RunDirectory, carried_out: list[str], command: Command
) -> None:
    first.parts.forget(frozenset(first.planned().task_ids))
    said = command("resume", first.location)
    assert said.code == 3
    assert carried_out == [first.location, addition.location]
