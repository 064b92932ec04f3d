"""Several probes: the front by brute force, the balanced score by hand, layer-scan's file, and the pictures."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.paths import Block
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.report.figures import probe_figures
from neuroscan_farm.report.findings import Findings, read_findings
from neuroscan_farm.report.multi_probe import multi_probe, multi_probe_json
from neuroscan_farm.report.multi_probe_figures import probe_lines, probe_scatter
from tests.report.ablation_runs import close, mean_score
from tests.report.conftest import MakeRun

TWO = ("math", "json")
THREE = ("math", "json", "eq")


def effects(findings: Findings, probe: str) -> dict[str, float]:
    return {c.label: c.results[probe].effects[Metric.LOG_ODDS].mean for c in findings.configurations}


def test_one_probe_has_nothing_to_compare(make_run: MakeRun) -> None:
    findings = read_findings(make_run())
    assert multi_probe(findings) is None
    assert multi_probe_json(findings) is None


def test_the_front_is_what_no_other_beats(make_run: MakeRun) -> None:
    findings = read_findings(make_run(probes=THREE))
    found = [effects(findings, probe) for probe in THREE]
    values = {label: tuple(one[label] for one in found) for label in found[0]}
    front = {
        label
        for label, mine in values.items()
        if not any(
            all(y >= x for x, y in zip(mine, other, strict=True)) and other != mine
            for other in values.values()
        )
    }
    seen = multi_probe(findings)
    assert {standing.configuration.label for standing in seen.front} == front
    assert 0 < len(front) < len(values)


def test_the_balanced_score_is_the_mean_of_z_scored_effects(make_run: MakeRun) -> None:
    findings = read_findings(make_run(probes=TWO))
    found = [effects(findings, probe) for probe in TWO]
    for standing in multi_probe(findings).standings:
        label = standing.configuration.label
        z = [(one[label] - statistics.fmean(one.values())) / statistics.pstdev(one.values()) for one in found]
        assert standing.balanced == pytest.approx(statistics.fmean(z))
    scores = [standing.balanced for standing in multi_probe(findings).standings]
    assert scores == sorted(scores, reverse=True)


def test_the_file_has_layer_scans_fields_and_means_of_the_same_rows(make_run: MakeRun) -> None:
    run = make_run(probes=TWO)
    findings = read_findings(run)
    content = multi_probe_json(findings)
    assert {"model", "probes", "pareto_configs", "per_probe_best"} <= set(content)
    assert "z-score" in content["score_meaning"]
    scores = [one["normalized_score"] for one in content["pareto_configs"]]
    assert scores == sorted(scores, reverse=True)
    by_block = {(c.block.i, c.block.j): c for c in findings.configurations}
    for one in content["pareto_configs"]:
        c = by_block[one["i"], one["j"]]
        for probe in TWO:
            assert close(one["probe_scores"][probe], mean_score(run, c.path, probe))
            assert close(one["probe_log_odds"][probe], mean_score(run, c.path, probe, "log_odds"))
            assert close(one["probe_accuracies"][probe], mean_score(run, c.path, probe, "correct"))
    for probe in TWO:
        best = max(findings.configurations, key=lambda c: c.results[probe].effects[Metric.LOG_ODDS].mean)
        assert (content["per_probe_best"][probe]["i"], content["per_probe_best"][probe]["j"]) == (
            best.block.i,
            best.block.j,
        )
        assert close(content["per_probe_best"][probe]["score"], mean_score(run, best.path, probe))


def test_paths_that_are_no_block_stand_in_a_list_of_their_own(make_run: MakeRun) -> None:
    parameters = {"blocks": ["1,2;4,5", "2,4"], "paths": ["0..1,3..5"]}
    content = multi_probe_json(read_findings(make_run(probes=TWO, parameters=parameters)))
    both = content["pareto_configs"] + content["other_pareto_configs"]
    assert all(one["i"] is not None for one in content["pareto_configs"])
    assert all(one["i"] is None and one["path"] for one in content["other_pareto_configs"])
    assert both


def test_a_configuration_that_failed_on_one_probe_is_compared_on_none(make_run: MakeRun) -> None:
    def broken(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
        bad = task.block == Block(1, 2) and probe == "json"
        return float(random.normal()), Outcome.NON_FINITE if bad else Outcome.OK

    findings = read_findings(make_run(probes=TWO, behaviour=broken))
    assert len(multi_probe(findings).standings) == len(findings.configurations) - 1


def test_nothing_measured_is_no_crash(make_run: MakeRun) -> None:
    findings = read_findings(make_run(probes=TWO, share=0.0))
    content = multi_probe_json(findings)
    assert content["pareto_configs"] == []
    assert content["per_probe_best"] == {}
    assert probe_figures(findings, several=multi_probe(findings), cross=None) == []


def test_the_scatter_of_two_probes_draws_the_steps_of_the_front(make_run: MakeRun) -> None:
    findings = read_findings(make_run(probes=TWO))
    seen = multi_probe(findings)
    figure = probe_scatter(findings, seen)
    by_name = {trace.name: trace for trace in figure.data}
    front = by_name["Pareto front"]
    drawn, expected = sorted(zip(front.x, front.y, strict=True)), sorted(s.effects for s in seen.front)
    assert np.allclose(drawn, expected, atol=1e-6)
    assert len(by_name["steps of the front"].x) == len(seen.front)
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("math (nats)", "json (nats)")
    assert not figure.layout.updatemenus


def test_of_three_probes_menus_choose_two_and_a_second_view_shows_all(make_run: MakeRun) -> None:
    findings = read_findings(make_run(probes=THREE))
    seen = multi_probe(findings)
    figure = probe_scatter(findings, seen)
    x, y = figure.layout.updatemenus
    assert [button.label for button in x.buttons] == ["x: math", "x: json", "x: eq"]
    assert y.active == 1
    values, changed = y.buttons[2].args
    assert [len(one) for one in values["y"]] == [len(trace.y) for trace in figure.data]
    front = [trace.name for trace in figure.data].index("Pareto front")
    assert values["y"][front] == pytest.approx([s.effects[2] for s in seen.front], abs=1e-5)
    assert changed["yaxis.title.text"] == "eq (nats)"
    lines = probe_lines(findings, seen)
    assert len(lines.data) == 1 + len(seen.front)
    assert tuple(lines.data[1].x) == THREE
