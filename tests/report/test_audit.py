"""What a run can tell by its probes: floor, ceiling, and the smallest effect that would be seen."""

from __future__ import annotations

import numpy as np
import pytest

from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.report.audit import audit_run, detectable_text
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.summary import notices
from tests.report.conftest import Behaviour, MakeRun


def right_on(share: float, *, noise: float = 0.4) -> Behaviour:
    def behave(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
        size = 1 + abs(float(random.normal(0, noise)))
        return (size if sample % 20 < 20 * share else -size), Outcome.OK

    return behave


@pytest.mark.parametrize(
    ("share", "floor", "ceiling"),
    [(0.05, True, False), (0.15, True, False), (0.6, False, False), (1.0, False, True)],
)
def test_the_baseline_at_the_floor_or_the_ceiling_is_told(
    make_run: MakeRun, share: float, floor: bool, ceiling: bool
) -> None:
    findings = read_findings(make_run(n_samples=20, behaviour=right_on(share)))
    audit = audit_run(findings, "math")
    assert (audit.at_floor, audit.at_ceiling) == (floor, ceiling)
    said = [notice for notice in notices(findings) if "the baseline is at" in notice]
    assert len(said) == floor + ceiling
    if floor:
        right = f"at the floor. It is right on {100 * share:.1f} % of 20 samples"
        assert f"{right}, and always answering '0' gets 10.0 %" in said[0]


def test_where_one_answer_is_always_right_a_perfect_baseline_is_at_the_floor(make_run: MakeRun) -> None:
    findings = read_findings(make_run(n_samples=20, behaviour=right_on(1.0), answer="3"))
    assert audit_run(findings, "math").at_floor
    assert any(
        "always answering '3' is right on 100 % of the samples" in notice for notice in notices(findings)
    )


def test_without_a_baseline_nothing_is_said_of_it(make_run: MakeRun) -> None:
    findings = read_findings(make_run(with_baseline=False))
    audit = audit_run(findings, "math")
    assert (audit.baseline, audit.detectable, audit.warnings) == (None, None, ())
    assert detectable_text(findings, audit) is None


def test_the_smallest_detectable_effect_is_found_in_about_four_cases_of_five(make_run: MakeRun) -> None:
    def noisy(gain: float) -> Behaviour:
        def behave(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
            return float(random.normal()) + (gain if task.block else 0.0), Outcome.OK

        return behave

    findings = read_findings(make_run(n_samples=16, behaviour=noisy(0.0), depth=7))
    alone = audit_run(findings, "math").detectable
    among = audit_run(findings, "math").detectable_among_all
    assert alone is not None
    assert among is not None
    assert alone <= among
    found = []
    for seed in range(1, 13):
        again = read_findings(make_run(n_samples=16, behaviour=noisy(alone), depth=4, seed=seed))
        effects = [c.results["math"].effects[Metric.LOG_ODDS] for c in again.configurations]
        found += [effect.p is not None and effect.p < 0.05 for effect in effects]
    assert 0.6 < np.mean(found) < 0.95
