"""The description of the API is complete, and true of what the API does with right and wrong requests alike."""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.report.conftest import build_run
from tests.serve.api import Api

# A request may be right by its form and wrong by what the run has: no such probe, no such rank. And a broker that is
# away is the server's answer 503, which is no fault of its own.
_LEFT_OUT = ["positive_data_acceptance", "not_a_server_error"]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Api:
    folder = tmp_path_factory.mktemp("described")
    for name, options in (
        ("one", {}),
        ("two", {"probes": ("math", "eq")}),
        ("cut", {"analysis": "ablation"}),
    ):
        build_run(folder / "runs" / name, depth=5, **options)
    return Api(folder / "runs", names=("testserver",))  # as schemathesis calls it


@pytest.fixture(scope="module")
def described(api: Api) -> Any:
    async def standing_still(scope: Any, receive: Any, send: Any) -> None:
        """The application, whose queue and farm are never started, however often it is entered."""
        if scope["type"] == "http":
            await api.app(scope, receive, send)
            return
        for _ in range(2):
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})

    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", standing_still)


def test_every_address_documents_its_answers_and_errors(api: Api) -> None:
    schema = api.get("/openapi.json")
    assert schema["paths"]
    for path, methods in schema["paths"].items():
        assert path.startswith("/api/v1/")
        for method, told in methods.items():
            where = f"{method} {path}"
            assert told["summary"], where
            assert told["description"], where
            responses = told["responses"]
            assert {"401", "403", "421", "500"} <= set(responses), where
            if "{run_id}" in path:
                assert {"404"} <= set(responses), where
            if "requestBody" in told:
                assert {"400", "413", "415", "422"} <= set(responses), where
            for status, answer in responses.items():
                content = answer.get("content", {})
                assert content, f"{where} {status}"
                for kind, form in content.items():
                    assert form.get("schema"), f"{where} {status} {kind}"
                if status >= "400":
                    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}
    for name, model in schema["components"]["schemas"].items():
        if model.get("type") == "object":
            assert model.get("additionalProperties") is False, name
            assert model.get("description"), name


@pytest.mark.parametrize("mode", GenerationMode)
def test_what_is_described_is_what_is_answered(described: Any, mode: GenerationMode) -> None:
    """Ask every address what its description allows, and what it does not."""
    load_all_checks()
    left_out = CHECKS.get_by_names(_LEFT_OUT)
    asked = set()
    for found in described.get_all_operations():
        operation = found.ok()
        if operation.path.endswith("/events"):
            continue  # their answers have no end
        asked.add(operation.label)

        @hypothesis.settings(
            max_examples=8,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def try_it(case: Any) -> None:
            _in_a_run_that_is_there(case)
            response = case.call()
            assert response.status_code not in {500, 501, 502}
            case.validate_response(response, excluded_checks=left_out)

        with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # nothing about it can be wrong
            try_it()
    assert "POST /api/v1/runs" in asked
    assert len(asked) > 20


def _in_a_run_that_is_there(case: Any) -> None:
    """Of two cases one is asked of a run that there is, or all but a few would be told that there is none."""
    if case.path_parameters and len(str(case.path_parameters.get("run_id", ""))) % 2:
        case.path_parameters["run_id"] = "two"
