"""Where a request's fields come from: flag > --set > NEUROSCAN_* > --config file > user file > default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroscan_farm.analyses import get_analysis, read_request
from neuroscan_farm.domain.requests import AnalysisRequest, EngineOptions
from neuroscan_farm.errors import RequestError
from neuroscan_farm.settings import user_configuration
from neuroscan_farm.yaml_text import NotYaml, read_yaml

_MOST_SHOWN = 200  # characters of what was given, in a message
_TOP = ("model", "revision", "probes", "metric", "confirm", "shard_size")


def request_from(
    flags: Mapping[str, Any],
    *,
    config: Path | None,
    sets: Sequence[str],
    environment: Mapping[str, str],
) -> AnalysisRequest:
    """Lay the sources of a request over each other and read the result.

    Args:
        flags: fields given as options; None is not given.
        config: a request's YAML file.
        sets: values of `--set`, each `a.b=c` with `c` in YAML.
        environment: variables such as NEUROSCAN_DTYPE.

    Raises:
        RequestError: a source cannot be read, or the request is wrong.
    """
    data: dict[str, Any] = dict(user_configuration().get("request") or {})
    where = "request"
    if config is not None:
        _lay(data, _read(config))
        where = str(config)
    analysis = flags.get("analysis")
    if analysis is not None and data.get("analysis", analysis) != analysis:
        raise RequestError(
            f"{where}: analysis is {data['analysis']}, but the command says {analysis}; leave one out"
        )
    if analysis is not None:
        data["analysis"] = analysis
    if "analysis" not in data:
        raise RequestError(f"{where}: no analysis; name one, such as `run duplication`, or give --config")
    fields = _places(str(data["analysis"]))
    for name, place in fields.items():
        variable = f"NEUROSCAN_{name.upper()}"
        if environment.get(variable):
            parsed = _yaml(environment[variable], where=variable)
            _set(data, place, parsed.split(",") if name == "probes" and isinstance(parsed, str) else parsed)
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals:
            raise RequestError(f"--set {_cut(text)}: write a.b=c, such as --set parameters.step=2")
        _set(data, path.split("."), _yaml(value, where=f"--set {text}"))
    for name, value in flags.items():
        if name != "analysis" and value is not None and value != []:
            # An option of another analysis is laid where that analysis would have it, and refused with its name.
            _set(data, fields.get(name, ("parameters", name)), value)
    return read_request(data, where=where)


def _yaml(text: str, *, where: str) -> object:
    try:
        return read_yaml(text)
    except NotYaml as error:
        raise RequestError(f"{_cut(where)}: {_cut(repr(text))} is no YAML value ({error})") from error


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def _places(analysis: str) -> dict[str, tuple[str, ...]]:
    places: dict[str, tuple[str, ...]] = {name: (name,) for name in _TOP}
    places |= {name: ("engine", name) for name in EngineOptions.model_fields}
    return places | {name: ("parameters", name) for name in get_analysis(analysis).parameters.model_fields}


def _read(path: Path) -> dict[str, Any]:
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except NotYaml as error:
        raise RequestError(f"{path}: not YAML{error.place} ({error})") from error
    except (OSError, ValueError) as error:  # a ValueError is text that is not UTF-8, or a name with a NUL
        raise RequestError(f"{path}: cannot be read ({error})") from error
    if not isinstance(data, dict):
        raise RequestError(f"{path}: a request is a mapping with analysis:, model: and probes:")
    return data


def _lay(under: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(under.get(key), dict):
            _lay(under[key], value)
        else:
            under[key] = value


def _set(data: dict[str, Any], place: Sequence[str], value: object) -> None:
    *parents, last = place
    for parent in parents:
        inner = data.get(parent)
        data[parent] = dict(inner) if isinstance(inner, Mapping) else {}
        data = data[parent]
    data[last] = value
