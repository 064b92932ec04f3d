"""Findings: what the parts of a run say, read in one go. Also while the run goes on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from neuroscan_farm.domain.costs import cost_of
from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.domain.requests import AnalysisRequest
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.errors import RequestError
from neuroscan_farm.probes.audit import ProbeAudit, audit_probe
from neuroscan_farm.report.configurations import SCORES, Configuration, ProbeResult, single_block
from neuroscan_farm.report.confirmation import Confirmation, confirm
from neuroscan_farm.report.left_out import left_out_by, without_text
from neuroscan_farm.report.ranking import with_ranks, without_rank
from neuroscan_farm.statistics.confirm_split import held_out_samples
from neuroscan_farm.statistics.effects import Assessment, Effect, assess
from neuroscan_farm.statistics.multiplicity import Noise
from neuroscan_farm.statistics.sample_matrix import SampleMatrix, sample_matrices
from neuroscan_farm.store.additions import all_probes, read_whole
from neuroscan_farm.store.run_directory import Manifest, RunDirectory

CONDITIONS = (
    "device",
    "backend",
    "dtype",
    "residual_dtype",
    "attention",
    "lane",
    "engine_version",
    "scoring_version",
)
_COLUMNS = ["task_id", "probe", "sample_id", "outcome", "detail", *SCORES, "seconds", *CONDITIONS]


@dataclass(frozen=True, slots=True)
class Findings:
    """A run's configurations with their results, ranked by one metric."""

    manifest: Manifest
    request: AnalysisRequest
    metric: Metric
    probes: tuple[str, ...]
    baseline: Configuration | None  # None where the plan has none
    configurations: tuple[Configuration, ...]  # without the baseline; by stage, then block, then path
    seconds: Mapping[str, float]  # forward passes on each probe, added up over the workers
    plan_complete: bool  # whether no further stage follows
    conditions: Mapping[str, tuple[str, ...]]  # the different values in the rows, by column of `CONDITIONS`
    # by probe, of what everything rests on
    matrices: Mapping[str, SampleMatrix] = field(default_factory=dict)
    noise: Mapping[str | None, Noise | None] = field(default_factory=dict)  # by view, on the ranking metric
    accuracy_noise: Mapping[str | None, Noise | None] = field(default_factory=dict)  # the same on `correct`
    audits: Mapping[str, ProbeAudit] = field(default_factory=dict)  # of the probes by themselves, by name
    # the same of the samples that the scores rest on: without those that are held out
    audits_of_scored: Mapping[str, ProbeAudit] = field(default_factory=dict)
    confirmation: Confirmation | None = None  # None where no samples are held out
    unfinished: tuple[str, ...] = ()  # of each addition of probes that is not finished, how far it is

    @property
    def views(self) -> tuple[str | None, ...]:
        """How results can be looked at: the mean over probes (None) where there are several; each probe."""
        return self.probes if len(self.probes) == 1 else (None, *self.probes)

    @property
    def n_planned(self) -> int:
        """Tasks planned so far, the baseline among them; a later stage may add some."""
        return len(self.configurations) + (self.baseline is not None)

    @property
    def n_measured(self) -> int:
        """Tasks with rows on every probe, be they ok or not."""
        return self.n_measured_on(None)

    @property
    def share(self) -> float:
        """The share of the tasks planned so far that is measured: what every statement rests on."""
        return self.n_measured / self.n_planned if self.n_planned else 0.0

    @property
    def has_baseline(self) -> bool:
        """Whether the baseline is measured on a probe, so that there are changes against it."""
        return self.baseline is not None and self.baseline.is_begun

    def n_measured_on(self, probe: str | None) -> int:
        """Tasks with rows on a probe, or on every probe (None)."""
        baseline = [self.baseline] if self.baseline else []
        return sum(bool(c.results[probe].outcomes) for c in (*baseline, *self.configurations))

    def view_name(self, probe: str | None) -> str:
        """The name of a probe, or of the mean over the probes."""
        if probe is not None:
            return probe
        return self.probes[0] if len(self.probes) == 1 else f"mean of {len(self.probes)} probes"

    def noise_on(self, metric: Metric, probe: str | None) -> Noise | None:
        """What the best would show by chance, on the ranking metric or on `correct`; None where that is unknown."""
        noise = (
            self.noise if metric is self.metric else self.accuracy_noise if metric is Metric.CORRECT else {}
        )
        return noise.get(probe)

    def ranked(self, probe: str | None = None) -> list[Configuration]:
        """Return the configurations that have a rank, best first."""
        ranks = {rank: c for c in self.configurations if (rank := c.results[probe].rank) is not None}
        return [ranks[rank] for rank in sorted(ranks)]


def read_findings(run: RunDirectory, *, metric: Metric | None = None) -> Findings:
    """Read what is there now, of the run and of the probes that were added to it.

    Args:
        run: the run; parts that cannot be read count as not measured yet.
        metric: what to rank by; the request's own where None.

    Raises:
        RequestError: the metric was named here and the probes cannot tell it.
        RunError: the request, the plan or a probe is damaged.
    """
    request = run.request()
    whole = read_whole(run, _COLUMNS)
    probes = tuple(whole.manifest.probes)
    tasks = [task for shard in run.shards() for task in shard.tasks]
    rows = _of_the_plan(whole.rows, tasks, probes)
    metric = _checked_metric(rows, metric) if metric else request.metric
    depth = whole.manifest.depth
    baseline_task = next((task for task in tasks if task.is_baseline(depth)), None)
    baseline_id = baseline_task.task_id if baseline_task else None
    all_samples = sample_matrices(rows, SCORES)
    asked = all_probes(run)
    held_out = held_out_samples(asked, request.confirm) if request.confirm is not None else None
    matrices = {
        probe: matrix if held_out is None else matrix.without(held_out[probe])
        for probe, matrix in all_samples.items()
    }
    assessments = {
        one: assess(matrices, metric=one, baseline_id=baseline_id, probes=probes)
        for one in dict.fromkeys((metric, Metric.CORRECT))
        if baseline_id is not None
    }
    results = _results(rows, tasks, probes, matrices, assessments)
    blocks = {task.task_id: task.block or single_block(task.path, depth=depth) for task in tasks}
    costs = (whole.manifest.layer_parameters, whole.manifest.layer_kv_bytes)
    configurations = [
        Configuration(
            task.task_id,
            task.path,
            blocks[task.task_id],
            task.stage,
            results[task.task_id],
            cost_of(task.path, depth, *costs),
            without_text(left_out_by(task.path, depth)),
        )
        for task in tasks
    ]
    configurations.sort(key=_place)
    baseline = next((c for c in configurations if c.task_id == baseline_id), None)
    others = tuple(c for c in configurations if c.task_id != baseline_id)
    ranked = with_ranks(others, baseline=baseline, probes=probes, metric=metric)
    audits = {probe.name: audit_probe(probe) for probe in asked}
    scored = audits
    if held_out is not None:
        scored = {probe.name: audit_probe(_without(probe, held_out[probe.name])) for probe in asked}
    confirmation = None
    if held_out is not None and request.confirm is not None:
        confirmation = confirm(
            ranked,
            all_samples,
            share=request.confirm,
            held_out=held_out,
            n_samples=whole.manifest.n_samples,
            baseline_id=baseline_id,
            metric=metric,
        )
    return Findings(
        manifest=whole.manifest,
        request=request,
        metric=metric,
        probes=probes,
        baseline=without_rank(baseline, probes=probes) if baseline else None,
        configurations=ranked,
        seconds=_seconds(rows),
        plan_complete=run.plan_complete(),
        conditions={name: tuple(sorted(pc.unique(rows[name]).to_pylist())) for name in CONDITIONS},
        matrices=matrices,
        noise=assessments[metric].noise if assessments else {},
        accuracy_noise=assessments[Metric.CORRECT].noise if assessments else {},
        audits=audits,
        audits_of_scored=scored,
        confirmation=confirmation,
        unfinished=whole.unfinished,
    )


def _without(probe: Probe, held_out: frozenset[str]) -> Probe:
    return replace(probe, samples=tuple(one for one in probe.samples if one.sample_id not in held_out))


def _place(c: Configuration) -> tuple[int, bool, tuple[int, int], tuple[int, ...]]:
    block = (c.block.i, c.block.j) if c.block else (0, 0)
    return c.stage, c.block is None, block, c.path.steps


def _of_the_plan(rows: pa.Table, tasks: Sequence[Task], probes: Sequence[str]) -> pa.Table:
    """Leave out rows of parts that are not in the plan."""
    ours = pc.is_in(rows["task_id"], value_set=pa.array([task.task_id for task in tasks], pa.string()))
    return rows.filter(pc.and_(ours, pc.is_in(rows["probe"], value_set=pa.array(probes, pa.string()))))


def _checked_metric(rows: pa.Table, metric: Metric) -> Metric:
    ok = rows.filter(pc.equal(rows["outcome"], Outcome.OK.value))
    without = [
        probe
        for probe in pc.unique(ok["probe"]).to_pylist()
        if not pc.any(pc.is_valid(ok.filter(pc.equal(ok["probe"], probe))[metric.value])).as_py()
    ]
    if without:
        other = Metric.EXPECTED_SCORE if metric.needs_answers else Metric.LOG_ODDS
        why = "no sample says its right answer" if metric.needs_answers else "its answers are no numbers"
        raise RequestError(
            f"metric {metric.value}: probe {', '.join(sorted(without))} cannot tell it, because {why}; "
            f"use --metric {other.value}"
        )
    return metric


def _results(
    rows: pa.Table,
    tasks: Sequence[Task],
    probes: Sequence[str],
    matrices: Mapping[str, SampleMatrix],
    assessments: Mapping[Metric, Assessment],
) -> dict[str, dict[str | None, ProbeResult]]:
    means = {probe: {name: matrix.means(name) for name in SCORES} for probe, matrix in matrices.items()}
    outcomes, details = _outcomes(rows)
    effects: dict[tuple[str, str | None], dict[Metric, Effect]] = defaultdict(dict)
    for metric, assessment in assessments.items():
        for key, effect in assessment.effects.items():
            effects[key][metric] = effect
    results: dict[str, dict[str | None, ProbeResult]] = {}
    for task in tasks:
        mine: dict[str | None, ProbeResult] = {}
        for probe in probes:
            key = (task.task_id, probe)
            scores = {name: means.get(probe, {}).get(name, {}).get(task.task_id) for name in SCORES}
            mine[probe] = ProbeResult(
                probe, outcomes.get(key, {}), details.get(key), scores, effects.get(key, {})
            )
        over = effects.get((task.task_id, None), {})
        several = len(probes) > 1
        mine[None] = _over_probes([mine[probe] for probe in probes], over) if several else mine[probes[0]]
        results[task.task_id] = mine
    return results


def _over_probes(results: Sequence[ProbeResult], effects: Mapping[Metric, Effect]) -> ProbeResult:
    """The unweighted mean over probes; a score or an effect that one probe lacks is absent.

    It is not measured while one of the probes is not: that one may have been added later.
    """
    if not all(result.outcomes for result in results):
        return ProbeResult(None, {}, None, dict.fromkeys(SCORES), {})
    outcomes: dict[str, int] = defaultdict(int)
    for result in results:
        for outcome, count in result.outcomes.items():
            outcomes[outcome] += count
    means: dict[str, float | None] = {}
    for name in SCORES:
        values = [value for result in results if (value := result.means[name]) is not None]
        means[name] = math.fsum(values) / len(values) if len(values) == len(results) else None
    detail = next((result.detail for result in results if result.detail), None)
    return ProbeResult(None, dict(outcomes), detail, means, effects)


def _outcomes(rows: pa.Table) -> tuple[dict[tuple[str, str], dict[str, int]], dict[tuple[str, str], str]]:
    """Count each configuration's rows by outcome; keep the first failure's detail in alphabetical order."""
    keys = ["task_id", "probe", "outcome", "detail"]
    counted = rows.select(keys).group_by(keys).aggregate([([], "count_all")])
    outcomes: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    details: dict[tuple[str, str], str] = {}
    for row in counted.to_pylist():
        key = (row["task_id"], row["probe"])
        outcomes[key][row["outcome"]] = outcomes[key].get(row["outcome"], 0) + row["count_all"]
        if row["outcome"] != Outcome.OK and row["detail"]:
            details[key] = min(details.get(key, row["detail"]), row["detail"])
    return outcomes, details


def _seconds(rows: pa.Table) -> dict[str, float]:
    return {
        probe: math.fsum(rows.filter(pc.equal(rows["probe"], probe))["seconds"].to_numpy().tolist())
        for probe in pc.unique(rows["probe"]).to_pylist()
    }
