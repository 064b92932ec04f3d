"""The locked split in words: what the best kept of their effect on samples that had no part in choosing them."""

from __future__ import annotations

from neuroscan_farm.report.confirmation import MOST_CONFIRMED, Confirmed
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT, p_text


def confirmation_lines(findings: Findings, *, probe: str | None = None) -> list[str]:
    """Return what the split is, then a line for each of the best; empty where no samples are held out.

    Args:
        findings: of the run.
        probe: on which they are the best; None for the mean over the probes.
    """
    found = findings.confirmation
    if found is None:
        return []
    sizes = ", ".join(
        f"{found.chosen_by[name]} and {found.held_out[name]} of {name}" for name in findings.probes
    )
    lines = [
        "Every figure and table rests on the samples that choose; the others are held out for this alone "
        f"(samples: {sizes})."
    ]
    labels = {c.task_id: c.label for c in findings.configurations}
    best = found.on(probe)
    lines += [f"{labels[one.task_id]}: {_said(one, findings, len(best))}." for one in best]
    if not best:
        lines.append("Nothing is ranked yet, so there is nothing to confirm.")
    if findings.share < 1:
        lines.append("The run is not finished, so others may yet be chosen.")
    elif len(best) == MOST_CONFIRMED:
        lines.append(
            f"No more than {MOST_CONFIRMED} are confirmed: each that is looked at makes the others less sure."
        )
    return lines


def _said(one: Confirmed, findings: Findings, among: int) -> str:
    text = METRIC_TEXT[findings.metric]
    chosen = f"{text.change(one.chosen.mean)} {text.unit} on the samples that chose it"
    if one.confirmed is None:
        return f"{chosen}; not confirmed, because {one.reason}"
    effect = one.confirmed
    interval = text.interval(effect) if effect.low is not None else f"no interval: {effect.no_interval}"
    p = "" if effect.p is None else f"; p {p_text(effect.p)}"
    if among > 1 and effect.p_adjusted is not None:
        p += f", {p_text(effect.p_adjusted)} among the {among} confirmed"
    return (
        f"{chosen}, {text.change(effect.mean)} on those held out (95 %: {interval}{p}); {shrinkage_text(one)}"
    )


def shrinkage_text(one: Confirmed) -> str:
    """Say how much of the effect that chose a configuration is gone on the samples held out."""
    gone = one.shrinkage
    if gone is None:
        return "there was no gain to confirm"
    if gone > 1:
        return "none of the gain is left"
    if gone < 0:
        return f"it grew by {-100 * gone:.0f} %"
    return f"{100 * gone:.0f} % of it is gone"
