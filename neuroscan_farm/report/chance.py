"""What chance alone would show among many configurations: the honest frame for a table of the best."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT, p_text
from neuroscan_farm.statistics.effects import Effect
from neuroscan_farm.statistics.interactions import Interaction
from neuroscan_farm.statistics.multiplicity import LEVEL, Noise


@dataclass(frozen=True, slots=True)
class Chance:
    """How many configurations stand out, how many would by chance, and how far up the best would be."""

    tried: int  # configurations with an interval
    gains: int  # of them, intervals wholly above zero
    expected_gains: float  # of as many configurations without any effect: 2.5 % of them
    better: int  # configurations with an adjusted p below 0.05 and an effect above zero
    worse: int  # and below zero
    discoveries: int  # configurations with a q below 0.05, better or worse
    noise: Noise | None  # what the best would show if none changed anything; None where nothing has a spread
    best: Effect | None  # of rank 1
    done: int  # tasks that are measured
    planned: int
    unit: str
    # the noise's mean, what the best must exceed to stand out, and the best effect, as people read them
    shown: tuple[str, str, str]


def chance(findings: Findings, *, probe: str | None = None) -> Chance:
    """Count on the ranking metric, on one probe or over the probes."""
    found = (c.results[probe].effects.get(findings.metric) for c in findings.configurations)
    effects = [effect for effect in found if effect is not None]
    lows = [effect.low for effect in effects if effect.low is not None]
    certain = [effect for effect in effects if stands_out(effect)]
    ranked = findings.ranked(probe)
    best = ranked[0].results[probe].effects[findings.metric] if ranked else None
    noise, text = findings.noise.get(probe), METRIC_TEXT[findings.metric]
    levels = (noise.mean, noise.high) if noise else (None, None)
    return Chance(
        tried=len(lows),
        gains=sum(low > 0 for low in lows),
        expected_gains=0.025 * len(lows),
        better=sum(effect.mean > 0 for effect in certain),
        worse=sum(effect.mean < 0 for effect in certain),
        discoveries=sum(effect.q is not None and effect.q < LEVEL for effect in effects),
        noise=noise,
        best=best,
        done=findings.n_measured,
        planned=findings.n_planned,
        unit=text.unit,
        shown=(text.change(levels[0]), text.change(levels[1]), text.change(best.mean if best else None)),
    )


def stands_out(found: Effect | Interaction | None) -> bool:
    """Whether an effect or an interaction is different from zero after all that was tried: adjusted p below 0.05."""
    return found is not None and found.p_adjusted is not None and found.p_adjusted < LEVEL


def noise_text(seen: Chance) -> str | None:
    """Say in one line what the best would show by chance, beside what it shows; None where that is unknown."""
    if seen.noise is None or seen.best is None:
        return None
    mean, high, best = seen.shown
    p = f" (adjusted p {p_text(seen.best.p_adjusted)})" if seen.best.p_adjusted is not None else ""
    if seen.noise.high is None:
        needed = "with so few samples nothing can stand out"
    else:
        needed = f"only above {high} it stands out (adjusted p below 0.05: as much, up or down, in one run of twenty)"
    if seen.noise.tried == 1:
        return f"expected under noise: no change on average; {needed}; measured: {best}{p}"
    return f"best expected under noise: {mean} {seen.unit} on average; {needed}; the best here: {best}{p}"


def chance_text(seen: Chance) -> str:
    """Say it in words."""
    if seen.noise is None or seen.best is None:
        return "Nothing can be said of chance yet: no configuration has two paired samples that differ."
    mean, high, best = seen.shown
    expected = f"{seen.expected_gains:.1f}" if seen.expected_gains < 10 else f"{seen.expected_gains:.0f}"
    adjusted = "" if seen.best.p_adjusted is None else f", adjusted p {p_text(seen.best.p_adjusted)}"
    if seen.noise.high is None:
        needed = "with so few samples, no change has an adjusted p below 0.05"
    else:
        needed = f"above {high} its adjusted p is below 0.05 (by chance, one run of twenty shows as much, up or down)"
    if seen.noise.tried == 1:
        said = [
            f"One configuration was tried. It shows {best} {seen.unit}{adjusted}; {needed}. Its 95 % interval needs no "
            "correction."
        ]
    else:
        said = [
            f"{seen.noise.tried} configurations were tried. If none of them changed anything, the best of so many would "
            f"still show about {mean} {seen.unit} ({seen.noise.standard_errors:.1f} standard errors); {needed}. The best "
            f"here shows {best}{adjusted}.",
            f"After correction for all that was tried, {_are(seen.better)} better than the untouched model and {seen.worse} "
            f"worse (adjusted p below 0.05); {seen.discoveries} {_stand(seen.discoveries)} out at a false discovery rate "
            "of 5 %.",
            f"The 95 % intervals are per configuration and not corrected for the number of configurations tried "
            f"({seen.tried}): about {expected} would lie above zero by chance, here {seen.gains} "
            f"{'does' if seen.gains == 1 else 'do'}.",
        ]
    if seen.done < seen.planned:
        said.append(
            f"All of this is over the {seen.done} of {seen.planned} tasks that are measured, and will change: p-values grow "
            "with what else is tried."
        )
    return " ".join(said)


def _are(count: int) -> str:
    return f"{count} {'is' if count == 1 else 'are'}"


def _stand(count: int) -> str:
    return "stands" if count == 1 else "stand"
