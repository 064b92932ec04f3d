"""The fields of the submit form, made from the very models that check a request: none can be forgotten or misnamed."""

from __future__ import annotations

import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from neuroscan_farm.analyses import ANALYSES
from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.domain.requests import AnalysisRequest, EngineOptions
from neuroscan_farm.errors import RequestError
from neuroscan_farm.probes.catalogue import CatalogueEntry, catalogue

# Nobody may have a server run a model folder's own code, whoever asks.
_NOT_OFFERED = {"trust_remote_code", "backend"}


@dataclass(frozen=True, slots=True)
class FormField:
    """One field as a form shows it."""

    name: str  # where it stands in the request: `parameters.min_block`
    label: str
    description: str
    kind: Literal["integer", "number", "text", "switch", "choice", "choices", "lines"]
    default: str  # as text; "" where leaving it empty is the default
    choices: tuple[str, ...] = ()  # of `choice` and `choices`
    chosen: tuple[str, ...] = ()  # of `choices`, those that are the default
    least: str = ""  # of numbers


@dataclass(frozen=True, slots=True)
class AnalysisForm:
    """An analysis with its parameters."""

    name: str
    summary: str
    fields: tuple[FormField, ...]


@dataclass(frozen=True, slots=True)
class CommonFields:
    """What every request has beside its analysis."""

    metrics: tuple[str, ...]
    probes: tuple[CatalogueEntry, ...]
    engine: tuple[FormField, ...]
    more: tuple[FormField, ...]


@cache
def analysis_forms() -> tuple[AnalysisForm, ...]:
    """Return a form for each analysis."""
    return tuple(
        AnalysisForm(name, analysis.summary, tuple(_fields(analysis.parameters, "parameters.")))
        for name, analysis in ANALYSES.items()
    )


@cache
def common_fields() -> CommonFields:
    """Return the fields that all requests have."""
    request = AnalysisRequest.model_fields
    return CommonFields(
        metrics=tuple(metric.value for metric in Metric),
        probes=catalogue(),
        engine=tuple(_fields(EngineOptions, "engine.")),
        more=tuple(_field(name, name, request[name]) for name in ("revision", "confirm", "shard_size")),
    )


def _fields(model: type[BaseModel], prefix: str) -> Iterable[FormField]:
    for name, info in model.model_fields.items():
        if name not in _NOT_OFFERED:
            yield _field(prefix + name, name, info)


def _field(name: str, own: str, info: FieldInfo) -> FormField:
    kind, choices = _kind(info.annotation, name)
    default = info.get_default(call_default_factory=True)
    several: Sequence[Any] = default if isinstance(default, tuple) else ()
    return FormField(
        name,
        own.replace("_", " "),
        info.description or "",
        kind,
        "" if default is None or isinstance(default, tuple | bool) else str(default),
        choices,
        tuple(map(str, several)),
        next((str(least) for rule in info.metadata if (least := getattr(rule, "ge", None)) is not None), ""),
    )


def _kind(annotation: Any, name: str) -> tuple[Any, tuple[str, ...]]:
    """How a field of this type is asked for, and what it may be.

    Raises:
        RequestError: a field of a new type has no place in the form yet.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0], name)
    if origin in (Union, types.UnionType):  # ... | None: an empty field is None
        return _kind(next(one for one in get_args(annotation) if one is not type(None)), name)
    if origin is Literal:
        return "choice", tuple(map(str, get_args(annotation)))
    if origin is tuple:
        inner, choices = _kind(get_args(annotation)[0], name)
        return ("choices", choices) if inner == "choice" else ("lines", ())
    plain = {bool: "switch", int: "integer", float: "number", str: "text"}.get(annotation)
    if plain is None:
        raise RequestError(f"{name}: the form cannot ask for {annotation!r}; teach serve/submit_form.py to")
    return plain, ()
