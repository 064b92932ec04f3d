"""What a run can tell by its probes: is the baseline at the floor or the ceiling, and what could be seen at all."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy.special import stdtrit
from scipy.stats import binom

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.configurations import ProbeResult
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT, percent

CEILING = 0.95  # accuracy of the baseline
_POWER = 0.8
_LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class RunAudit:
    """One probe as a run's baseline met it."""

    probe: str
    baseline: ProbeResult | None  # None where the baseline is not measured
    at_floor: bool  # its accuracy is not above the best blind answer's, beyond chance
    at_ceiling: bool
    typical_error: float | None  # median standard error of the configurations' effects, on the ranking metric
    # smallest effect seen in four cases of five, of one configuration that was named before
    detectable: float | None
    detectable_among_all: float | None  # the same of one among all that were tried
    warnings: tuple[str, ...]


def audit_run(findings: Findings, probe: str) -> RunAudit:
    """Judge a probe by the baseline's scores and the configurations' spread, on the samples that are not held out.

    The smallest detectable effect is (t(0.975) + t(0.8)) standard errors, with the degrees of freedom of the samples; among
    all configurations, what the best must exceed for an adjusted p below 0.05 stands in the place of t(0.975).
    """
    baseline = findings.baseline.results[probe] if findings.baseline and findings.has_baseline else None
    audit = findings.audits_of_scored.get(probe)
    accuracy = baseline.means["correct"] if baseline else None
    warnings, at_floor, at_ceiling = [], False, False
    if accuracy is not None and audit is not None and audit.best_blind is not None:
        n = _scored(findings, probe)
        hits = round(accuracy * n)
        at_floor = float(binom.sf(hits - 1, n, audit.best_blind)) > _LEVEL
        at_ceiling = accuracy >= CEILING
        blind = f"always answering {audit.majority_answer!r} gets {percent(audit.best_blind)}"
        if at_floor:
            warnings.append(
                f"Probe {probe}: the baseline is at the floor. It is right on {percent(accuracy)} of {n} samples, and "
                f"{blind}; it cannot do this task, so that a change says little of a skill. Take an easier "
                "probe, or more samples."
            )
        elif at_ceiling:
            warnings.append(
                f"Probe {probe}: the baseline is at the ceiling. It is right on {percent(accuracy)} of {n} samples, so "
                "accuracy can hardly rise; log_odds still can. Take a harder probe to look for gains."
            )
    error, alone, among = _detectable(findings, probe)
    return RunAudit(probe, baseline, at_floor, at_ceiling, error, alone, among, tuple(warnings))


def _scored(findings: Findings, probe: str) -> int:
    """On how many samples the baseline's accuracy rests: those that are ok, and not held out."""
    assert findings.baseline is not None
    matrix = findings.matrices[probe]
    row = matrix.scores[Metric.CORRECT.value][matrix.rows[findings.baseline.task_id]]
    return int(np.isfinite(row).sum())


def audit_notices(findings: Findings) -> list[str]:
    """Return what the probes' own audits and the baseline's scores warn of, for the report."""
    found = []
    for probe in findings.probes:
        if (audit := findings.audits.get(probe)) is not None:
            found += [f"Probe {probe}: {warning}." for warning in audit.warnings]
        found += audit_run(findings, probe).warnings
    return found


def detectable_text(findings: Findings, audit: RunAudit) -> str | None:
    """Say what could be seen at all; None while no configuration has a spread."""
    if audit.detectable is None:
        return None
    text = METRIC_TEXT[findings.metric]
    one = f"{text.change(audit.detectable)} {text.unit}"
    if audit.detectable_among_all is None:
        return f"smallest effect that is seen in four cases of five: {one}"
    many = text.change(audit.detectable_among_all)
    return f"smallest effect that is seen in four cases of five: {one} of one configuration, {many} among all"


def _detectable(findings: Findings, probe: str) -> tuple[float | None, float | None, float | None]:
    effects = [
        effect
        for c in findings.configurations
        if (effect := c.results[probe].effects.get(findings.metric)) is not None
    ]
    errors = [effect.standard_error for effect in effects if effect.standard_error]
    if not errors:
        return None, None, None
    error, freedom = median(errors), max(round(median(effect.n for effect in effects)) - 1, 1)
    usual = float(stdtrit(freedom, 1 - _LEVEL / 2) + stdtrit(freedom, _POWER))
    noise = findings.noise.get(probe)
    needed = noise.standard_errors_high if noise is not None else None
    among = None if needed is None else (needed + float(stdtrit(freedom, _POWER))) * error
    alone = usual * error
    return error, alone, None if among is None else max(among, alone)
