"""Requests that come over the network: what they may name, and how one becomes a run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from neuroscan_farm import demo
from neuroscan_farm.analyses import ANALYSES, read_request
from neuroscan_farm.coordinator.prepare import make_plan, prepare
from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.domain.requests import AnalysisRequest, EngineOptions
from neuroscan_farm.errors import ProbeError
from neuroscan_farm.planning.model_source import DEMO
from neuroscan_farm.probes.catalogue import builtin_names, catalogue
from neuroscan_farm.probes.loader import FILE_SUFFIXES, parse_probe
from neuroscan_farm.serve.config import ServeConfig, is_below
from neuroscan_farm.serve.models import (
    AnalysisChoice,
    Executor,
    ModelChoice,
    Options,
    ProbeChoice,
    Submission,
    Submitted,
)
from neuroscan_farm.serve.runs import LiveRun
from neuroscan_farm.serve.state import Server
from neuroscan_farm.serve.submission_errors import WHERE, refused_field
from neuroscan_farm.store.places import inside

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_PROBE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MOST_LISTED = 200


def submit(
    submission: Submission, server: Server, *, executor: Literal["auto", "farm", "local"]
) -> Submitted:
    """Make a run of a request and have it carried out; the same request again finds the run that is there.

    Raises:
        Refused: the request names what this server does not give out.
        RequestError, ProbeError, ModelError: see `make_plan`.
        BrokerError: the farm was asked for, and its broker is out of reach.
        StorageError: the disk or the store refused.
    """
    data = submission.model_dump(mode="json", exclude_none=True)
    inline = _inline_probes(data["probes"])
    data["probes"] = [_probe_named(probe, server.config) for probe in data["probes"]]
    data["model"] = _allowed_model(submission.model, server.config)
    request = read_request(data, where=WHERE)
    if request.engine.trust_remote_code:
        raise refused_field(
            "engine.trust_remote_code",
            "is true: code of a model is not run for clients of the API; leave it out",
        )
    with server.submitting:  # one at a time: a plan may take much memory, and two equal ones are one run
        plan = make_plan(request, inline=inline)
        root = inside(server.config.runs_dir, plan.run_id)
        if inline:  # the run holds the probe; its request names that file, so that it can be submitted again
            kept = tuple(
                inside(root, "probes") + f"/{name}.json" if name in inline else name
                for name in request.probes
            )
            plan = replace(plan, request=request.model_copy(update={"probes": kept}))
        known = server.runs.by_run_id(plan.run_id)
        if known is not None:
            known.directory.check_versions()
            return _submitted(server, known, created=False)
        farm = executor == "farm" or (executor == "auto" and server.farm.look().reachable)
        if farm:
            server.farm.broker().ping()  # before anything is written
            server.farm.confine(root)
        directory = prepare(plan, root, executor="celery" if farm else "local")
        run = server.runs.find(plan.run_id)
        if farm:
            server.farm.hand_over(directory)
        else:
            server.local.enqueue(run)
        server.runs.changed()
    return _submitted(server, run, created=True)


def options(server: Server) -> Options:
    """Say what may be submitted here, for forms and for people."""
    config, farm = server.config, server.farm.seen
    return Options(
        analyses=[
            AnalysisChoice(
                name=analysis.name,
                summary=analysis.summary,
                parameters=analysis.parameters.model_json_schema(),
            )
            for analysis in ANALYSES.values()
        ],
        models=_models(config),
        hub_models=list(config.hub_models),
        probes=[
            *(
                ProbeChoice(name=entry.name, samples=entry.n_samples, description=entry.first_line)
                for entry in catalogue()
            ),
            *_probe_files(config),
        ],
        metrics=[metric.value for metric in Metric],
        engine=EngineOptions.model_json_schema(),
        executor=_executor(server),
        says=farm.says
        if farm.reachable
        else "no broker answers, so this machine carries runs out itself, one at a time",
    )


def _submitted(server: Server, run: LiveRun, *, created: bool) -> Submitted:
    summary = server.summary(run)
    where = "the farm's workers carry it out" if summary.executor == "farm" else "this machine carries it out"
    says = where if created else "the same request was submitted before; this is its run"
    return Submitted(
        id=run.id,
        run_id=run.run_id,
        created=created,
        executor=summary.executor,
        says=f"{says}; {summary.says}" if summary.says else says,
        tasks=summary.tasks,
        run=summary,
    )


def _executor(server: Server) -> Executor:
    return "farm" if server.farm.seen.reachable else "local"


def _allowed_model(model: str, config: ServeConfig) -> str:
    """Return what `model` means here.

    Raises:
        Refused: it is not among the models that may be submitted. Whether it exists is not told.
    """
    if model == DEMO:
        return (
            str(demo.MODEL_DIR) if Path(DEMO).exists() else DEMO
        )  # not a folder of that name beside the server
    for place in (Path(model), *(root / model for root in config.models)):
        try:
            resolved = place.expanduser().resolve()
            if is_below(resolved, config.models) and resolved.is_dir():
                return str(resolved)
        except (OSError, RuntimeError, ValueError):
            continue
    if _HUB_ID.fullmatch(model) and config.accepts_hub_model(model) and not Path(model).exists():
        return model
    accepted = ["demo", *(f"folders below {root}" for root in config.models)]
    accepted += [f"hub ids like {pattern}" for pattern in config.hub_models]
    raise refused_field(
        "model",
        f"is {model[:200]!r}, which may not be submitted here; accepted are: {', '.join(accepted)}",
        mend="name its folder in NEUROSCAN_SERVE_MODELS, or its hub id in NEUROSCAN_SERVE_HUB_MODELS, and start the "
        "server anew",
    )


def _inline_probes(probes: list[Any]) -> Mapping[str, Probe]:
    """Read the probes that are given whole.

    Raises:
        Refused: one of them is wrong, or has the name of another.
    """
    found: dict[str, Probe] = {}
    for number, data in enumerate(probes):
        if isinstance(data, str):
            continue
        field = f"probes.{number}"
        try:
            probe = parse_probe(data, where=field)
        except ProbeError as error:
            raise refused_field(field, f"is no probe: {error}") from None
        if _PROBE_NAME.fullmatch(probe.name) is None:
            raise refused_field(
                field, f"is named {probe.name[:100]!r}; use letters, digits, dots, dashes and underscores"
            )
        if probe.name in builtin_names() or probe.name in found:
            raise refused_field(
                field, f"is named {probe.name}, as another probe is; give it a name of its own"
            )
        found[probe.name] = probe
    return found


def _probe_named(probe: str | dict[str, Any], config: ServeConfig) -> str:
    """Return the name under which a probe is loaded.

    Raises:
        Refused: it is a file outside of the folders for probes.
    """
    if not isinstance(probe, str):
        return str(probe["name"])
    if probe in builtin_names():
        return probe
    for place in (Path(probe), *(root / probe for root in config.probes)):
        try:
            resolved = place.expanduser().resolve()
            if (
                is_below(resolved, config.probes)
                and resolved.suffix.lower() in FILE_SUFFIXES
                and resolved.is_file()
            ):
                return str(resolved)
        except (OSError, RuntimeError, ValueError):
            continue
    accepted = [
        *builtin_names(),
        *(f"files below {root}" for root in config.probes),
        "a whole probe as an object",
    ]
    raise refused_field(
        "probes",
        f"is {probe[:200]!r}, which may not be submitted here; accepted are: {', '.join(accepted)}",
        mend="send the probe itself as an object, or name its folder in NEUROSCAN_SERVE_PROBES",
    )


def _models(config: ServeConfig) -> list[ModelChoice]:
    found = [ModelChoice(model=DEMO, name="demo (bundled)")]
    for root in config.models:
        for pattern in ("config.json", "*/config.json", "*/*/config.json"):
            for file in sorted(root.glob(pattern)):
                if len(found) < _MOST_LISTED and is_below(file.resolve(), config.models):
                    found.append(
                        ModelChoice(model=str(file.parent), name=str(file.parent.relative_to(root.parent)))
                    )
    return found


def _probe_files(config: ServeConfig) -> list[ProbeChoice]:
    found: list[ProbeChoice] = []
    for root in config.probes:
        for file in sorted(root.iterdir()):
            if file.suffix.lower() in FILE_SUFFIXES and file.is_file() and len(found) < _MOST_LISTED:
                found.append(ProbeChoice(name=str(file), samples=None, description="a file of this server"))
    return found


def request_json(request: AnalysisRequest) -> dict[str, Any]:
    """A request as JSON's own types."""
    content: dict[str, Any] = json.loads(request.model_dump_json())
    return content
