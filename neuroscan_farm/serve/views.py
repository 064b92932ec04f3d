"""How clients name a view of a run: a probe, or `*` for the mean over several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuroscan_farm.serve.security import Refused

if TYPE_CHECKING:
    from neuroscan_farm.report.findings import Findings

MEAN_OVER_PROBES = "*"


def view_of(findings: Findings, name: str | None) -> str | None:
    """Return the view of a name: of none the first, of `*` the mean over the probes.

    Raises:
        Refused: the run has no such probe.
    """
    if name is None:
        return findings.views[0]
    if name == MEAN_OVER_PROBES:
        return findings.views[0] if len(findings.probes) == 1 else None
    if name in findings.probes:
        return name
    raise Refused(
        422,
        f"probe {name[:100]!r} is not in this run; there are: {', '.join(findings.probes)}",
        "name one of them, or `*` for the mean over several",
        {"probe": "is not in this run"},
    )


def name_of(view: str | None) -> str:
    """The name of a view, as clients write it."""
    return MEAN_OVER_PROBES if view is None else view
