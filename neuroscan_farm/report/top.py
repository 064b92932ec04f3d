"""The best configurations of a run in a few lines, on one probe or over the probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuroscan_farm.errors import RequestError
from neuroscan_farm.report.chance import chance, noise_text
from neuroscan_farm.report.cost import cost_text
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT, p_text, percent
from neuroscan_farm.report.tables import MEAN_OVER_PROBES, records

TOP_VERSION = 1


def view_of(findings: Findings, name: str | None) -> str | None:
    """Return the view that a person names; None, over all probes, where none is named.

    Raises:
        RequestError: the run has no such probe.
    """
    if name is None or name in findings.probes:
        return name
    raise RequestError(f"probe {name} is not in this run; there are: {', '.join(findings.probes)}")


def top_text(findings: Findings, *, count: int, probe: str | None = None) -> str:
    """Return the table of the best `count`, and what the best would show by chance."""
    text, best = METRIC_TEXT[findings.metric], findings.ranked(probe)[:count]
    if not best:
        reasons = (c.results[probe].unranked for c in findings.configurations)
        return f"no configuration has a rank: {next((why for why in reasons if why), 'there is none')}"
    rows = [("rank", "configuration", "change", "95 % interval", "adj. p", "q", "accuracy", "cost")]
    for c in best:
        result = c.results[probe]
        effect = result.effects[findings.metric]
        rows.append(
            (
                str(result.rank),
                c.label,
                text.change(effect.mean),
                text.interval(effect),
                p_text(effect.p_adjusted),
                p_text(effect.q),
                percent(result.means["correct"]),
                cost_text(c.cost),
            )
        )
    lines = table_lines(rows, right={0, 2, 4, 5, 6})
    lines.append(f"change of {text.name} in {text.unit}, on {findings.view_name(probe)}")
    if findings.n_measured < findings.n_planned:
        lines.append(f"{findings.n_measured} of {findings.n_planned} planned tasks are measured so far")
    noise = noise_text(chance(findings, probe=probe))
    return "\n".join([*lines, noise] if noise else lines)


def top_dict(findings: Findings, *, count: int, probe: str | None = None) -> dict[str, Any]:
    """Return the same as JSON's own types: the records of `configurations.csv`, best first."""
    view = findings.probes[0] if probe is None and len(findings.probes) == 1 else probe
    name = MEAN_OVER_PROBES if view is None else view
    best = findings.ranked(probe)[:count]
    return {
        "schema_version": TOP_VERSION,
        "run_id": findings.manifest.run_id,
        "ranked_by": findings.metric.value,
        "probe": name,
        "tasks_planned": findings.n_planned,
        "tasks_measured": findings.n_measured,
        "best": [record for record in records(findings, only=best) if record["probe"] == name],
    }


def table_lines(rows: Sequence[Sequence[str]], *, right: set[int]) -> list[str]:
    """Lay rows out in columns; those in `right` are aligned to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  ".join(
            text.rjust(width) if k in right else text.ljust(width)
            for k, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
