"""report.json and ablation.csv against neuro-scan's formulas on the same rows, and the chart."""

from __future__ import annotations

import csv
import io
import json

import pytest

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.ablation import ablation_csv, ablation_files, ablation_json
from neuroscan_farm.report.ablation_chart import ablation_chart
from neuroscan_farm.report.figures import figures
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.write import write_report
from tests.report.ablation_runs import DEPTH, LOSSES, close, losing, mean_score, without
from tests.report.conftest import MakeRun

COMPONENTS = {"components": ["layer", "attention", "mlp"]}


def test_the_report_has_neuro_scans_fields_and_formulas(make_run: MakeRun) -> None:
    run = make_run(analysis="ablation", behaviour=losing())
    content = ablation_json(read_findings(run), probe="math")
    theirs = "model probe total_layers baseline_score baseline_uncertainty scan_time_seconds ablation_results"
    theirs += " top_important_layers layer_labels logit_lens_trajectory attention_entropy block_influence"
    assert set(theirs.split()) <= set(content)
    baseline = mean_score(run, without(), "math")
    assert close(content["baseline_score"], baseline)
    assert [row["layer_idx"] for row in content["ablation_results"]] == list(range(DEPTH))
    for row in content["ablation_results"]:
        score = mean_score(run, without(row["layer_idx"]), "math")
        assert close(row["score"], score)
        assert close(row["score_delta"], baseline - score)
        assert close(row["accuracy"], mean_score(run, without(row["layer_idx"]), "math", "correct"))
        assert row["effect"] == pytest.approx(-LOSSES[row["layer_idx"]], abs=0.1)
        assert row["effect_low"] < row["effect"] < row["effect_high"]
    by_size = sorted(content["ablation_results"], key=lambda row: -abs(row["score_delta"]))
    assert content["top_important_layers"] == [row["layer_idx"] for row in by_size]
    assert content["layer_labels"] == {}
    assert content["attention_entropy"] is None
    assert content["logit_lens_trajectory"] == []


def test_the_csv_begins_with_neuro_scans_columns_and_has_a_line_for_each_layer(make_run: MakeRun) -> None:
    run = make_run(analysis="ablation", behaviour=losing())
    text = ablation_csv(read_findings(run), probe="math")
    assert text.startswith("layer_idx,score,score_delta,uncertainty,log_odds,accuracy,label,")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["layer_idx"] for row in rows] == [str(layer) for layer in range(DEPTH)]
    assert {row["label"] for row in rows} == {"unknown"}
    assert close(float(rows[2]["score"]), mean_score(run, without(2), "math"))


def test_components_have_lists_and_tables_of_their_own(make_run: MakeRun) -> None:
    run = make_run(analysis="ablation", parameters=COMPONENTS, behaviour=losing())
    findings = read_findings(run)
    content = ablation_json(findings, probe="math")
    assert len(content["ablation_results"]) == DEPTH
    halves = [(row["component"], row["layer_idx"]) for row in content["component_results"]]
    assert halves == [(part, layer) for part in ("attention", "mlp") for layer in range(DEPTH)]
    assert set(ablation_files(findings)) == {
        "report.json",
        "ablation.csv",
        "ablation-of-attention.csv",
        "ablation-of-mlp.csv",
    }
    (row,) = [
        row for row in content["component_results"] if row["layer_idx"] == 0 and row["component"] == "mlp"
    ]
    assert row["effect"] == pytest.approx(-LOSSES[0] / 2, abs=0.1)


def test_layers_that_were_not_asked_for_or_not_measured_are_absent(make_run: MakeRun) -> None:
    run = make_run(analysis="ablation", parameters={"layers": "1..3"}, behaviour=losing())
    rows = ablation_json(read_findings(run), probe="math")["ablation_results"]
    assert [row["layer_idx"] for row in rows] == [1, 2, 3]
    waiting = make_run(analysis="ablation", behaviour=losing(), with_baseline=False)
    content = ablation_json(read_findings(waiting), probe="math")
    assert content["baseline_score"] is None
    assert {row["score_delta"] for row in content["ablation_results"]} == {None}
    assert content["top_important_layers"] == []


def test_answers_that_are_no_numbers_leave_neuro_scans_scores_empty(make_run: MakeRun) -> None:
    run = make_run(analysis="ablation", behaviour=losing(), values=False)
    rows = ablation_json(read_findings(run), probe="math")["ablation_results"]
    assert {row["score"] for row in rows} == {row["score_delta"] for row in rows} == {None}
    assert all(row["effect"] is not None for row in rows)


def test_the_chart_shows_losses_upwards_with_intervals_and_fades_what_is_not_sure(make_run: MakeRun) -> None:
    findings = read_findings(make_run(analysis="ablation", behaviour=losing(noise=0.3), n_samples=16))
    figure = ablation_chart(findings, probe=None)
    (bars,) = figure.data
    assert list(bars.x) == list(range(DEPTH))
    effects = {c.path: c.results[None].effects[Metric.LOG_ODDS] for c in findings.configurations}
    for layer, height, up, down, opacity in zip(
        bars.x, bars.y, bars.error_y.array, bars.error_y.arrayminus, bars.marker.opacity, strict=True
    ):
        effect = effects[without(layer)]
        assert height == pytest.approx(-effect.mean)
        assert height + up == pytest.approx(-effect.low)
        assert height - down == pytest.approx(-effect.high)
        assert (opacity == 1.0) == (effect.p_adjusted < 0.05)
    assert {1.0, 0.45} == set(bars.marker.opacity)


def test_components_stand_side_by_side(make_run: MakeRun) -> None:
    findings = read_findings(make_run(analysis="ablation", parameters=COMPONENTS, behaviour=losing()))
    figure = ablation_chart(findings, probe=None)
    assert [bar.name for bar in figure.data] == ["whole layer", "its attention", "its feed-forward part"]
    assert figure.layout.barmode == "group"
    assert "attention, layer 2" in figure.data[1].customdata[2][0]


def test_an_ablation_has_its_chart_instead_of_bars_and_no_heatmap(make_run: MakeRun) -> None:
    findings = read_findings(make_run(analysis="ablation", behaviour=losing()))
    assert [one.name for one in figures(findings, probe=None)] == ["ablation-log_odds", "ablation-correct"]


def test_the_files_are_written_and_those_of_several_probes_carry_their_names(make_run: MakeRun) -> None:
    run = make_run(analysis="ablation", behaviour=losing(), probes=("math", "json"))
    files = write_report(run)
    names = {entry.name for entry in (run.root / "report").iterdir()}
    assert {
        "report.json",
        "report-math.json",
        "report-json.json",
        "ablation.csv",
        "ablation-json.csv",
    } <= names
    assert json.loads((run.root / "report" / "report.json").read_text())["probe"] == "math"
    assert {address.name for address in files.other} <= names


def test_a_grid_of_blocks_has_no_ablation_files(make_run: MakeRun) -> None:
    run = make_run()
    write_report(run)
    assert not {"report.json", "ablation.csv", "circuit.json", "multi_probe.json"} & {
        entry.name for entry in (run.root / "report").iterdir()
    }


def test_half_a_layer_is_not_merged(make_run: MakeRun) -> None:
    parameters = {"components": ["attention"]}
    run = make_run(analysis="ablation", parameters=parameters, behaviour=losing())
    assert write_report(run).mergekit == ()
