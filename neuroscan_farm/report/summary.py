"""The summary: the run in one screen of text, and the same as data with a schema version."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

from neuroscan_farm.report.audit import audit_notices
from neuroscan_farm.report.chance import chance, chance_text, noise_text
from neuroscan_farm.report.configurations import SCORES, Configuration
from neuroscan_farm.report.confirmation import Confirmed
from neuroscan_farm.report.confirmation_text import confirmation_lines
from neuroscan_farm.report.failures import FailureGroup
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT, number, p_text, percent
from neuroscan_farm.statistics.effects import Effect

SUMMARY_VERSION = 2
_LOW_COVERAGE = 0.1
_WIDTH = 100


def progress_text(findings: Findings) -> str:
    """Say on how many of the planned tasks everything rests."""
    done, planned = findings.n_measured, findings.n_planned
    if done == planned:
        text = f"all {planned} planned tasks are measured"
    else:
        share, where = _share(done, planned), " on every probe" if len(findings.probes) > 1 else ""
        text = f"{done} of {planned} planned tasks are measured{where} ({share}); the run is not finished"
    return text if findings.plan_complete else f"{text}; a further stage may be planned from them"


def notices(findings: Findings) -> list[str]:
    """What a reader must know before believing a number; empty where all is well."""
    found = []
    if findings.baseline is None:
        found.append("The plan has no baseline (the untouched model), so there are no changes against it.")
    elif not findings.has_baseline:
        found.append(
            "The baseline (the untouched model) is not measured yet, so there are no changes against it yet. "
            "They come with its rows. If nobody works on the run any more, `neuroscan-farm resume` goes on with it."
        )
    else:
        on_probes = [findings.baseline.results[probe] for probe in findings.probes]
        for failed in (result for result in on_probes if result.outcomes and not result.n_ok):
            where = f" on probe {failed.probe}" if len(on_probes) > 1 else ""
            why = failed.detail or failed.outcome_text
            found.append(f"The baseline failed{where} ({why}), so there are no changes against it.")
    found += findings.unfinished
    for name, values in findings.conditions.items():
        if len(values) > 1:
            found.append(
                f"Rows were measured with different {name.replace('_', ' ')}s ({', '.join(values)}); "
                "small changes between configurations may come from that."
            )
    if findings.baseline and findings.has_baseline:
        for probe in findings.probes:
            coverage = findings.baseline.results[probe].means["coverage"]
            if coverage is not None and coverage < _LOW_COVERAGE:
                found.append(
                    f"Probe {probe}: the untouched model gives the answers only {percent(coverage)} of its "
                    "probability; it hardly answers in this form, and its scores are mostly noise. "
                    "Try another prompt, or the chat format."
                )
    return found + audit_notices(findings)


def summary_dict(findings: Findings, *, failures: list[FailureGroup], top_k: int = 10) -> dict[str, Any]:
    """Return the summary as JSON's own types; absent is None."""
    seen = chance(findings)
    manifest = findings.manifest
    return {
        "schema_version": SUMMARY_VERSION,
        "run_id": manifest.run_id,
        "model": manifest.model,
        "model_type": manifest.model_type,
        "model_fingerprint": manifest.model_fingerprint,
        "total_layers": manifest.depth,
        "analysis": manifest.analysis,
        "probes": {probe: {"samples": manifest.n_samples[probe]} for probe in findings.probes},
        "ranked_by": findings.metric.value,
        "created": manifest.created,
        "versions": dict(manifest.versions),
        "measured_with": {name: list(values) for name, values in findings.conditions.items()},
        "tasks_planned": findings.n_planned,
        "tasks_measured": findings.n_measured,
        "plan_complete": findings.plan_complete,
        "notices": notices(findings),
        "baseline": _baseline(findings),
        "configurations_tried": seen.tried,
        "intervals_above_zero": seen.gains,
        "intervals_above_zero_expected_by_chance": seen.expected_gains,
        "intervals_corrected_for_number_tried": False,
        "better_adjusted": seen.better,
        "worse_adjusted": seen.worse,
        "discoveries": seen.discoveries,
        "share_measured": findings.share,
        "noise": {findings.view_name(view): _noise(findings, view) for view in findings.views},
        "best": [_best(c, findings) for c in findings.ranked()[:top_k]],
        "confirmation": _confirmation(findings),
        "failures": [
            {
                "outcome": group.outcome,
                "message": group.message,
                "configurations": group.configurations,
                "samples": group.samples,
                "example": group.example,
            }
            for group in failures
        ],
        "seconds": dict(findings.seconds),
    }


def summary_text(
    findings: Findings, *, failures: list[FailureGroup], top_k: int = 10, remarks: Sequence[str] = ()
) -> str:
    """Return the summary for a terminal; `remarks` are paragraphs on what this kind of run tells besides."""
    manifest, text = findings.manifest, METRIC_TEXT[findings.metric]
    probes = ", ".join(f"{probe} ({manifest.n_samples[probe]} samples)" for probe in findings.probes)
    lines = [
        f"{manifest.analysis} scan of {manifest.model} ({manifest.model_type}, {manifest.depth} layers)",
        f"run       {manifest.run_id}",
        f"probes    {probes}",
        f"ranked by {findings.metric.value} ({text.name}): mean change against the baseline, by sample",
        f"progress  {progress_text(findings)}",
        "",
    ]
    for notice in notices(findings):
        lines += textwrap.wrap(f"note: {notice}", _WIDTH)
    if findings.has_baseline and findings.baseline is not None:
        for view in findings.views:
            means = findings.baseline.results[view].means
            lines.append(
                f"baseline on {findings.view_name(view)}: log-odds {number(means['log_odds'])}, "
                f"accuracy {percent(means['correct'])}, expected value {number(means['expected_score'])}, "
                f"coverage {percent(means['coverage'])}"
            )
        lines.append("")
    best = findings.ranked()[:top_k]
    if best:
        lines += _table(best, findings)
        if best[0].results[None].effects[findings.metric].mean <= 0:
            lines.append("No configuration is better than the untouched model.")
        seen = chance(findings)
        noise = noise_text(seen)
        if noise is not None:
            lines += textwrap.wrap(noise, _WIDTH)
        lines += ["", *textwrap.wrap(chance_text(seen), _WIDTH)]
        confirmed = [textwrap.wrap(line, _WIDTH) for line in confirmation_lines(findings)]
        lines += ["", *itertools.chain.from_iterable(confirmed)] if confirmed else []
    for remark in remarks:
        lines += ["", *textwrap.wrap(remark, _WIDTH)]
    if failures:
        lines += ["", "failures:"]
        for group in failures:
            what = (
                f"{group.configurations} configurations, {group.samples} samples"
                if group.samples
                else (f"{group.configurations} attempts at a shard")
            )
            lines.append(f"  {group.outcome}: {group.message} ({what}; such as {group.example})")
    return "\n".join(lines).rstrip() + "\n"


def _table(best: list[Configuration], findings: Findings) -> list[str]:
    text = METRIC_TEXT[findings.metric]
    width = max(len("configuration"), *(len(c.label) for c in best))
    head = f"{'rank':>4}  {'configuration':<{width}}  {'layers':>6}  {'change':>8}"
    lines = [f"{head}  {'95 % interval':<20}  {'adj. p':>7}  {'q':>7}  accuracy"]
    for c in best:
        result = c.results[None]
        effect = result.effects[findings.metric]
        lines.append(
            f"{result.rank:>4}  {c.label:<{width}}  {c.n_layers_run:>6}  {text.change(effect.mean):>8}  "
            f"{text.interval(effect):<20}  {p_text(effect.p_adjusted):>7}  {p_text(effect.q):>7}  "
            f"{percent(result.means['correct'])}"
        )
    return [*lines, f"change in {text.unit}; adj. p and q are over all configurations that are measured"]


def _baseline(findings: Findings) -> dict[str, Any] | None:
    if findings.baseline is None or not findings.has_baseline:
        return None
    results = findings.baseline.results
    return {probe: {name: results[probe].means[name] for name in SCORES} for probe in findings.probes}


def _best(c: Configuration, findings: Findings) -> dict[str, Any]:
    result = c.results[None]
    effect = result.effects[findings.metric]
    return {
        "rank": result.rank,
        "path": str(c.path),
        "i": c.plain_block.i if c.plain_block else None,
        "j": c.plain_block.j if c.plain_block else None,
        "n_layers_run": c.n_layers_run,
        "effect": effect.mean,
        **_certainty(effect),
        "samples": effect.n,
        "log_odds": result.means["log_odds"],
        "accuracy": result.means["correct"],
        "expected_score": result.means["expected_score"],
    }


def _certainty(effect: Effect) -> dict[str, Any]:
    return {
        "effect_low": effect.low,
        "effect_high": effect.high,
        "no_interval": effect.no_interval,
        "p": effect.p,
        "p_adjusted": effect.p_adjusted,
        "q": effect.q,
    }


def _noise(findings: Findings, view: str | None) -> dict[str, Any] | None:
    noise = findings.noise.get(view)
    if noise is None:
        return None
    return {
        "configurations": noise.tried,
        "flips": noise.flips,
        "best_effect": noise.mean,
        "best_must_exceed": noise.high,
        "best_standard_errors": noise.standard_errors,
        "best_must_exceed_standard_errors": noise.standard_errors_high,
    }


def _confirmation(findings: Findings) -> dict[str, Any] | None:
    found = findings.confirmation
    if found is None:
        return None
    paths = {c.task_id: str(c.path) for c in findings.configurations}
    return {
        "share": found.share,
        "samples_chosen_by": dict(found.chosen_by),
        "samples_held_out": dict(found.held_out),
        "best": [_confirmed(one, findings.view_name(one.probe), paths[one.task_id]) for one in found.best],
    }


def _confirmed(one: Confirmed, view: str, path: str) -> dict[str, Any]:
    effect = one.confirmed
    return {
        "path": path,
        "view": view,
        "rank": one.rank,
        "effect_chosen": one.chosen.mean,
        "effect": effect.mean if effect else None,
        **(_certainty(effect) if effect else {}),
        "samples": effect.n if effect else 0,
        "shrinkage": one.shrinkage,
        "reason": one.reason,
    }


def _share(done: int, planned: int) -> str:
    return f"{100 * done / planned:.0f} %" if planned else "0 %"
