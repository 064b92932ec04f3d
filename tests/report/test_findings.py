"""What is read from a run directory: ranks, reasons, and what is not there yet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.paths import Block, LayerPath
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.errors import RequestError
from neuroscan_farm.report.configurations import single_block
from neuroscan_farm.report.findings import read_findings
from tests.report.conftest import MakeRun, early_hurts_middle_helps


def failing(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
    if task.block == Block(1, 2):
        return 0.0, Outcome.NON_FINITE
    if task.block == Block(1, 3) and sample < 3:
        return 0.0, Outcome.ERROR
    return early_hurts_middle_helps(probe, task, sample, random)


def test_every_planned_configuration_is_there_with_its_numbers(make_run: MakeRun) -> None:
    run = make_run(depth=5)
    findings = read_findings(run)
    rows = run.parts.read().to_pandas()
    assert len(findings.configurations) == 15
    assert (findings.n_planned, findings.n_measured) == (16, 16)
    for c in findings.configurations:
        mine = rows[rows.task_id == c.task_id]
        means = c.results["math"].means
        assert means["log_odds"] == pytest.approx(mine.log_odds.mean())
        assert means["correct"] == pytest.approx(mine.correct.mean())
        assert means["coverage"] == pytest.approx(0.97)
        assert c.results[None] == c.results["math"]


def test_the_rank_follows_the_mean_effect(make_run: MakeRun) -> None:
    ranked = read_findings(make_run()).ranked()
    means = [c.results[None].effects[Metric.LOG_ODDS].mean for c in ranked]
    assert len(ranked) == 21
    assert means == sorted(means, reverse=True)


def test_the_baseline_is_no_configuration_and_says_so(make_run: MakeRun) -> None:
    findings = read_findings(make_run())
    assert findings.baseline is not None
    assert findings.baseline.path == LayerPath.identity(6)
    assert findings.baseline not in findings.configurations
    assert findings.baseline.results[None].unranked == "it is what the others are compared with"


def test_the_mean_over_probes_is_unweighted_and_ranks_of_its_own(make_run: MakeRun) -> None:
    findings = read_findings(make_run(probes=("math", "json")))
    assert findings.views == (None, "math", "json")
    for c in findings.configurations:
        parts = [c.results[p].effects[Metric.LOG_ODDS].mean for p in ("math", "json")]
        assert c.results[None].effects[Metric.LOG_ODDS].mean == pytest.approx(sum(parts) / 2)
        assert c.results[None].n_ok == 16
    for view in findings.views:
        assert [c.results[view].rank for c in findings.ranked(view)] == list(range(1, 22))


def test_a_failed_configuration_has_no_scores_no_rank_and_a_reason(make_run: MakeRun) -> None:
    findings = read_findings(make_run(behaviour=failing))
    (failed,) = [c for c in findings.configurations if c.block == Block(1, 2)]
    result = failed.results[None]
    assert result.rank is None
    assert result.unranked == "8 of 8 samples failed (8 non_finite)"
    assert result.detail == "made up: non_finite"
    assert set(result.means.values()) == {None}


def test_a_configuration_that_lacks_samples_has_scores_and_no_rank(make_run: MakeRun) -> None:
    findings = read_findings(make_run(behaviour=failing))
    (partial,) = [c for c in findings.configurations if c.block == Block(1, 3)]
    result = partial.results[None]
    assert result.effects[Metric.LOG_ODDS].n == 5
    assert result.rank is None
    assert result.unranked == "3 of 8 samples failed (5 ok, 3 error)"


def test_a_run_that_goes_on_counts_what_is_there(make_run: MakeRun) -> None:
    findings = read_findings(make_run(share=0.5, shard_size=4))
    assert 1 < findings.n_measured < findings.n_planned == 22
    waiting = [c for c in findings.configurations if not c.is_measured]
    assert {c.results[None].unranked for c in waiting} == {"not measured yet"}
    assert len(findings.ranked()) == findings.n_measured - 1


def test_a_run_without_any_part_is_no_error(make_run: MakeRun) -> None:
    findings = read_findings(make_run(share=0.0))
    assert findings.n_measured == 0
    assert findings.ranked() == []
    assert findings.conditions["dtype"] == ()


def test_without_the_baseline_scores_are_there_and_changes_are_not(make_run: MakeRun) -> None:
    findings = read_findings(make_run(with_baseline=False))
    assert not findings.has_baseline
    for c in findings.configurations:
        assert c.results[None].means["log_odds"] is not None
        assert c.results[None].effects == {}
        assert c.results[None].unranked == "the baseline is not measured yet"


def test_a_truncated_part_counts_as_not_measured(make_run: MakeRun) -> None:
    run = make_run(shard_size=4)
    path = run.parts.path(run.shards()[2].shard_id)
    path.write_bytes(path.read_bytes()[:100])
    assert read_findings(run).n_measured == 22 - 4


def test_rows_of_no_planned_task_are_left_out(make_run: MakeRun) -> None:
    run, other = make_run(), make_run(depth=4)
    stranger = other.shards()[1]
    run.parts.path(stranger.shard_id).write_bytes(other.parts.path(stranger.shard_id).read_bytes())
    assert read_findings(run).n_measured == 22


def test_a_metric_that_the_probe_cannot_tell_is_refused_with_one_that_it_can(make_run: MakeRun) -> None:
    run = make_run(labelled=False, metric="expected_score")
    assert len(read_findings(run).ranked()) == 21
    with pytest.raises(RequestError, match=r"probe math cannot tell it.*--metric expected_score"):
        read_findings(run, metric=Metric.LOG_ODDS)


def test_an_explicit_order_that_is_a_plain_block_is_known_as_one(make_run: MakeRun) -> None:
    findings = read_findings(make_run(parameters={"paths": ["0..3,2..5", "0..1,3..5", "0..3,2..3,2..5"]}))
    assert {str(c.path): c.label for c in findings.configurations} == {
        "0..3,2..5": "(2, 4)",
        "0..1,3..5": "without 2",
        "0..3,2..3,2..5": "(2, 4) ×3",
    }
    assert [c.plain_block for c in findings.configurations].count(None) == 2


@given(st.integers(1, 12), st.data())
def test_a_block_is_read_back_from_its_path(depth: int, data: st.DataObject) -> None:
    j = data.draw(st.integers(1, depth))
    block = Block(data.draw(st.integers(0, j - 1)), j, data.draw(st.integers(2, 4)))
    assert single_block(LayerPath.duplicating([block], depth), depth=depth) == block


@given(st.lists(st.integers(0, 5), min_size=1, max_size=14))
def test_a_path_is_a_block_only_if_that_block_makes_the_path(layers: list[int]) -> None:
    path = LayerPath(tuple(layers))
    block = single_block(path, depth=6)
    assert block is None or LayerPath.duplicating([block], 6) == path
