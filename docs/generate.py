"""Writes the reference pages from the code (see `PAGES`). `make docs` runs it; a test compares."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["COLUMNS"] = os.environ["TERMINAL_WIDTH"] = "100"
os.environ["NO_COLOR"] = "1"

from pydantic import BaseModel
from typer.testing import CliRunner

from neuroscan_farm.analyses import ANALYSES
from neuroscan_farm.cli.main import app
from neuroscan_farm.domain.requests import AnalysisRequest, EngineOptions
from neuroscan_farm.serve.answers import MEANING as MEANING_OF_ERRORS
from neuroscan_farm.serve.app import make_app
from neuroscan_farm.serve.config import ServeConfig
from neuroscan_farm.serve.numbers import SERVE_NUMBERS
from neuroscan_farm.settings import Settings
from neuroscan_farm.store.schema import CIRCUMSTANCES, MEASUREMENTS, PLAN
from workers.numbers import NUMBERS

HERE = Path(__file__).parent
GROUPS = {"probes": ("ls", "show", "validate", "audit"), "models": ("inspect",), "config": ("show",)}
MEANING = {
    "run_id": "the run",
    "task_id": "the configuration, made of its path and the probes' content",
    "shard_id": "the shard that the task was planned in",
    "planned_shard": "the shard of the first cut, which rows keep",
    "analysis": "the request's analysis",
    "path": "steps in the order of their visits: a layer's number; 10,000 more where only its attention runs, 20,000 more "
    "where only its mlp runs",
    "i": "first layer of the block; null where the path is no plain (i, j)",
    "j": "end of the block, exclusive; null likewise",
    "skipped": "layers that are never visited, whole or in part",
    "n_layers_run": "visits in the path",
    "probe": "the probe's name",
    "sample_id": "the sample",
    "outcome": "ok, non_finite, error or quarantined; every score is null unless it is ok",
    "detail": "why, where the outcome is not ok",
    "log_odds": "z of the right answer − logsumexp(z of the other answers), in nats",
    "log_p_correct": "log-probability of the right answer under the softmax restricted to the answers, in nats",
    "correct": "whether the right answer has the largest logit of the answers",
    "expected_score": "E = Σ v·p, the mean answer under the restricted softmax p",
    "uncertainty": "Σ (v−E)²·p, the variance of the answer (not a standard error)",
    "coverage": "probability mass of the answer tokens in the full vocabulary",
    "entropy": "of the full vocabulary's distribution, in nats",
    "top_token": "the full vocabulary's most probable token",
    "answer_probabilities": "p, in the order of the probe's choices",
    "seconds": "wall-clock time of the task's forward passes, shared equally by its rows",
    "attempt": "how many times the shard had been handed out",
    "worker": "who measured it",
    "device": "cpu, or the GPU's name",
    "backend": "what ran the model",
    "dtype": "of the weights and the arithmetic; scores are computed in float32",
    "residual_dtype": "of the residual stream between layers",
    "attention": "attention implementation of the model, such as sdpa or eager",
    "lane": "how layers were run: general (the model's own modules) or fused (operations of ours, proven equal)",
    "placement": "where the weights were: a device, the number of modules on each of several, or streamed",
    "engine_version": "of the executor",
    "scoring_version": "of the scores",
    "stage": "0 is planned at once, 1 from the rows of stage 0",
    "evaluations": "layer evaluations that are left after the baseline's boundary",
}
MEANING_IN_THE_PLAN = {"shard_id": "the shard that the task travels in, by the present cut"}


def cli_page() -> str:
    """Every command with its help, in the order of the help page."""
    runner = CliRunner()
    names = [command.name for command in app.registered_commands]
    commands = [[], *([name] for name in names if name)]
    commands += [[group, name] for group, members in GROUPS.items() for name in members]
    pages = ["# Commands\n\nWritten by `make docs` from the code."]
    for command in commands:
        result = runner.invoke(app, [*command, "--help"], prog_name="neuroscan-farm")
        title = " ".join(["neuroscan-farm", *command])
        pages.append(f"## {title}\n\n```text\n{result.stdout.strip()}\n```")
    return "\n\n".join(pages) + "\n"


def tables_page() -> str:
    """The tables on disk, the fields of a request, and the settings."""
    pages = ["# Tables, requests and settings\n\nWritten by `make docs` from the code."]
    for title, schema, meaning in (
        ("`parts/*.parquet`: measurements", MEASUREMENTS, MEANING),
        ("`plan.parquet`: tasks", PLAN, MEANING | MEANING_IN_THE_PLAN),
    ):
        rows = [f"| `{field.name}` | {field.type} | {meaning[field.name]} |" for field in schema]
        pages.append(f"## {title}\n\n| column | type | meaning |\n| --- | --- | --- |\n" + "\n".join(rows))
    circumstances = ", ".join(f"`{name}`" for name in CIRCUMSTANCES)
    pages.append(f"All columns but {circumstances} are the same in every attempt at a run.")
    pages.append("## A request\n\n" + _fields(AnalysisRequest))
    pages.append("### `engine`\n\n" + _fields(EngineOptions))
    for analysis in ANALYSES.values():
        pages.append(
            f"### `parameters` of {analysis.name}\n\n{analysis.summary}\n\n{_fields(analysis.parameters)}"
        )
    pages.append("## Settings (`NEUROSCAN_*`, or `settings:` in the user's file)\n\n" + _fields(Settings))
    return "\n\n".join(pages) + "\n"


def metrics_page() -> str:
    """The numbers that workers and coordinators show to Prometheus."""
    lines = ["| number | kind | labels | shown by | meaning |", "| --- | --- | --- | --- | --- |"]
    for number in NUMBERS:
        labels = ", ".join(f"`{label}`" for label in number.labels)
        shown_by = "workers" if number.shown_by == "worker" else "workers, coordinators"
        lines.append(f"| `{number.name}` | {number.kind} | {labels} | {shown_by} | {number.meaning} |")
    served = ["| number | labels | meaning |", "| --- | --- | --- |"]
    for one in SERVE_NUMBERS:
        served.append(f"| `{one.name}` | {', '.join(f'`{label}`' for label in one.labels)} | {one.meaning} |")
    text = "[How to get them](observe.md#numbers-for-prometheus). Besides, each process shows Prometheus' usual `process_*`."
    return (
        "\n\n".join(
            [
                "# Numbers for Prometheus\n\nWritten by `make docs` from the code.",
                text,
                "\n".join(lines),
                "## Of `neuroscan-farm serve`\n\nAt `/api/v1/metrics`; all are gauges.",
                "\n".join(served),
            ]
        )
        + "\n"
    )


def api_page() -> str:
    """Every address of the API, from the description that the server itself gives out."""
    schema = make_app(ServeConfig()).openapi()
    lines = ["| address | what it does | query | answers |", "| --- | --- | --- | --- |"]
    for path, methods in schema["paths"].items():
        for method, told in methods.items():
            asked = told.get("parameters", [])
            query = ", ".join(f"`{one['name']}`" for one in asked if one["in"] == "query")
            success = [
                f"{status} {' or '.join(sorted(answer.get('content', {})))}".strip()
                for status, answer in told["responses"].items()
                if status < "300"
            ]
            does = told["description"].split("\n")[0]
            lines.append(f"| `{method.upper()} {path}` | {does} | {query} | {'; '.join(success)} |")
    text = (
        "Written by `make docs` from the code. A running server gives out the whole description, with the fields of every "
        "answer, at `/api/v1/openapi.json`; [how to use it](api.md)."
    )
    errors = [
        "| status | meaning |",
        "| --- | --- |",
        *(f"| {code} | {said} |" for code, said in sorted(MEANING_OF_ERRORS.items())),
    ]
    return (
        "\n\n".join(["# Addresses of the API", text, "\n".join(lines), "## Errors", "\n".join(errors)]) + "\n"
    )


def _fields(model: type[BaseModel]) -> str:
    lines = ["| field | default | meaning |", "| --- | --- | --- |"]
    for name, field in model.model_fields.items():
        default = (
            "required" if field.is_required() else ("" if field.default_factory else f"`{field.default}`")
        )
        if isinstance(field.default, BaseModel):
            default = "see below"
        lines.append(f"| `{name}` | {default} | {field.description or ''} |")
    return "\n".join(lines)


PAGES = {
    "cli.md": cli_page,
    "tables.md": tables_page,
    "metrics.md": metrics_page,
    "api-reference.md": api_page,
}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
