"""Ranks: which configuration changed the metric most for the better. None without every sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.configurations import Configuration, ProbeResult


def without_rank(baseline: Configuration, *, probes: Sequence[str]) -> Configuration:
    """Say of the baseline why it has no rank."""
    why = "it is what the others are compared with" if baseline.is_begun else "not measured yet"
    views: Iterable[str | None] = (None, *probes)
    results = {view: replace(baseline.results[view], unranked=why) for view in views}
    return replace(baseline, results=results)


def with_ranks(
    configurations: Sequence[Configuration],
    *,
    baseline: Configuration | None,
    probes: Sequence[str],
    metric: Metric,
) -> tuple[Configuration, ...]:
    """Rank by the mean effect, on each probe and over the probes; ties are broken by the path."""
    results: list[dict[str | None, ProbeResult]] = [{} for _ in configurations]
    views: Iterable[str | None] = (None, *probes)
    for view in views:
        base = baseline.results[view] if baseline else None
        rankable = []
        for place, configuration in enumerate(configurations):
            result = configuration.results[view]
            why = _unmeasured(configuration, baseline, probes) if view is None else None
            why = why or _why_unranked(result, base, metric)
            results[place][view] = replace(result, unranked=why)
            if why is None:
                rankable.append((-result.effects[metric].mean, configuration.path.steps, place))
        for rank, (_, _, place) in enumerate(sorted(rankable), start=1):
            results[place][view] = replace(results[place][view], rank=rank)
    return tuple(replace(c, results=mine) for c, mine in zip(configurations, results, strict=True))


def _unmeasured(
    configuration: Configuration, baseline: Configuration | None, probes: Sequence[str]
) -> str | None:
    """Say which of several probes keeps a configuration from a mean over them all; one may have been added later."""
    for one, who in ((configuration, ""), (baseline, "the baseline is ")):
        waiting = [probe for probe in probes if one is not None and not one.results[probe].outcomes]
        if 0 < len(waiting) < len(probes):
            return f"{who}not measured on {', '.join(waiting)} yet"
    return None


def _why_unranked(result: ProbeResult, baseline: ProbeResult | None, metric: Metric) -> str | None:
    if not result.outcomes:
        return "not measured yet"
    if result.n_failed > (baseline.n_failed if baseline else 0) or not result.n_ok:
        return f"{result.n_failed} of {result.n_failed + result.n_ok} samples failed ({result.outcome_text})"
    if baseline is None or not baseline.outcomes:
        return "the baseline is not measured yet"
    if not baseline.n_ok:
        return f"the baseline failed ({baseline.outcome_text})"
    if metric not in result.effects:
        return f"no sample has {metric.value} here and in the baseline"
    return None
