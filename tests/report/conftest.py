"""Runs with made-up scores: real directories with real parts, and no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from neuroscan_farm.analyses import get_analysis, read_request
from neuroscan_farm.domain.measurements import Measurement, Outcome, Score
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.domain.probes import Probe, Sample
from neuroscan_farm.domain.tasks import Shard, Task
from neuroscan_farm.store.run_directory import Manifest, RunDirectory
from neuroscan_farm.store.schema import Provenance, measurement_table
from tests.paper_models import paper_timing

# Says what a task does on a sample: (probe, task, sample number, random numbers) -> (log-odds, outcome).
Behaviour = Callable[[str, Task, int, np.random.Generator], tuple[float, Outcome]]
MakeRun = Callable[..., RunDirectory]


def early_hurts_middle_helps(
    probe: str, task: Task, sample: int, random: np.random.Generator
) -> tuple[float, Outcome]:
    """A landscape such as real scans have: early blocks break the model, some in the middle help a little."""
    value = 0.4 * (sample % 5) - 0.3
    if task.block is not None:
        i, j = task.block.i, task.block.j
        depth = len(task.path) - (j - i)
        centre, where = (i + j) / 2 / depth, 0.55 if probe == "math" else 0.7
        value += (
            0.7 * np.exp(-(((centre - where) / 0.12) ** 2)) - 0.06 * (j - i) - 3 * max(0.0, 0.2 - i / depth)
        )
    return float(value + random.normal(0, 0.3)), Outcome.OK


def score_of(log_odds: float, *, values: bool = True, labelled: bool = True) -> Score:
    """A score whose numbers fit together well enough to be told apart."""
    p = 1 / (1 + np.exp(-log_odds))
    return Score(
        expected_score=float(2 + 5 * p) if values else None,
        uncertainty=float(4 * p * (1 - p)) if values else None,
        coverage=0.97,
        entropy=0.8,
        top_token="<b>7</b>",
        answer_probabilities=(float(p), float(1 - p)),
        log_odds=log_odds if labelled else None,
        log_p_correct=float(np.log(p)) if labelled else None,
        correct=bool(log_odds > 0) if labelled else None,
    )


def _answer(answer: str | Sequence[str] | None, number: int) -> str:
    if isinstance(answer, str):
        return answer
    return str(number % 10) if answer is None else answer[number]


def build_run(
    root: Path,
    *,
    depth: int = 6,
    analysis: str = "duplication",
    paths: Sequence[LayerPath] = (),
    probes: Sequence[str] = ("math",),
    n_samples: int = 8,
    parameters: Mapping[str, object] | None = None,
    behaviour: Behaviour = early_hurts_middle_helps,
    share: float = 1.0,
    plan_complete: bool = True,
    with_baseline: bool = True,
    labelled: bool = True,
    values: bool = True,
    metric: str = "log_odds",
    confirm: float | None = None,
    answer: str | Sequence[str] | None = None,  # of all samples, or of each
    model: str = "acme/tiny-llama",
    model_folder: str = "/models/tiny-llama",
    model_type: str = "llama",
    shard_size: int = 16,
    seed: int = 0,
) -> RunDirectory:
    """Make a run whose first `share` of shards is finished; `paths` follow what the analysis plans, as a second stage."""
    asked = [
        Probe(
            name,
            tuple(
                Sample(
                    f"{name}-{k:03d}",
                    f"<script>alert({k})</script> {k}+1=",
                    answer=_answer(answer, k) if labelled else None,
                )
                for k in range(n_samples)
            ),
        )
        for name in probes
    ]
    request = read_request(
        {
            "analysis": analysis,
            "model": model,
            "probes": list(probes),
            "metric": metric,
            "confirm": confirm,
            "parameters": dict(parameters or {}),
            "shard_size": shard_size,
        },
        where="test",
    )
    digests = [probe.digest for probe in asked]
    tasks = get_analysis(analysis).expand(request.parameters, depth=depth, probe_digests=digests)
    tasks += [Task.of(path, probe_digests=digests, stage=1) for path in paths]
    baseline, others = tasks[0], tasks[1:]
    shards = [Shard.of([baseline])]
    shards += [Shard.of(others[k : k + shard_size]) for k in range(0, len(others), shard_size)]
    manifest = Manifest(
        run_id=f"{analysis}-tiny-llama-0123456789",
        analysis=analysis,
        model=model,
        model_name=model.rsplit("/", 1)[-1],
        model_folder=model_folder,
        model_fingerprint="f" * 16,
        model_type=model_type,
        depth=depth,
        hidden_size=64,
        probes={probe.name: probe.digest for probe in asked},
        n_samples={probe.name: len(probe.samples) for probe in asked},
        engine_version="1",
        scoring_version="1",
        created="2026-11-20T08:00:00+00:00",
        versions={"neuroscan-farm": "0.1.0", "torch": "2.13.0"},
    )
    run = RunDirectory.create(
        root,
        manifest=manifest,
        request=request,
        probes=asked,
        shards=shards,
        plan_complete=plan_complete,
        executor="local",
    )
    random = np.random.default_rng(seed)
    finished = shards[: round(share * len(shards))]
    for shard in finished:
        measurements = []
        for task in shard.tasks:
            for probe in asked:
                for number, sample in enumerate(probe.samples):
                    log_odds, outcome = behaviour(probe.name, task, number, random)
                    ok = outcome is Outcome.OK
                    measurements.append(
                        Measurement(
                            task.task_id,
                            probe.name,
                            sample.sample_id,
                            outcome,
                            None if ok else f"made up: {outcome.value}",
                            score_of(log_odds, values=values, labelled=labelled) if ok else None,
                            0.01,
                        )
                    )
        provenance = Provenance(
            run_id=manifest.run_id,
            shard_id=shard.shard_id,
            analysis=analysis,
            depth=depth,
            attempt=1,
            worker="w1",
            device="cpu",
            backend="transformers",
            dtype="float32",
            residual_dtype="float32",
            attention="sdpa",
            lane="general",
            placement="cpu",
            engine_version="1",
            scoring_version="1",
        )
        if with_baseline or shard is not shards[0]:
            table = measurement_table(measurements, shard.tasks, provenance)
            run.parts.write(shard.shard_id, table, paper_timing(shard))
    return run


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A function that makes a run in a folder of its own; see `build_run`."""
    made: list[RunDirectory] = []

    def make(**options: object) -> RunDirectory:
        made.append(build_run(tmp_path / f"run{len(made)}", **options))  # type: ignore[arg-type]
        return made[-1]

    return make
