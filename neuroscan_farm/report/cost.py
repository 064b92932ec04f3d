"""What a configuration costs beside what it brings, in words; and the front of both."""

from __future__ import annotations

import numpy as np

from neuroscan_farm.domain.costs import Cost
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import ABSENT
from neuroscan_farm.statistics.pareto import pareto_front


def priced(findings: Findings, *, probe: str | None) -> list[tuple[Configuration, float]]:
    """Return the ranked configurations with their effects on the ranking metric, best first."""
    return [(c, c.results[probe].effects[findings.metric].mean) for c in findings.ranked(probe)]


def cost_front(findings: Findings, *, probe: str | None) -> list[Configuration]:
    """Return the configurations that nothing beats in both effect and layer visits, the cheapest first.

    The untouched model takes part, with no effect and no cost: what costs more and is no better is not on the front.
    """
    found = priced(findings, probe=probe)
    added = [float(c.n_layers_run - findings.manifest.depth) for c, _ in found]
    values = np.array(
        [(0.0, 0.0), *((mean, -layers) for (_, mean), layers in zip(found, added, strict=True))]
    )
    on_front = pareto_front(values)[1:]
    chosen = [c for (c, _), front in zip(found, on_front.tolist(), strict=True) if front]
    return sorted(chosen, key=lambda c: (c.n_layers_run, c.path.steps))


def has_costs(findings: Findings) -> bool:
    """Whether configurations differ in cost, so that there is a trade to look at."""
    return len({c.n_layers_run for c in findings.configurations}) > 1


def cost_text(cost: Cost | None) -> str:
    """Write what a configuration costs in one line; what is not known is said."""
    if cost is None:
        return ABSENT
    layers = _layers(cost.added_layers)
    if cost.in_part:
        some = f"{cost.in_part} layer{'s' if cost.in_part > 1 else ''} in part"
        return f"{layers}, {some}; parameters, KV cache and time not known"
    parts = [layers]
    if cost.added_parameters is None:
        parts.append("parameters not known")
    else:
        parts.append(f"{_count(cost.added_parameters)} parameters")
    if cost.added_kv_bytes_per_token is None:
        parts.append("KV cache not known")
    else:
        parts.append(f"{cost.added_kv_bytes_per_token:+,d} bytes of KV cache a token")
    return f"{', '.join(parts)}, ×{cost.relative_latency:.2f} layer time"


def _layers(added: int) -> str:
    if not added:
        return "as many layers"
    return f"{added:+d} layer{'s' if abs(added) != 1 else ''}"


def _count(added: int) -> str:
    """A count with its sign, in the largest unit that leaves a digit before the point."""
    if abs(added) >= 1_000_000:
        return f"{added / 1e6:+,.1f} M"
    return f"{added / 1e3:+.1f} k" if abs(added) >= 1000 else f"{added:+d}" if added else "0 more"
