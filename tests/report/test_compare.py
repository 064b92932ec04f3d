"""Two runs side by side: what is matched, what is refused, and what is said."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.errors import RequestError
from neuroscan_farm.report.compare import compare_runs, comparison_dict, comparison_text
from neuroscan_farm.report.findings import Findings, read_findings
from tests.report.ablation_runs import losing
from tests.report.conftest import MakeRun


def two(make_run: MakeRun, first: dict[str, object], second: dict[str, object]) -> tuple[Findings, Findings]:
    return (
        read_findings(make_run(**({"seed": 1, "model": "acme/one"} | first))),
        read_findings(make_run(**({"seed": 2, "model": "acme/two"} | second))),
    )


def test_runs_of_one_depth_are_matched_by_path(make_run: MakeRun) -> None:
    one, other = two(make_run, {}, {"parameters": {"min_block": 2}})
    seen = compare_runs(one, other)
    (view,) = seen.views
    assert not seen.by_share_of_depth
    assert all(a.path == b.path for a, b in view.matched)
    assert len(view.matched) == len(other.configurations) == 15
    assert seen.unmatched == (6, 0)
    changes = np.array(
        [[c.results[None].effects[Metric.LOG_ODDS].mean for c in both] for both in view.matched]
    )
    assert view.correlation == pytest.approx(pearsonr(*changes.T).statistic)
    assert view.rank_correlation == pytest.approx(spearmanr(*changes.T).statistic)


def test_models_of_different_depths_are_matched_by_share_of_it_and_each_once(make_run: MakeRun) -> None:
    one, other = two(make_run, {"depth": 6}, {"depth": 12})
    for first, second, scale in ((one, other, 2), (other, one, 0.5)):
        seen = compare_runs(first, second)
        assert seen.by_share_of_depth
        (view,) = seen.views
        assert len(view.matched) == 21
        for a, b in view.matched:
            assert (a.block.i * scale, a.block.j * scale) == (b.block.i, b.block.j)
    assert seen.unmatched == (78 - 21, 0)


def test_ablations_are_matched_at_the_same_share_of_the_depth(make_run: MakeRun) -> None:
    six, nine = (
        {"analysis": "ablation", "depth": depth, "behaviour": losing((0.1,) * depth, {})} for depth in (6, 9)
    )
    (view,) = compare_runs(*two(make_run, six, nine)).views
    assert len(view.matched) == 6
    labels = {(a.label, b.label) for a, b in view.matched}
    assert ("without 0", "without 0") in labels
    assert ("without 5", "without 8") in labels


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({}, {"analysis": "ablation"}, "analysis (duplication and ablation)"),
        ({}, {"metric": "correct"}, "metric (log_odds and correct; --metric ranks both by one of them)"),
        ({}, {"probes": ("json",)}, "probes (math and json: none in common)"),
        ({}, {"n_samples": 9}, "probes (math and math: math by name, but with other samples)"),
        (
            {},
            {"analysis": "ablation", "metric": "correct"},
            "analysis (duplication and ablation); metric (log_odds and correct",
        ),
    ],
)
def test_runs_that_differ_are_refused_with_all_that_differs(
    make_run: MakeRun, first: dict[str, object], second: dict[str, object], said: str
) -> None:
    with pytest.raises(RequestError, match=re.escape(said)):
        compare_runs(*two(make_run, first, second))


def test_a_run_is_not_compared_with_itself(make_run: MakeRun) -> None:
    findings = read_findings(make_run())
    with pytest.raises(RequestError, match="both are the same run"):
        compare_runs(findings, findings)


def test_runs_without_a_common_configuration_are_refused(make_run: MakeRun) -> None:
    one, other = two(make_run, {"parameters": {"blocks": ["1,2"]}}, {"parameters": {"blocks": ["2,4"]}})
    with pytest.raises(RequestError, match="no configuration of one has a counterpart in the other"):
        compare_runs(one, other)


def test_the_mean_over_probes_is_compared_where_both_have_the_same_and_else_each_common_one(
    make_run: MakeRun,
) -> None:
    both = {"probes": ("math", "json")}
    assert [view.probe for view in compare_runs(*two(make_run, both, both)).views] == [None, "math", "json"]
    three = {"probes": ("math", "json", "eq")}
    seen = compare_runs(*two(make_run, both, three))
    assert [view.probe for view in seen.views] == ["math", "json"]
    assert "on json, changes" in comparison_text(seen, probe="json")
    with pytest.raises(RequestError, match="probe eq is not in both runs; in common are: math, json"):
        comparison_text(seen, probe="eq")


def test_the_text_shows_the_best_of_each_run_with_intervals(make_run: MakeRun) -> None:
    one, other = two(make_run, {}, {})
    text = comparison_text(compare_runs(one, other), count=2)
    for findings in (one, other):
        for c in findings.ranked()[:2]:
            assert c.label in text
    assert "acme/one" in text
    assert re.search(
        r"21 configurations have a change in both; their changes correlate by -?\d\.\d\d \(Pearson\)", text
    )
    half = compare_runs(*two(make_run, {}, {"share": 0.5, "shard_size": 4}))
    assert "13 of 22 tasks measured" in comparison_text(half)


def test_the_data_holds_every_matched_configuration(make_run: MakeRun) -> None:
    data = comparison_dict(compare_runs(*two(make_run, {}, {})))
    assert data["schema_version"] == 1
    (view,) = data["views"]
    assert len(view["configurations"]) == 21
    first, second = view["configurations"][0]
    assert first["rank"] == 1
    assert first["path"] == second["path"]
    assert first["effect_low"] < first["effect"] < first["effect_high"]


def test_runs_that_hold_out_other_samples_say_so(make_run: MakeRun) -> None:
    seen = compare_runs(*two(make_run, {"n_samples": 16}, {"n_samples": 16, "confirm": 0.5}))
    assert "different shares of the samples (none and 0.5)" in comparison_text(seen)
    assert [run["held_out"] for run in comparison_dict(seen)["runs"]] == [None, 0.5]
    same = compare_runs(*two(make_run, {}, {}))
    assert "hold out" not in comparison_text(same)
