"""Layer profiles over several probes: neuro-scan's definitions on the same rows, and what is drawn of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.report.cross_probe import cross_probe, cross_probe_json, cross_text
from neuroscan_farm.report.cross_probe_figures import correlation_figure, profiles_figure
from neuroscan_farm.report.figures import probe_figures
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.store.run_directory import RunDirectory
from tests.report.ablation_runs import close, losing, mean_score, without
from tests.report.conftest import MakeRun

DEPTH = 9
# Layers 0 and 8 matter to all; 1 to math alone, 2 to json alone; the fifth of each is a filler.
OTHER = {
    "math": (3.0, 1.2, 0.0, 0.5, 0.6, 0.0, 0.0, 0.01, 2.0),
    "json": (2.0, 0.0, -1.0, 0.5, 0.6, 0.0, 0.02, 0.0, 1.5),
}
FLAT = (0.0,) * DEPTH


def run_of(make_run: MakeRun, **options: object) -> RunDirectory:
    given = {
        "analysis": "ablation",
        "depth": DEPTH,
        "probes": ("math", "json"),
        "behaviour": losing(FLAT, {}, noise=0.001, other=OTHER),
    }
    return make_run(**(given | options))


def test_the_file_follows_neuro_scans_definitions(make_run: MakeRun) -> None:
    run = run_of(make_run)
    content = cross_probe_json(read_findings(run))
    theirs = "model probes total_layers universal_layers probe_specific_layers correlation_matrix per_probe"
    assert set(theirs.split()) <= set(content)
    deltas, tops = {}, {}
    for one in content["per_probe"]:
        probe = one["probe"]
        baseline = mean_score(run, without(depth=DEPTH), probe)
        assert close(one["baseline"], baseline)
        mine = [baseline - mean_score(run, without(layer, depth=DEPTH), probe) for layer in range(DEPTH)]
        assert all(map(close, one["ablation_deltas"], mine))
        tops[probe] = sorted(range(DEPTH), key=lambda layer, mine=mine: -abs(mine[layer]))[:5]
        assert one["top_layers"] == tops[probe]
        deltas[probe] = mine
    assert content["universal_layers"] == sorted(set(tops["math"]) & set(tops["json"]))
    assert content["probe_specific_layers"] == {
        "math": sorted(set(tops["math"]) - set(tops["json"])),
        "json": sorted(set(tops["json"]) - set(tops["math"])),
    }
    expected = np.corrcoef([deltas["math"], deltas["json"]])
    assert np.allclose(content["correlation_matrix"], expected)
    ranks = spearmanr(deltas["math"], deltas["json"]).statistic
    assert content["rank_correlation_matrix"][0][1] == pytest.approx(ranks)


def test_planted_layers_are_universal_and_specific_on_the_runs_own_metric(make_run: MakeRun) -> None:
    findings = read_findings(run_of(make_run))
    seen = cross_probe(findings)
    assert seen.universal == (0, 3, 4, 8)
    assert seen.specific == {"math": (1,), "json": (2,)}
    assert seen.profiles["json"][2] == pytest.approx(-1.0, abs=0.01)
    said = cross_text(seen, findings)
    assert "Universal: layers 0, 3, 4, 8, whose loss of log-odds of the right answer stands out" in said
    assert "On math alone: layers 1, 7." in said
    assert "On json alone: layer 6." in said  # not 2: without it json gains
    assert cross_probe_json(findings)["by_ranking_metric"]["universal_layers"] == [0, 3, 4, 8]


def test_layers_that_were_not_measured_are_absent_and_not_zero(make_run: MakeRun) -> None:
    run = run_of(make_run, parameters={"layers": "0..3"})
    content = cross_probe_json(read_findings(run))
    assert content["per_probe"][0]["ablation_deltas"][4:] == [None] * 5
    assert len(content["per_probe"][0]["top_layers"]) == 4


def test_a_profile_without_spread_has_no_correlation(make_run: MakeRun) -> None:
    flat = losing(FLAT, {}, noise=0.0, other={"math": OTHER["math"]})
    content = cross_probe_json(read_findings(run_of(make_run, behaviour=flat)))
    assert content["correlation_matrix"] == [[1.0, None], [None, 1.0]]


def test_one_probe_or_no_ablations_have_no_profiles(make_run: MakeRun) -> None:
    assert cross_probe_json(read_findings(run_of(make_run, probes=("math",)))) is None
    assert cross_probe_json(read_findings(make_run(probes=("math", "json")))) is None


def test_the_profiles_are_drawn_with_their_signs_dots_and_stars(make_run: MakeRun) -> None:
    findings = read_findings(run_of(make_run))
    figure = profiles_figure(findings, cross_probe(findings))
    by_name = {trace.name: trace for trace in figure.data}
    assert np.array(by_name["loss"].z)[1][2] == pytest.approx(-1.0, abs=0.01)
    assert by_name["universal: the loss stands out on every probe"].x == (0, 3, 4, 8)
    sure = set(zip(by_name["adjusted p below 0.05"].x, by_name["adjusted p below 0.05"].y, strict=True))
    expected = {
        (layer, probe)
        for layer in range(DEPTH)
        for probe in ("math", "json")
        for c in findings.configurations
        if c.path == without(layer, depth=DEPTH)
        and c.results[probe].effects[Metric.LOG_ODDS].p_adjusted < 0.05
    }
    assert sure == expected
    assert (0, "math") in sure


def test_of_two_probes_the_correlation_is_a_sentence_and_of_three_a_picture(make_run: MakeRun) -> None:
    findings = read_findings(run_of(make_run))
    names = [one.name for one in probe_figures(findings, several=None, cross=cross_probe(findings))]
    assert names == ["profiles"]
    three = read_findings(run_of(make_run, probes=("math", "json", "eq")))
    seen = cross_probe(three)
    assert [one.name for one in probe_figures(three, several=None, cross=seen)] == ["profiles", "correlation"]
    (cells,) = correlation_figure(three, seen).data
    assert cells.text[0][0] == "1.00"
    assert cells.z[0][1] == pytest.approx(seen.rank_correlation[0][1])


def test_a_probe_without_rows_makes_no_layer_specific_to_the_others(make_run: MakeRun) -> None:
    def failing(*names: str):  # type: ignore[no-untyped-def]
        measured = losing(FLAT, {}, noise=0.001, other=OTHER)

        def behaviour(
            probe: str, task: Task, sample: int, random: np.random.Generator
        ) -> tuple[float, Outcome]:
            value, _ = measured(probe, task, sample, random)
            return value, Outcome.ERROR if probe in names else Outcome.OK

        return behaviour

    findings = read_findings(run_of(make_run, behaviour=failing("json")))
    seen = cross_probe(findings)
    assert (seen.universal, seen.specific) == ((), {})
    assert "known on 1 of 2 probes, so there is nothing to compare yet" in cross_text(seen, findings)
    three = read_findings(run_of(make_run, probes=("math", "json", "eq"), behaviour=failing("eq")))
    seen = cross_probe(three)
    assert seen.universal == (0, 3, 4, 8)
    assert "on all of math, json." in cross_text(seen, three)


def test_two_layers_have_no_correlation(make_run: MakeRun) -> None:
    content = cross_probe_json(read_findings(run_of(make_run, parameters={"layers": "0,1"})))
    assert content["correlation_matrix"] == [[1.0, None], [None, 1.0]]


def test_layers_of_noise_are_neither_universal_nor_specific(make_run: MakeRun) -> None:
    """Lists of the five largest of nine layers meet whatever is in them, so neuro-scan's file names some."""
    none = losing(FLAT, {}, noise=1.0, other=dict.fromkeys(("math", "json"), FLAT))
    findings = read_findings(run_of(make_run, behaviour=none))
    seen = cross_probe(findings)
    assert seen.universal
    assert (seen.needed_by_all, seen.needed_by_one) == ((), {})
    said = cross_text(seen, findings)
    assert (
        "No layer's loss of log-odds of the right answer stands out (adjusted p below 0.05) on every probe"
        in said
    )
    assert "alone" not in said
    names = {trace.name for trace in profiles_figure(findings, seen).data}
    assert not any("universal" in name for name in names)
    content = cross_probe_json(findings)
    assert content["by_ranking_metric"]["universal_layers"] == list(seen.universal)
    assert content["by_ranking_metric"]["needed_by_all"] == []


def test_probes_of_one_sample_make_no_layer_universal(make_run: MakeRun) -> None:
    findings = read_findings(run_of(make_run, n_samples=1))
    seen = cross_probe(findings)
    assert seen.needed == {"math": None, "json": None}
    assert "Only 0 of 2 probes have p-values, so no layer is called universal." in cross_text(seen, findings)
