"""The submit form is made of the models that check a request: it asks for all of their fields, in ways that they take."""

from __future__ import annotations

import pytest

from neuroscan_farm.analyses import ANALYSES, read_request
from neuroscan_farm.domain.requests import AnalysisRequest, EngineOptions
from neuroscan_farm.errors import RequestError
from neuroscan_farm.probes.catalogue import builtin_names
from neuroscan_farm.serve.submit_form import FormField, _kind, analysis_forms, common_fields


def test_every_parameter_of_every_analysis_has_a_field() -> None:
    forms = {form.name: [field.name for field in form.fields] for form in analysis_forms()}
    assert forms == {
        name: [f"parameters.{field}" for field in analysis.parameters.model_fields]
        for name, analysis in ANALYSES.items()
    }


def test_every_field_of_a_request_is_asked_for_but_what_no_client_may_set() -> None:
    common = common_fields()
    asked = {field.name for field in (*common.engine, *common.more)}
    engine = {f"engine.{name}" for name in EngineOptions.model_fields}
    assert engine - asked == {"engine.trust_remote_code", "engine.backend"}
    assert {name for name in asked if "." not in name} | {"analysis", "model", "probes", "metric"} == (
        AnalysisRequest.model_fields.keys() - {"parameters", "engine"}
    )
    assert [probe.name for probe in common.probes] == list(builtin_names())


@pytest.mark.parametrize("form", analysis_forms(), ids=lambda form: form.name)
def test_the_defaults_that_a_form_shows_are_the_defaults(form: object) -> None:
    def shown(field: FormField) -> object:
        if field.kind == "choices":
            return list(field.chosen)
        if field.kind in ("lines", "switch") or not field.default:
            return None
        return {"integer": int, "number": float}.get(field.kind, str)(field.default)

    name, fields = form.name, form.fields  # type: ignore[attr-defined]
    plain = {"analysis": name, "model": "demo", "probes": ["math"]}
    said = {field.name.partition(".")[2]: shown(field) for field in fields}
    said = {key: value for key, value in said.items() if value is not None}
    assert read_request({**plain, "parameters": said}, where="form") == read_request(plain, where="form")


def test_a_field_of_a_type_that_nobody_thought_of_is_not_left_out_in_silence() -> None:
    with pytest.raises(RequestError, match="cannot ask for"):
        _kind(dict, "parameters.new")
