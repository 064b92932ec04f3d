"""The report as one HTML page that needs nothing else: no network, no other file, no server.

What came from a model, a probe or a file name is escaped by the template or set as text by the script.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.chance import chance, chance_text, noise_text, stands_out
from neuroscan_farm.report.circuits import Circuit, circuit_of, circuit_text
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.confirmation_text import confirmation_lines
from neuroscan_farm.report.controls import controls_text
from neuroscan_farm.report.cost import cost_text, has_costs
from neuroscan_farm.report.cross_probe import CrossProbe, cross_probe, cross_text
from neuroscan_farm.report.failures import FailureGroup
from neuroscan_farm.report.figure_json import figure_data
from neuroscan_farm.report.figure_style import FIGURE_CONFIG, Drawn
from neuroscan_farm.report.figures import figures, probe_figures
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import ABSENT, METRIC_TEXT, number, p_text, percent
from neuroscan_farm.report.multi_probe import BALANCED_TEXT, MultiProbe, multi_probe
from neuroscan_farm.report.summary import notices, progress_text

_ROWS_AT_FIRST = 100
_PAIRS_SHOWN = 20
_FRONT_SHOWN = 20


def page_html(
    findings: Findings,
    *,
    failures: Sequence[FailureGroup],
    merges: Sequence[tuple[Configuration, str]],
    written: str,
    top_k: int = 10,
    circuit: Circuit | None = None,
) -> str:
    """Return the page.

    Args:
        findings: of the run.
        failures: what went wrong, in groups.
        merges: the best configurations that can be merged, best first, each with its mergekit file.
        written: when the report was made, for its header.
        top_k: how many of the best are listed and starred.
        circuit: the run's pairs on its metric; None to have them computed here where there are some.
    """
    environment = Environment(
        loader=PackageLoader("neuroscan_farm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = METRIC_TEXT[findings.metric]
    best = findings.ranked()[:top_k]
    circuit = circuit_of(findings) if circuit is None else circuit
    several, cross = multi_probe(findings), cross_probe(findings)
    seen = chance(findings)
    return environment.get_template("index.html.j2").render(
        findings=findings,
        manifest=findings.manifest,
        written=written,
        progress=progress_text(findings),
        share=findings.share,
        notices=notices(findings),
        text=text,
        views=[findings.view_name(view) for view in findings.views],
        baseline=baseline_rows(findings),
        best=[best_row(c, findings) for c in best],
        no_gain=bool(best) and best[0].results[None].effects[findings.metric].mean <= 0,
        merges=[(c.results[None].rank, c.label, content) for c, content in merges],
        noise=sentence(noise_text(seen)),
        blocks=any(c.block is not None for c in findings.configurations),
        chance=chance_text(seen),
        confirmation=confirmation_lines(findings),
        controls=controls_text(findings),
        costs=has_costs(findings),
        pairs=_pairs(findings, circuit),
        across=_across(findings, several, cross),
        failures=failures,
        data=_script_json(_page_data(findings, top_k, circuit=circuit, several=several, cross=cross)),
        plotly=Markup(get_plotlyjs()),
    )


def sentence(text: str | None) -> str | None:
    """A remark as a sentence."""
    return None if text is None else f"{text[:1].upper()}{text[1:]}."


def baseline_rows(findings: Findings) -> list[dict[str, str]]:
    """The untouched model's scores on each view, as people read them; none while it is not measured."""
    if findings.baseline is None or not findings.has_baseline:
        return []
    return [
        {
            "probe": findings.view_name(view),
            "log_odds": number(means["log_odds"]),
            "log_p_correct": number(means["log_p_correct"]),
            "accuracy": percent(means["correct"]),
            "expected_score": number(means["expected_score"]),
            "coverage": percent(means["coverage"]),
            "entropy": number(means["entropy"]),
            "samples": findings.baseline.results[view].outcome_text,
        }
        for view in findings.views
        for means in [findings.baseline.results[view].means]
    ]


def best_row(c: Configuration, findings: Findings) -> dict[str, Any]:
    """A configuration with a rank, as the table of the best shows it."""
    text, result = METRIC_TEXT[findings.metric], c.results[None]
    effect, accuracy = result.effects[findings.metric], result.effects.get(Metric.CORRECT)
    return {
        "rank": result.rank,
        "label": c.label,
        "path": str(c.path),
        "layers": c.n_layers_run,
        "change": text.change(effect.mean),
        "interval": text.interval(effect),
        "p_adjusted": p_text(effect.p_adjusted),
        "q": p_text(effect.q),
        "certain": effect.mean > 0 and stands_out(effect),
        "cost": cost_text(c.cost),
        "accuracy": percent(result.means["correct"]),
        "accuracy_change": METRIC_TEXT[Metric.CORRECT].change(accuracy.mean if accuracy else None),
        "samples": effect.n,
    }


def _pairs(findings: Findings, circuit: Circuit | None) -> dict[str, Any] | None:
    """The pairs in words, and the strongest of those that are decided, over the probes where there are several."""
    if circuit is None:
        return None
    view = findings.views[0]
    text, decided = METRIC_TEXT[circuit.metric], circuit.strongest(view)
    return {
        "text": circuit_text(circuit, findings, view=view),
        "unit": text.unit,
        "left_out": max(0, len(decided) - _PAIRS_SHOWN),
        "rows": [
            {
                "layers": f"{one.layer_a} and {one.layer_b}",
                "kind": one.kind,
                "interaction": text.change(one.mean),
                "interval": text.interval(one),
                "p_adjusted": p_text(one.p_adjusted),
                "q": p_text(one.q),
                "joint": text.change(one.joint_loss),
                "alone": f"{text.change(one.loss_a)} and {text.change(one.loss_b)}",
                "samples": one.n,
            }
            for one in decided[:_PAIRS_SHOWN]
        ],
    }


def _across(
    findings: Findings, several: MultiProbe | None, cross: CrossProbe | None
) -> dict[str, Any] | None:
    """What the section on several probes says and lists; None for a run of one probe."""
    if several is None:
        return None
    text = METRIC_TEXT[findings.metric]
    best = []
    for probe, c in several.best.items():
        effect = c.results[probe].effects[findings.metric]
        elsewhere = [
            f"{other} {text.change(found.mean)}"
            for other in several.probes
            if other != probe and (found := c.results[other].effects.get(findings.metric)) is not None
        ]
        best.append(
            {
                "probe": probe,
                "label": c.label,
                "change": text.change(effect.mean),
                "interval": text.interval(effect),
                "p_adjusted": p_text(effect.p_adjusted),
                "elsewhere": ", ".join(elsewhere) or ABSENT,
            }
        )
    front = [
        {
            "label": standing.configuration.label,
            "balanced": f"{standing.balanced:+.2f}",
            "effects": [text.change(effect) for effect in standing.effects],
            "cost": cost_text(standing.configuration.cost),
        }
        for standing in several.front[:_FRONT_SHOWN]
    ]
    return {
        "best": best,
        "front": front,
        "on_front": len(several.front),
        "compared": len(several.standings),
        "balanced": BALANCED_TEXT,
        "layers": cross_text(cross, findings) if cross is not None else None,
    }


def _page_data(
    findings: Findings,
    top_k: int,
    *,
    circuit: Circuit | None,
    several: MultiProbe | None,
    cross: CrossProbe | None,
) -> dict[str, Any]:
    """What the page's script draws: figures and the full table, by view; long equal lists are there once."""
    pool: list[str] = []
    views = []
    for view in findings.views:
        drawn = figures(findings, probe=view, top_k=top_k, circuit=circuit)
        views.append(
            {
                "figures": [_figure_data(one, pool) for one in drawn],
                "rows": [_row(c, view, findings) for c in findings.configurations],
            }
        )
    across = probe_figures(findings, several=several, cross=cross)
    text = METRIC_TEXT[findings.metric]
    return {
        "config": FIGURE_CONFIG,
        "views": views,
        "across": [_figure_data(one, pool) for one in across],
        "pool": [json.loads(item) for item in pool],
        "configurations": [[c.label, str(c.path), c.n_layers_run] for c in findings.configurations],
        "decimals": text.decimals,
        "rows_at_first": _ROWS_AT_FIRST,
    }


def _figure_data(drawn: Drawn, pool: list[str]) -> dict[str, Any]:
    content = figure_data(drawn)
    for trace in content["data"]:
        if "customdata" in trace:
            trace["customdata"] = _pooled(pool, json.dumps(trace["customdata"], ensure_ascii=False))
    return content


def _pooled(pool: list[str], item: str) -> int:
    if item not in pool:
        pool.append(item)
    return pool.index(item)


def _row(c: Configuration, view: str | None, findings: Findings) -> list[Any]:
    """One configuration on one view: rank, change, low, high, p, q, Δ accuracy, means, samples, remark."""
    text, result = METRIC_TEXT[findings.metric], c.results[view]
    effect, accuracy = result.effects.get(findings.metric), result.effects.get(Metric.CORRECT)
    changes = [effect.mean, effect.low, effect.high] if effect else [None, None, None]
    means = [result.means[name] for name in ("log_odds", "correct", "expected_score", "coverage", "entropy")]
    numbers = [
        *(None if value is None else value * text.scale for value in changes),
        effect.p_adjusted if effect else None,
        effect.q if effect else None,
        100 * accuracy.mean if accuracy else None,
        means[0],
        None if means[1] is None else 100 * means[1],
        means[2],
        None if means[3] is None else 100 * means[3],
        means[4],
    ]
    shown = [None if value is None else round(value, 6) for value in numbers]
    return [result.rank, *shown, result.n_ok, result.unranked or ""]


def _script_json(data: object) -> Markup:
    """`data` as JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # no "<" is left in it
