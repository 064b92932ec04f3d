"""What appears when the pointer rests on a configuration: all that is known of it, in every figure.

A figure carries one row of ready texts per configuration (Plotly's `customdata`) and one template. Two
figures of the same configurations have equal rows, so a page needs them once.
"""

from __future__ import annotations

from html import escape

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.configurations import Configuration, ProbeResult
from neuroscan_farm.report.metric_text import ABSENT, METRIC_TEXT, number, p_text, percent

_LINES = (
    "<b>%{{customdata[0]}}</b>  %{{customdata[1]}}",
    "path %{{customdata[2]}}",
    "%{{customdata[3]}}",
    "{delta} %{{customdata[4]}} {unit}",
    "%{{customdata[13]}}",
    "Δ accuracy %{{customdata[5]}} percentage points",
    "log-odds %{{customdata[6]}} · log-probability %{{customdata[7]}}",
    "accuracy %{{customdata[8]}} · expected value %{{customdata[9]}}",
    "coverage %{{customdata[10]}} · entropy %{{customdata[11]}} nats",
    "samples: %{{customdata[12]}}",
)
_ACCURACY_LINE = 5
_LONGEST_PATH = 60


def hover_template(metric: Metric) -> str:
    """Return the template of figures ranked by `metric`, whichever change they show."""
    lines = [line for k, line in enumerate(_LINES) if metric is not Metric.CORRECT or k != _ACCURACY_LINE]
    text = METRIC_TEXT[metric]
    return "<br>".join(lines).format(delta=text.delta, unit=text.unit) + "<extra></extra>"


def hover_row(configuration: Configuration, *, probe: str | None, metric: Metric) -> list[str]:
    """Return the texts that `hover_template` puts in place; Plotly's own markup in them is escaped."""
    result = configuration.results[probe]
    steps = configuration.n_layers_run
    layers = f"{steps} layer{'s' if steps != 1 else ''} run"
    if configuration.block is not None:
        length = configuration.block.j - configuration.block.i
        layers += f", block of {length}"
    row = [
        configuration.label if configuration.block or configuration.without else "explicit order",
        f"rank {result.rank}" if result.rank is not None else f"no rank: {result.unranked}",
        _shortened(str(configuration.path)),
        layers,
        _change(result, metric),
        _change(result, Metric.CORRECT),
        number(result.means["log_odds"]),
        number(result.means["log_p_correct"]),
        percent(result.means["correct"]),
        number(result.means["expected_score"]),
        percent(result.means["coverage"]),
        number(result.means["entropy"]),
        result.outcome_text,
        _certainty(result, metric),
    ]
    return [escape(text, quote=False) for text in row]


def absence_text(configuration: Configuration, *, probe: str | None) -> str:
    """Return the hover text of a configuration that has no change to show, with the reason."""
    result = configuration.results[probe]
    reason = result.unranked or "no change against the baseline"
    lines = [f"<b>{escape(configuration.label)}</b>", escape(reason, quote=False)]
    if result.detail:
        lines.append(escape(_shortened(result.detail, 120), quote=False))
    if result.n_ok:
        lines.append(
            f"log-odds {number(result.means['log_odds'])} · accuracy {percent(result.means['correct'])}"
        )
    return "<br>".join(lines)


def _change(result: ProbeResult, metric: Metric) -> str:
    text = METRIC_TEXT[metric]
    effect = result.effects.get(metric)
    if effect is None:
        return ABSENT
    return f"{text.change(effect.mean)} (95 %: {text.interval(effect)}; n = {effect.n})"


def _certainty(result: ProbeResult, metric: Metric) -> str:
    """Why there is no interval, or how sure the effect is after all that was tried."""
    effect = result.effects.get(metric)
    if effect is None:
        return f"adjusted p {ABSENT}"
    reason = f"no interval: {effect.no_interval}" if effect.no_interval else ""
    if effect.p_adjusted is None:
        return reason
    sure = f"adjusted p {p_text(effect.p_adjusted)} · q {p_text(effect.q)} · alone p {p_text(effect.p)}"
    return f"{sure} · {reason}" if reason else sure


def _shortened(text: str, longest: int = _LONGEST_PATH) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
