"""results.json: layer-scan's fields, and what they cannot say beside them."""

from __future__ import annotations

import numpy as np
import pytest

from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.domain.paths import Block
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.results_json import results_files, results_json
from tests.report.conftest import MakeRun, early_hurts_middle_helps

# As layer-scan 0.2.2 writes them.
FIELDS = [
    "model", "probe", "total_layers", "baseline_score", "baseline_uncertainty", "scan_time_seconds",
    "configs_scanned", "top_configs", "all_results",
]  # fmt: skip
TOP_FIELDS = [
    "rank", "i", "j", "block_size", "effective_depth", "score", "delta", "uncertainty", "log_odds",
    "accuracy", "mean_coverage",
]  # fmt: skip


def test_the_fields_of_layer_scan_are_all_there(make_run: MakeRun) -> None:
    content = results_json(read_findings(make_run()), probe="math", top_k=3)
    assert set(FIELDS) <= set(content)
    assert [set(TOP_FIELDS) <= set(top) for top in content["top_configs"]] == [True] * 3
    assert {tuple(result) for result in content["all_results"]} == {("i", "j", "score", "uncertainty")}


def test_scores_are_mean_expected_scores_and_delta_is_their_difference(make_run: MakeRun) -> None:
    run = make_run()
    rows = run.parts.read().to_pandas()
    content = results_json(read_findings(run), probe="math")
    base = rows[[list(path) == list(range(6)) for path in rows.path]]
    assert content["baseline_score"] == pytest.approx(base.expected_score.mean())
    assert content["baseline_uncertainty"] == pytest.approx(base.uncertainty.mean())
    assert content["scan_time_seconds"] == pytest.approx(rows.seconds.sum())
    for top in content["top_configs"]:
        mine = rows[(rows.i == top["i"]) & (rows.j == top["j"])]
        assert top["score"] == pytest.approx(mine.expected_score.mean())
        assert top["delta"] == pytest.approx(top["score"] - content["baseline_score"])
        assert top["log_odds"] == pytest.approx(mine.log_odds.mean())
        assert top["accuracy"] == pytest.approx(mine.correct.mean())
        assert top["mean_coverage"] == pytest.approx(0.97)
        assert top["block_size"] == top["j"] - top["i"]
        assert top["effective_depth"] == 6 + top["block_size"]


def test_all_results_are_in_the_order_of_the_grid_and_without_the_baseline(make_run: MakeRun) -> None:
    content = results_json(read_findings(make_run(depth=4)), probe="math")
    cells = [(result["i"], result["j"]) for result in content["all_results"]]
    assert cells == [(i, j) for i in range(4) for j in range(i + 1, 5)]
    assert content["configs_scanned"] == 10


def test_the_order_is_that_of_the_metric_and_the_file_says_which(make_run: MakeRun) -> None:
    findings = read_findings(make_run(metric="correct"))
    content = results_json(findings, probe="math")
    assert content["ranked_by"] == "correct"
    accuracies = [top["accuracy"] for top in content["top_configs"]]
    assert accuracies == sorted(accuracies, reverse=True)


def test_paths_that_are_no_block_stand_apart(make_run: MakeRun) -> None:
    run = make_run(parameters={"blocks": ["1,3", "1,2;4,5"], "paths": ["0..1,3..5"]})
    content = results_json(read_findings(run), probe="math")
    assert [(r["i"], r["j"]) for r in content["all_results"]] == [(1, 3)]
    assert sorted(r["path"] for r in content["other_results"]) == [[0, 1, 1, 2, 3, 4, 4, 5], [0, 1, 3, 4, 5]]
    assert [top["rank"] for top in content["top_configs"]] == [1]


def test_failed_configurations_are_named_and_have_no_score(make_run: MakeRun) -> None:
    def fails(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
        if task.block == Block(0, 1):
            return 0.0, Outcome.NON_FINITE
        return early_hurts_middle_helps(probe, task, sample, random)

    content = results_json(read_findings(make_run(behaviour=fails)), probe="math")
    assert (0, 1) not in [(r["i"], r["j"]) for r in content["all_results"]]
    assert content["failed"] == [{"path": [0, 0, 1, 2, 3, 4, 5], "outcome": "8 non_finite"}]


def test_answers_that_are_no_numbers_have_null_scores(make_run: MakeRun) -> None:
    content = results_json(read_findings(make_run(values=False)), probe="math")
    assert content["baseline_score"] is None
    assert content["top_configs"][0]["delta"] is None
    assert content["top_configs"][0]["log_odds"] is not None


def test_several_probes_have_a_file_each_and_the_first_has_the_plain_name(make_run: MakeRun) -> None:
    files = results_files(read_findings(make_run(probes=("math", "json"))))
    assert sorted(files) == ["results-json.json", "results-math.json", "results.json"]
    assert files["results.json"] == files["results-math.json"]
    assert files["results-json.json"]["probe"] == "json"
