"""Figures as Plotly JSON: drawn by the report's own functions, once for each state of the rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from neuroscan_farm.serve.result_models import FigureHead, Figures
from neuroscan_farm.serve.results import Found
from neuroscan_farm.serve.security import Refused
from neuroscan_farm.serve.views import view_of

if TYPE_CHECKING:
    from neuroscan_farm.report.figure_style import Drawn


def figures_of(found: Found, *, probe: str | None) -> Figures:
    """Say which figures a view has.

    Raises:
        Refused: the run has no such view.
    """
    from neuroscan_farm.report.figure_style import FIGURE_CONFIG

    view = view_of(found.findings, probe)
    heads = [
        FigureHead(name=one.name, title=one.title, square=one.square, wide=one.wide, of_a_view=of_a_view)
        for drawn, of_a_view in ((_drawn(found, view), True), (_across(found), False))
        for one in drawn
    ]
    return Figures(figures=heads, config=FIGURE_CONFIG, stamp=found.stamp)


def figure_json(found: Found, name: str, *, probe: str | None, significant: bool) -> tuple[str, bytes]:
    """Return a figure's ETag and its JSON (`FigureData`).

    Raises:
        Refused: the run has no such view or figure.
    """
    view = view_of(found.findings, probe)

    def make() -> tuple[str, bytes]:
        from neuroscan_farm.report.figure_json import figure_data
        from neuroscan_farm.report.figure_style import FIGURE_CONFIG
        from neuroscan_farm.report.significant import faint_unless_significant

        here = [*_drawn(found, view), *_across(found)]
        drawn = next((one for one in here if one.name == name), None)
        if drawn is None:
            names = ", ".join(one.name for one in here) or "none yet"
            raise Refused(404, f"figure {name[:100]!r}: this view has none of this name; there are: {names}")
        content = figure_data(drawn)
        if significant:
            content = faint_unless_significant(content, found.findings, probe=view)
        data = content | {"stamp": found.stamp, "config": FIGURE_CONFIG}
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        tag = f'"{found.stamp}-{name}-{"" if view is None else view}-{found.findings.metric.value}-{int(significant)}"'
        return tag.encode("ascii", "xmlcharrefreplace").decode(), text.encode()

    return found.keep(("figure", name, view, significant), make)


def _drawn(found: Found, view: str | None) -> list[Drawn]:
    from neuroscan_farm.report.figures import figures

    return found.keep(("figures", view), lambda: figures(found.findings, probe=view, circuit=found.circuit))


def _across(found: Found) -> list[Drawn]:
    from neuroscan_farm.report.cross_probe import cross_probe
    from neuroscan_farm.report.figures import probe_figures
    from neuroscan_farm.report.multi_probe import multi_probe

    def make() -> list[Drawn]:
        findings = found.findings
        return probe_figures(findings, several=multi_probe(findings), cross=cross_probe(findings))

    return found.keep("across", make)
