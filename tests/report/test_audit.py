"""What a run can tell by its probes: floor, ceiling, and the smallest effect that would be seen."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtrit

from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.report.audit import audit_run, detectable_text
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.summary import notices
from neuroscan_farm.statistics.confirm_split import held_out_samples
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


def test_with_a_locked_split_floor_and_blind_answers_are_of_the_samples_that_choose(
    make_run: MakeRun,
) -> None:
    """The questions that choose are all right and of many answers; those held out are all wrong and of one."""
    probe = make_run(n_samples=40, confirm=0.5).probes()[0]
    held = held_out_samples([probe], 0.5)["math"]
    out = {number for number, sample in enumerate(probe.samples) if sample.sample_id in held}

    def behave(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
        return (-1.0 if sample in out or sample % 2 == 0 else 1.0) + float(random.normal(0, 0.1)), Outcome.OK

    answers = ["7" if number in out else str(number % 7) for number in range(40)]
    findings = read_findings(make_run(n_samples=40, confirm=0.5, behaviour=behave, answer=answers))
    whole, scored = findings.audits["math"], findings.audits_of_scored["math"]
    assert (whole.n_samples, scored.n_samples) == (40, 20)
    assert whole.majority_answer == "7"
    assert scored.answers.get("7") is None
    assert findings.baseline is not None
    accuracy = findings.baseline.results["math"].means["correct"]
    assert accuracy == pytest.approx(sum(n not in out and n % 2 != 0 for n in range(40)) / 20)
    seen = audit_run(findings, "math")
    # Against the blind answer of all samples (half are 7), or on all of them, it would be at the floor.
    assert not seen.at_floor
    assert not any("floor" in warning for warning in seen.warnings)


def test_among_all_the_smallest_effect_seen_rests_on_what_the_best_must_exceed(make_run: MakeRun) -> None:
    findings = read_findings(make_run(n_samples=16))
    noise, seen = findings.noise["math"], audit_run(findings, "math")
    assert noise is not None
    assert noise.standard_errors_high is not None
    assert seen.typical_error is not None
    assert seen.detectable is not None
    needed = (noise.standard_errors_high + float(stdtrit(15, 0.8))) * seen.typical_error
    assert seen.detectable_among_all == pytest.approx(max(needed, seen.detectable))
