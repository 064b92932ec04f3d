"""`probes audit` as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path

from neuroscan_farm.coordinator.prepare import prepare
from tests.cli.conftest import Command
from tests.paper_models import finish, paper_plan, paper_probe


def test_a_probe_is_audited_by_its_name(command: Command) -> None:
    said = command("probes", "audit", "math")
    assert (said.code, said.stderr) == (0, "")
    assert "math: 30 samples, 10 answers" in said.stdout
    assert "random, all alike" in said.stdout
    assert "smallest change of accuracy that can have p < 0.05: 20.0 percentage points" in said.stdout


def test_warnings_go_to_stderr_and_leave_the_exit_code(command: Command, tmp_path: Path) -> None:
    said = command("probes", "audit", "math", paper_probe(tmp_path / "own.json", samples=3))
    assert said.code == 0
    assert "probe sums: 3 samples: with fewer than 6, no p-value" in said.stderr
    assert said.stdout.count("answers, digest") == 2


def test_a_probe_without_answers_says_so(command: Command, tmp_path: Path) -> None:
    said = command("probes", "audit", paper_probe(tmp_path / "own.json", samples=8, labelled=False))
    assert said.code == 0
    assert "no sample has a right answer" in said.stdout
    assert "8 of 8 samples have no right answer" in said.stderr


def test_with_a_run_the_baseline_stands_beside(command: Command, model: Path, tmp_path: Path) -> None:
    probe = paper_probe(tmp_path / "own.json", samples=8)
    run = prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    before = command("probes", "audit", "--run", tmp_path / "run")
    assert "the baseline is not measured yet" in before.stdout
    finish(run)
    said = command("probes", "audit", "--run", tmp_path / "run", "--json")
    (audit,) = json.loads(said.stdout)["probes"]
    assert said.code == 0
    assert audit["probe"] == "sums"
    assert audit["run"]["baseline"]["correct"] == 1.0
    assert audit["run"]["at_ceiling"]
    assert audit["uniform"]["accuracy"] == 0.1
    assert any("at the ceiling" in warning for warning in audit["warnings"])
    assert "at the ceiling" in said.stderr
    shown = command("probes", "audit", probe, "--run", tmp_path / "run")
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("the baseline of the run")]
    assert line.split()[5:8] == ["100.0", "%", "0.500"]


def test_a_probe_that_the_run_has_not_is_refused(command: Command, model: Path, tmp_path: Path) -> None:
    probe = paper_probe(tmp_path / "own.json", samples=8)
    prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    said = command("probes", "audit", "math", "--run", tmp_path / "run")
    assert said.code != 0
    assert "has no probe math with these questions; it has sums" in said.stderr


def test_nothing_to_audit_is_refused_with_what_to_give(command: Command) -> None:
    said = command("probes", "audit")
    assert said.code != 0
    assert "no probe is named; give a built-in name, a file, or --run RUN" in said.stderr
