"""One file per analysis. `read_request` is the door through which every request comes, from YAML or options."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from neuroscan_farm.analyses.ablation import Ablation
from neuroscan_farm.analyses.base import Analysis
from neuroscan_farm.analyses.circuits import Circuits
from neuroscan_farm.analyses.duplication import Duplication
from neuroscan_farm.domain.requests import AnalysisRequest, EngineOptions
from neuroscan_farm.errors import RequestError

_ALL: tuple[Analysis, ...] = (Duplication(), Ablation(), Circuits())
ANALYSES: Mapping[str, Analysis] = {analysis.name: analysis for analysis in _ALL}

_MOST_SHOWN = 300  # characters of what was given, and of what is wrong with it, in a message


def get_analysis(name: str) -> Analysis:
    """Return the analysis called `name`.

    Raises:
        RequestError: there is none; the message names those there are.
    """
    if name not in ANALYSES:
        nearest = difflib.get_close_matches(name, ANALYSES, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise RequestError(
            f"analysis {_cut(repr(name))} is not known; there are: {', '.join(ANALYSES)}{hint}"
        )
    return ANALYSES[name]


def read_request(data: object, *, where: str) -> AnalysisRequest:
    """Validate `data` as a request; every problem is listed at once.

    Args:
        data: the request as nested mappings, as YAML gives it; anything else is refused.
        where: what to call the source in an error, such as a file name.

    Raises:
        RequestError: a field is missing, unknown or out of range.
    """
    if not isinstance(data, Mapping):
        raise RequestError(f"{where}: a request is a mapping with analysis:, model: and probes:")
    data = dict(data)
    if "analysis" not in data:
        raise RequestError(f"{where}: analysis is missing; there are: {', '.join(ANALYSES)}")
    analysis = get_analysis(str(data["analysis"]))
    problems: list[str] = []
    parameters: Any = data.get("parameters") or {}
    try:
        data["parameters"] = analysis.parameters.model_validate(parameters)
    except ValidationError as error:
        problems += _explain(error, {("parameters",): analysis.parameters}, prefix=("parameters",))
        data["parameters"] = analysis.parameters()
    try:
        request = AnalysisRequest.model_validate(data)
    except ValidationError as error:
        problems += _explain(error, {(): AnalysisRequest, ("engine",): EngineOptions})
    if problems:
        raise RequestError("\n".join(f"{where}: {problem}" for problem in problems))
    return request


def _explain(
    error: ValidationError, models: Mapping[tuple[str, ...], type[BaseModel]], prefix: tuple[str, ...] = ()
) -> list[str]:
    lines = []
    for problem in error.errors():
        location = prefix + tuple(str(part) for part in problem["loc"])
        name = ".".join(location)
        if problem["type"] == "extra_forbidden":
            accepted = models.get(location[:-1])
            fields = list(accepted.model_fields) if accepted else []
            nearest = difflib.get_close_matches(location[-1], fields, n=1)
            mend = f"did you mean {nearest[0]}?" if nearest else f"accepted are: {', '.join(fields)}"
            lines.append(f"{_cut(name)} is not known; {mend}")
        elif problem["type"] == "missing":
            lines.append(f"{name} is missing")
        else:
            said = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{name} is {_cut(repr(problem['input']))}: {_cut(said)}")
    return lines


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."
