"""How a metric is written for people: its name, its unit, and the scale on which its changes are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.statistics.effects import Effect
from neuroscan_farm.statistics.interactions import Interaction

ABSENT = "–"


@dataclass(frozen=True, slots=True)
class MetricText:
    """The words and the scale of one metric."""

    name: str
    delta: str  # label of a change, without its unit
    unit: str  # of a change
    scale: float  # a change is shown multiplied by this
    decimals: int  # of a change, as shown

    @property
    def label(self) -> str:
        """The label of an axis or a colour bar."""
        return f"{self.delta} ({self.unit})"

    def change(self, value: float | None) -> str:
        """Write a change with its sign."""
        if value is None:
            return ABSENT
        shown = f"{value * self.scale:+.{self.decimals}f}"
        return shown if float(shown) else shown[1:]

    def interval(self, found: Effect | Interaction | None) -> str:
        """Write the 95 % interval of an effect or an interaction, as in `-0.01 to +0.25`."""
        if found is None or found.low is None or found.high is None:
            return ABSENT
        return f"{self.change(found.low)} to {self.change(found.high)}"


METRIC_TEXT: Mapping[Metric, MetricText] = {
    Metric.LOG_ODDS: MetricText(
        "log-odds of the right answer", "Δ log-odds of the right answer", "nats", 1.0, 3
    ),
    Metric.LOG_P_CORRECT: MetricText(
        "log-probability of the right answer", "Δ log-probability of the right answer", "nats", 1.0, 3
    ),
    Metric.CORRECT: MetricText("accuracy", "Δ accuracy", "percentage points", 100.0, 1),
    Metric.EXPECTED_SCORE: MetricText(
        "expected answer value", "Δ expected answer value", "units of the answer", 1.0, 3
    ),
}


def number(value: float | None, decimals: int = 3) -> str:
    """Write a mean; an absent one is a dash."""
    if value is None:
        return ABSENT
    shown = f"{value:.{decimals}f}"
    return shown if float(shown) else shown.removeprefix("-")


def p_text(value: float | None) -> str:
    """Write a p-value or a false discovery rate: two digits, and nothing below a thousandth; absent is a dash."""
    if value is None:
        return ABSENT
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def percent(value: float | None, decimals: int = 1) -> str:
    """Write a share of one as per cent; an absent one is a dash."""
    return ABSENT if value is None else f"{100 * value:.{decimals}f} %"
