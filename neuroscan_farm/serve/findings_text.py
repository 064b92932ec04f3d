"""What the report says of a run in words, for the page that shows it live."""

from __future__ import annotations

import json
from typing import Any

from neuroscan_farm.serve.result_models import Findings
from neuroscan_farm.serve.results import Found
from neuroscan_farm.serve.runs import LiveRun
from neuroscan_farm.serve.views import name_of


def findings_text(run: LiveRun, found: Found) -> Findings:
    """Return notices, chance, the best and the baseline: the sentences and tables of the report."""
    from neuroscan_farm.report.chance import chance, chance_text, noise_text
    from neuroscan_farm.report.circuits import circuit_text
    from neuroscan_farm.report.confirmation_text import confirmation_lines
    from neuroscan_farm.report.controls import controls_text
    from neuroscan_farm.report.cross_probe import cross_probe, cross_text
    from neuroscan_farm.report.failures import failure_groups
    from neuroscan_farm.report.multi_probe import multi_probe, multi_probe_text
    from neuroscan_farm.report.page import baseline_rows, best_row, sentence
    from neuroscan_farm.report.summary import notices, progress_text, summary_dict

    def make() -> Findings:
        findings, circuit = found.findings, found.circuit
        seen = chance(findings)
        several, cross = multi_probe(findings), cross_probe(findings)
        failures = failure_groups(findings, run.directory.attempts.all())
        summary: dict[str, Any] = summary_dict(findings, failures=failures)
        return Findings(
            stamp=found.stamp,
            progress=progress_text(findings),
            notices=notices(findings),
            views=[{"view": name_of(view), "name": findings.view_name(view)} for view in findings.views],
            baseline=baseline_rows(findings),
            best=[best_row(c, findings) for c in findings.ranked()[:10]],
            noise=sentence(noise_text(seen)),
            chance=chance_text(seen),
            confirmation=list(confirmation_lines(findings)),
            controls=controls_text(findings),
            circuit=circuit_text(circuit, findings, view=findings.views[0]) if circuit else None,
            across_probes=multi_probe_text(several, findings) if several else None,
            cross_probe=cross_text(cross, findings) if cross else None,
            summary=json.loads(json.dumps(summary)),
        )

    return found.keep("text", make)
