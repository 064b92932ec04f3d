"""The locked split in a report: what chooses, what confirms, and how much of an effect is left."""

from __future__ import annotations

import numpy as np
import pytest

from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.paths import Block
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.report.confirmation_text import confirmation_lines
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.summary import summary_dict, summary_text
from neuroscan_farm.statistics.confirm_split import held_out_samples
from neuroscan_farm.statistics.effects import paired_effects
from neuroscan_farm.store.run_directory import RunDirectory
from tests.report.conftest import MakeRun

LUCKY, REAL = Block(1, 2), Block(2, 4)


def held_out(run: RunDirectory) -> frozenset[str]:
    return held_out_samples(run.probes(), 0.5)["math"]


def lucky_and_real(run: RunDirectory) -> object:
    """One block helps on the samples that choose alone, another one everywhere."""
    held = held_out(run)

    def behave(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
        lucky = task.block == LUCKY and f"{probe}-{sample:03d}" not in held
        gain = 2.0 if lucky else 1.0 if task.block == REAL else 0.0
        return float(random.normal(0, 0.2)) + gain, Outcome.OK

    return behave


@pytest.fixture
def run(make_run: MakeRun) -> RunDirectory:
    same_samples = make_run(n_samples=32, share=0.0)
    return make_run(n_samples=32, confirm=0.5, behaviour=lucky_and_real(same_samples))


def test_the_samples_held_out_have_no_part_in_the_choice(run: RunDirectory) -> None:
    findings = read_findings(run)
    assert [c.block for c in findings.ranked()[:2]] == [LUCKY, REAL]
    held = held_out(run)
    assert not held & set(findings.matrices["math"].samples)
    chosen = findings.ranked()[0].results[None].effects[Metric.LOG_ODDS]
    rows = run.parts.read()
    seen = rows.filter([sample not in held for sample in rows["sample_id"].to_pylist()])
    assert findings.baseline is not None
    (alone,) = [
        effect
        for effect in paired_effects(seen, metric=Metric.LOG_ODDS, baseline_id=findings.baseline.task_id)
        if effect.task_id == chosen.task_id
    ]
    assert chosen == alone
    assert chosen.n == 16


def test_the_samples_held_out_tell_luck_from_skill(run: RunDirectory) -> None:
    findings = read_findings(run)
    found = findings.confirmation
    assert found is not None
    assert (found.chosen_by, found.held_out) == ({"math": 16}, {"math": 16})
    lucky, real, third = found.on(None)
    assert (lucky.rank, real.rank, third.rank) == (1, 2, 3)
    assert lucky.confirmed is not None
    assert lucky.confirmed.low is not None
    assert lucky.confirmed.low < 0.15
    assert lucky.shrinkage == pytest.approx(1 - lucky.confirmed.mean / lucky.chosen.mean)
    assert lucky.shrinkage > 0.85
    assert real.confirmed is not None
    assert real.confirmed.p_adjusted is not None
    assert real.confirmed.p_adjusted < 0.05
    assert real.shrinkage is not None
    assert abs(real.shrinkage) < 0.25
    assert real.confirmed.n == 16


def test_the_summary_says_how_much_is_left(run: RunDirectory) -> None:
    findings = read_findings(run)
    said = " ".join(summary_text(findings, failures=[]).split())
    assert "Every figure and table rests on the samples that choose" in said
    assert "(samples: 16 and 16 of math)" in said
    lines = confirmation_lines(findings)
    assert lines[1].startswith("(1, 2): +2.0")
    assert " % of it is gone" in lines[1] or "none of the gain is left" in lines[1]
    content = summary_dict(findings, failures=[])["confirmation"]
    assert content["samples_held_out"] == {"math": 16}
    assert [one["rank"] for one in content["best"]] == [1, 2, 3]
    assert content["best"][0]["effect"] < 0.3 < content["best"][0]["effect_chosen"]


def test_each_probe_and_their_mean_have_their_own_best(make_run: MakeRun) -> None:
    findings = read_findings(make_run(probes=("math", "json"), n_samples=20, confirm=0.5))
    found = findings.confirmation
    assert found is not None
    assert [one.probe for one in found.best] == [None] * 3 + ["math"] * 3 + ["json"] * 3
    assert found.held_out == {"math": 10, "json": 10}


def test_a_run_without_the_split_confirms_nothing(make_run: MakeRun) -> None:
    findings = read_findings(make_run())
    assert findings.confirmation is None
    assert confirmation_lines(findings) == []


def test_before_anything_is_measured_there_is_nothing_to_confirm(make_run: MakeRun) -> None:
    findings = read_findings(make_run(n_samples=20, confirm=0.5, share=0.0))
    lines = confirmation_lines(findings)
    assert lines[1:] == [
        "Nothing is ranked yet, so there is nothing to confirm.",
        "The run is not finished, so others may yet be chosen.",
    ]


def test_a_loss_that_was_the_least_bad_has_no_shrinkage(make_run: MakeRun) -> None:
    def hurts(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
        return float(random.normal(0, 0.1)) - (2.0 if task.block else 0.0), Outcome.OK

    findings = read_findings(make_run(n_samples=20, confirm=0.5, behaviour=hurts))
    assert findings.confirmation is not None
    assert {one.shrinkage for one in findings.confirmation.best} == {None}
    assert "there was no gain to confirm" in confirmation_lines(findings)[1]
