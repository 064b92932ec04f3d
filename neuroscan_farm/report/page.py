"""The report as one HTML page that needs nothing else: no network, no other file, no server.

What came from a model, a probe or a file name is escaped by the template or set as text by the script.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import unescape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.chance import chance, chance_text
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.failures import FailureGroup
from neuroscan_farm.report.figure_style import FIGURE_CONFIG
from neuroscan_farm.report.figures import figures
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT, number, percent
from neuroscan_farm.report.summary import notices, progress_text

_ROWS_AT_FIRST = 100


def page_html(
    findings: Findings,
    *,
    failures: Sequence[FailureGroup],
    merges: Sequence[str],
    written: str,
    top_k: int = 10,
) -> str:
    """Return the page.

    Args:
        findings: of the run.
        failures: what went wrong, in groups.
        merges: the mergekit files of the best configurations, best first.
        written: when the report was made, for its header.
        top_k: how many of the best are listed and starred.
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
    return environment.get_template("index.html.j2").render(
        findings=findings,
        manifest=findings.manifest,
        written=written,
        progress=progress_text(findings),
        share=findings.n_measured / findings.n_planned if findings.n_planned else 0.0,
        notices=notices(findings),
        text=text,
        views=[findings.view_name(view) for view in findings.views],
        baseline=_baseline_rows(findings),
        best=[_best_row(c, findings) for c in best],
        no_gain=bool(best) and best[0].results[None].effects[findings.metric].mean <= 0,
        merges=merges,
        chance=chance_text(chance(findings)),
        failures=failures,
        data=_script_json(_page_data(findings, top_k)),
        plotly=Markup(get_plotlyjs()),
    )


def _baseline_rows(findings: Findings) -> list[dict[str, str]]:
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


def _best_row(c: Configuration, findings: Findings) -> dict[str, Any]:
    text, result = METRIC_TEXT[findings.metric], c.results[None]
    effect, accuracy = result.effects[findings.metric], result.effects.get(Metric.CORRECT)
    return {
        "rank": result.rank,
        "label": c.label,
        "path": str(c.path),
        "layers": c.n_layers_run,
        "change": text.change(effect.mean),
        "interval": text.interval(effect),
        "certain": effect.low is not None and effect.low > 0,
        "accuracy": percent(result.means["correct"]),
        "accuracy_change": METRIC_TEXT[Metric.CORRECT].change(accuracy.mean if accuracy else None),
        "samples": effect.n,
    }


def _page_data(findings: Findings, top_k: int) -> dict[str, Any]:
    """What the page's script draws: figures and the full table, by view; long equal lists are there once."""
    pool: list[str] = []
    views = []
    for view in findings.views:
        drawn = []
        for name, shown, figure in figures(findings, probe=view, top_k=top_k):
            content = json.loads(figure.to_json())
            for trace in content["data"]:
                if "customdata" in trace:
                    trace["customdata"] = _pooled(pool, json.dumps(trace["customdata"], ensure_ascii=False))
            title = content["layout"].pop("title")
            titles = {
                "title": f"{METRIC_TEXT[shown].delta} against the baseline",
                "subtitle": unescape(title["subtitle"]["text"]),
            }
            drawn.append({"name": name, **titles, **content})
        views.append({"figures": drawn, "rows": [_row(c, view, findings) for c in findings.configurations]})
    text = METRIC_TEXT[findings.metric]
    return {
        "config": FIGURE_CONFIG,
        "pool": [json.loads(item) for item in pool],
        "views": views,
        "configurations": [[c.label, str(c.path), c.n_layers_run] for c in findings.configurations],
        "decimals": text.decimals,
        "rows_at_first": _ROWS_AT_FIRST,
    }


def _pooled(pool: list[str], item: str) -> int:
    if item not in pool:
        pool.append(item)
    return pool.index(item)


def _row(c: Configuration, view: str | None, findings: Findings) -> list[Any]:
    """One configuration on one view: rank, change, low, high, Δ accuracy, means, samples, remark."""
    text, result = METRIC_TEXT[findings.metric], c.results[view]
    effect, accuracy = result.effects.get(findings.metric), result.effects.get(Metric.CORRECT)
    changes = [effect.mean, effect.low, effect.high] if effect else [None, None, None]
    means = [result.means[name] for name in ("log_odds", "correct", "expected_score", "coverage", "entropy")]
    numbers = [
        *(None if value is None else value * text.scale for value in changes),
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
