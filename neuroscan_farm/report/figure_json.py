"""A figure as data, in the one form that the report's page and the server's page draw."""

from __future__ import annotations

import json
from html import unescape
from typing import Any

from neuroscan_farm.report.figure_style import Drawn


def figure_data(drawn: Drawn) -> dict[str, Any]:
    """Return name, title, subtitle, shape, data and layout; the page writes title and subtitle itself."""
    content = json.loads(drawn.figure.to_json())
    title = content["layout"].pop("title")
    return {
        "name": drawn.name,
        "title": drawn.title,
        "subtitle": unescape(title["subtitle"]["text"]),
        "square": drawn.square,
        "wide": drawn.wide,
        **content,
    }
