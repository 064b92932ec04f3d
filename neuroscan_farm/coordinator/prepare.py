"""Making a run out of a request: everything that can be refused is refused here, before any GPU time is spent."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import neuroscan_farm
from neuroscan_farm.analyses import get_analysis
from neuroscan_farm.domain.measurements import ENGINE_VERSION, SCORING_VERSION
from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.domain.requests import AnalysisRequest
from neuroscan_farm.domain.tasks import Shard
from neuroscan_farm.errors import ProbeError, RequestError, RunError
from neuroscan_farm.planning.facts import ModelFacts, check_weights, is_hub_snapshot, read_facts
from neuroscan_farm.planning.model_source import find_model
from neuroscan_farm.planning.packing import pack
from neuroscan_farm.planning.sizing import FIRST_SHARD_TASKS
from neuroscan_farm.probes.catalogue import load_probe
from neuroscan_farm.statistics.confirm_split import check_split
from neuroscan_farm.store.run_directory import Manifest, RunDirectory, make_run_id, request_content

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that was checked against its model and probes, and what it comes to."""

    request: AnalysisRequest
    run_id: str
    facts: ModelFacts
    probes: tuple[Probe, ...]
    shards: tuple[Shard, ...]
    complete: bool  # False where a further stage may follow

    @property
    def n_samples(self) -> int:
        """Samples of all probes."""
        return sum(len(probe.samples) for probe in self.probes)


def make_plan(
    request: AnalysisRequest, *, fetch_weights: bool = True, inline: Mapping[str, Probe] | None = None
) -> Plan:
    """Expand a request into shards; nothing is written, no weight is loaded.

    Args:
        request: what is asked for.
        fetch_weights: whether the weights of a hub id are fetched too; a dry run does without.
        inline: probes that are at hand, by the names that the request has for them.

    Raises:
        RequestError: the parameters do not fit the model.
        ProbeError: a probe is wrong, or lacks the answers that the metric needs.
        ModelError: the model is missing, damaged or no decoder.
    """
    probes = load_probes(request, inline=inline)
    folder = find_model(request.model, revision=request.revision, weights=fetch_weights)
    facts = read_facts(folder, name=_short_name(request.model, folder))
    if fetch_weights or not is_hub_snapshot(folder):
        check_weights(folder)
    analysis = get_analysis(request.analysis)
    tasks = analysis.expand(
        request.parameters, depth=facts.depth, probe_digests=[probe.digest for probe in probes]
    )
    return Plan(
        request=request,
        run_id=make_run_id(
            request, model_name=facts.name, model_fingerprint=facts.fingerprint, probes=probes
        ),
        facts=facts,
        probes=probes,
        shards=tuple(pack(tasks, most=request.shard_size or FIRST_SHARD_TASKS)),
        complete=not analysis.has_stages(request.parameters),
    )


def prepare(plan: Plan, root: str | Path, *, executor: str) -> RunDirectory:
    """Make the run of a plan at `root`, a folder or a URL, or open it where it is there already; `wake` it to go on with it.

    Raises:
        RunError: another request's run is at `root`, or something that is no run.
        StorageError: the disk refused.
    """
    if RunDirectory.exists(root):
        run = RunDirectory.open(root)
        if run.manifest.run_id != plan.run_id:
            raise RunError(
                f"{root}: holds the run {run.manifest.run_id} of another request "
                f"({'; '.join(_differences(run, plan))}); give another --output, or the request that is in its request.yaml"
                + _hint_at_extending(run, plan)
            )
        run.check_versions()
        return run
    manifest = Manifest(
        run_id=plan.run_id,
        analysis=plan.request.analysis,
        model=plan.request.model,
        model_name=plan.facts.name,
        model_folder=str(plan.facts.folder),
        model_fingerprint=plan.facts.fingerprint,
        model_type=plan.facts.model_type,
        depth=plan.facts.depth,
        hidden_size=plan.facts.hidden_size,
        probes={probe.name: probe.digest for probe in plan.probes},
        n_samples={probe.name: len(probe.samples) for probe in plan.probes},
        engine_version=ENGINE_VERSION,
        scoring_version=SCORING_VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        layer_parameters=plan.facts.layer_parameters,
        layer_kv_bytes=plan.facts.layer_kv_bytes,
    )
    return RunDirectory.create(
        root,
        manifest=manifest,
        request=plan.request,
        probes=plan.probes,
        shards=plan.shards,
        plan_complete=plan.complete,
        executor=executor,
    )


def wake(run: RunDirectory, *, executor: str | None = None, priority: int | None = None) -> None:
    """Want a run again, of the same executor or another: a pause, a cancellation and the workers' refusals are taken back.

    Parts are read to the last byte here, and damaged ones moved aside: the tasks in them will be measured again.

    Raises:
        StorageError: the disk refused.
    """
    for notice in run.parts.set_bad_aside(thorough=True):
        log.warning("run %s: %s", run.manifest.run_id, notice)
    run.attempts.settle()
    before = run.control()
    changed = executor not in (None, before.executor) or priority not in (None, before.priority)
    if changed or before.wanted != "running":
        run.set_wanted("running", executor=executor, priority=priority)


def forget_failures(run: RunDirectory) -> int:
    """Have the tasks that failed measured again when the run goes on; return how many there are.

    Their rows and the deaths that are laid to them are forgotten; everything else stays.

    Raises:
        StorageError: the disk refused.
    """
    failed = frozenset(run.parts.look().failed)
    if failed:
        run.attempts.settle_tasks(failed)  # first: a task that is missing is quarantined again by its deaths
        run.parts.forget(failed)
    return len(failed)


def load_probes(request: AnalysisRequest, *, inline: Mapping[str, Probe] | None = None) -> tuple[Probe, ...]:
    """Load the probes of a request but those that are at hand, and check that they can tell its metric.

    Raises:
        RequestError: a probe is named twice, or is too small for the samples that are to be held out.
        ProbeError: a probe is wrong, or lacks the answers that the metric needs.
    """
    here = inline or {}
    probes = tuple(here[name] if name in here else load_probe(name) for name in request.probes)
    names = [probe.name for probe in probes]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise RequestError(
            f"probes: {', '.join(sorted(doubled))} is named twice; each probe needs its own name"
        )
    if request.metric.needs_answers:
        unlabelled = [
            f"probe {probe.name}: {len(probe.unlabelled())} of {len(probe.samples)} samples have no right answer"
            for probe in probes
            if not probe.is_labelled
        ]
        if unlabelled:
            raise ProbeError(
                "\n".join(unlabelled)
                + f"\nThe metric {request.metric.value} needs them: give each sample an `answer`, "
                "or rank with --metric expected_score"
            )
    if request.confirm is not None:
        check_split(probes, request.confirm)
    return probes


def _short_name(model: str, folder: Path) -> str:
    return folder.name if Path(model).expanduser().is_dir() else model


def _differences(run: RunDirectory, plan: Plan) -> Sequence[str]:
    """Name what differs between the run at hand and the request, most telling first."""
    differences = []
    if run.manifest.model_fingerprint != plan.facts.fingerprint:
        differences.append(f"its model is {run.manifest.model_name}, with another content")
    here = {probe.name: probe.digest for probe in plan.probes}
    if dict(run.manifest.probes) != here:
        differences.append(f"its probes are {', '.join(run.manifest.probes)}, with other questions or others")
    old = request_content(run.request())
    new = request_content(plan.request)
    for name in ("analysis", "metric", "confirm", "shard_size"):
        if old[name] != new[name]:
            differences.append(f"its {name} is {old[name]}, not {new[name]}")
    for section in ("parameters", "engine"):
        for name, value in new[section].items():
            if old[section].get(name) != value:
                differences.append(f"its {section}.{name} is {old[section].get(name)}, not {value}")
    return differences or ["another version of the request"]


def _hint_at_extending(run: RunDirectory, plan: Plan) -> str:
    here, asked = dict(run.manifest.probes), {probe.name: probe.digest for probe in plan.probes}
    more = [name for name in asked if name not in here]
    if not more or not here.items() <= asked.items():
        return ""
    return f"; to add probes to it: neuroscan-farm extend {run.location} --probe {' --probe '.join(more)}"


def _versions() -> dict[str, str]:
    names = ("torch", "transformers", "safetensors", "pyarrow", "numpy")
    return {
        "neuroscan-farm": neuroscan_farm.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }
