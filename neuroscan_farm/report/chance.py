"""What chance alone would show among many configurations: the honest frame for a table of the best."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import ndtri

from neuroscan_farm.report.findings import Findings


@dataclass(frozen=True, slots=True)
class Chance:
    """Intervals above zero, seen and expected where no configuration changed anything."""

    tried: int  # configurations with an interval
    gains: int  # of them, intervals wholly above zero
    expected_gains: float  # of as many configurations without any effect: 2.5 % of them
    best_of_null_sd: (
        float  # how many standard errors the best of as many null configurations lies up, on average
    )


def chance(findings: Findings, *, probe: str | None = None) -> Chance:
    """Count the gains on the ranking metric.

    The expected largest of n standard normals is Blom's (1958) approximation, Φ⁻¹((n - 0.375) / (n + 0.25)).
    It takes the configurations as independent; neighbouring blocks are not, so it is an upper bound.
    """
    effects = [c.results[probe].effects.get(findings.metric) for c in findings.configurations]
    lows = [effect.low for effect in effects if effect is not None and effect.low is not None]
    n = len(lows)
    best = float(ndtri((n - 0.375) / (n + 0.25))) if n else 0.0
    return Chance(n, sum(low > 0 for low in lows), 0.025 * n, best)


def chance_text(seen: Chance) -> str:
    """Say it in words."""
    if seen.tried == 0:
        return "No configuration has an interval yet."
    expected = f"{seen.expected_gains:.1f}" if seen.expected_gains < 10 else f"{seen.expected_gains:.0f}"
    best = max(0.0, seen.best_of_null_sd)
    return (
        "The 95 % intervals are per configuration and not corrected for the number of configurations tried "
        f"({seen.tried}). If no configuration changed anything, about {expected} intervals would lie above "
        f"zero by chance, and the best of {seen.tried} would still appear about {best:.1f} standard errors "
        f"up; here {seen.gains} lie above zero. Neighbouring blocks share most of their layers, so they rise "
        "and fall together. Measure the best again on other samples before you rely on them."
    )
