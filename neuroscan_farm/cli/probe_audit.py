"""What `probes audit` prints: a probe by itself, and beside the baseline of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuroscan_farm.coordinator.overview import find_run
from neuroscan_farm.errors import RequestError
from neuroscan_farm.probes.audit import BlindScores, ProbeAudit, audit_probe
from neuroscan_farm.probes.catalogue import load_probe
from neuroscan_farm.report.audit import RunAudit, audit_run, detectable_text
from neuroscan_farm.report.configurations import SCORES
from neuroscan_farm.report.findings import Findings, read_findings
from neuroscan_farm.report.metric_text import ABSENT, number, percent
from neuroscan_farm.settings import load_settings

_HEAD = f"{'':<26} {'accuracy':>9} {'log-odds':>9} {'log-prob.':>9} {'exp. value':>10} {'coverage':>9}"
_MOST_ANSWERS = 12


@dataclass(frozen=True, slots=True)
class Audited:
    """One probe with what its audits say."""

    itself: ProbeAudit
    findings: Findings | None  # None where no run was named
    in_run: RunAudit | None

    @property
    def scored(self) -> ProbeAudit:
        """The audit of the samples that the run's scores rest on: without those that it holds out."""
        return self.itself if self.findings is None else self.findings.audits_of_scored[self.itself.probe]

    @property
    def warnings(self) -> list[str]:
        """Everything that is to be minded, each with the probe's name."""
        found = [f"probe {self.itself.probe}: {warning}" for warning in self.itself.warnings]
        return found + list(self.in_run.warnings if self.in_run else ())


def read_audits(names: Sequence[str], *, run: str | None) -> list[Audited]:
    """Audit the probes that are named, or those of the run.

    Args:
        names: built-in names or files.
        run: whose baseline is shown beside; its id, the beginning of it, or its directory.

    Raises:
        RequestError: neither is given, or a probe is not in the run.
        ProbeError: a probe is missing or wrong.
        RunError: there is no such run, or it is damaged.
    """
    if not names and run is None:
        raise RequestError("probes audit: no probe is named; give a built-in name, a file, or --run RUN")
    loaded = [audit_probe(load_probe(name)) for name in names]
    if run is None:
        return [Audited(one, None, None) for one in loaded]
    findings = read_findings(find_run(run, load_settings().runs_dir))
    by_digest = {audit.digest: audit for audit in findings.audits.values()}
    if strangers := [one.probe for one in loaded if one.digest not in by_digest]:
        raise RequestError(
            f"run {findings.manifest.run_id} has no probe {', '.join(strangers)} with these questions; it has "
            f"{', '.join(findings.probes)}"
        )
    chosen = [by_digest[one.digest] for one in loaded] or [findings.audits[name] for name in findings.probes]
    return [Audited(one, findings, audit_run(findings, one.probe)) for one in chosen]


def audit_text(audited: Audited) -> str:
    """Return the audit of one probe as lines for a terminal."""
    audit, in_run = audited.itself, audited.in_run
    lines = [
        f"{audit.probe}: {audit.n_samples} samples, {audit.n_choices} answers, digest {audit.digest}",
    ]
    if audit.n_labelled:
        shown = [f"{answer} {count}" for answer, count in list(audit.answers.items())[:_MOST_ANSWERS]]
        more = (
            f", and {len(audit.answers) - _MOST_ANSWERS} more" if len(audit.answers) > _MOST_ANSWERS else ""
        )
        lines.append(f"right answers: {', '.join(shown)}{more}; balance {number(audit.balance, 2)} of 1")
    repeats = sum(len(group) - 1 for group in audit.duplicates)
    against = sum(len(group) for group in audit.contradictions)
    lines.append(f"repeated questions: {repeats}; samples that contradict another: {against}")
    scored = audited.scored
    if scored.n_samples != audit.n_samples:
        lines.append(
            f"scores are of the {scored.n_samples} samples that choose; the run holds out the other "
            f"{audit.n_samples - scored.n_samples}"
        )
    lines.append(_HEAD)
    if scored.majority and scored.frequencies and scored.uniform:
        worst = f"{100 * min(scored.constant.values()):.0f} to {percent(scored.majority.accuracy, 0)}"
        lines += [
            f"{'one answer, always':<26} {worst:>9}",
            _row(f"the best one, {scored.majority_answer!r}", scored.majority),
            _row("drawn as often as right", scored.frequencies),
            _row("random, all alike", scored.uniform),
        ]
    else:
        lines.append("no sample has a right answer, so blind answers have no score")
    if in_run is not None:
        means = in_run.baseline.means if in_run.baseline else dict.fromkeys(SCORES)
        lines.append(
            f"{'the baseline of the run':<26} {percent(means['correct']):>9} {number(means['log_odds']):>9} "
            f"{number(means['log_p_correct']):>9} {number(means['expected_score']):>10} {percent(means['coverage']):>9}"
        )
        if in_run.baseline is None:
            lines.append("the baseline is not measured yet")
    if (change := scored.smallest_accuracy_change) is not None:
        lines.append(
            f"smallest change of accuracy that can have p < 0.05: {100 * change:.1f} percentage points"
        )
    if in_run is not None and audited.findings is not None:
        said = detectable_text(audited.findings, in_run)
        if said is not None:
            lines.append(said)
    return "\n".join(lines)


def audits_dict(audits: Sequence[Audited]) -> dict[str, Any]:
    """Return the audits as JSON's own types; absent is None."""
    return {"schema_version": 1, "probes": [_audit_dict(one) for one in audits]}


def _audit_dict(audited: Audited) -> dict[str, Any]:
    in_run = audited.in_run
    own = {name: value for name, value in dataclasses.asdict(audited.itself).items() if name != "warnings"}
    run = None
    if in_run is not None and audited.findings is not None:
        run = {
            "run_id": audited.findings.manifest.run_id,
            "metric": audited.findings.metric.value,
            "baseline": dict(in_run.baseline.means) if in_run.baseline else None,
            "samples": audited.scored.n_samples,  # that the run's scores rest on
            "best_blind_accuracy": audited.scored.best_blind,
            "at_floor": in_run.at_floor,
            "at_ceiling": in_run.at_ceiling,
            "typical_standard_error": in_run.typical_error,
            "smallest_detectable_effect": in_run.detectable,
            "smallest_detectable_effect_among_all": in_run.detectable_among_all,
        }
    smallest = {"smallest_accuracy_change": audited.itself.smallest_accuracy_change}
    return {**own, **smallest, "run": run, "warnings": audited.warnings}


def _row(name: str, scores: BlindScores) -> str:
    return (
        f"{name:<26} {percent(scores.accuracy):>9} {number(scores.log_odds):>9} {number(scores.log_p_correct):>9} "
        f"{number(scores.expected_score):>10} {ABSENT:>9}"
    )
