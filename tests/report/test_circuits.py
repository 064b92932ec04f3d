"""circuit.json against neuro-scan's formula on the same rows; which pairs are of which kind, and why not."""

from __future__ import annotations

import csv
import io
import itertools
import json

import numpy as np
import pytest

from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.report.circuits import (
    COLUMNS,
    circuit_files,
    circuit_json,
    circuit_of,
    circuit_text,
    interactions_csv,
)
from neuroscan_farm.report.figures import figures
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.interaction_map import interaction_map
from neuroscan_farm.report.write import write_report
from tests.report.ablation_runs import DEPTH, PLANTED, close, losing, mean_score, without
from tests.report.conftest import MakeRun

EXHAUSTIVE = {"strategy": "exhaustive"}
PAIRS = list(itertools.combinations(range(DEPTH), 2))


def circuits(make_run: MakeRun, **options: object):  # type: ignore[no-untyped-def]
    given = {"analysis": "circuits", "parameters": EXHAUSTIVE, "behaviour": losing(), "n_samples": 16}
    return make_run(**(given | options))


def test_every_interaction_equals_neuro_scans_formula(make_run: MakeRun) -> None:
    run = circuits(make_run)
    findings = read_findings(run)
    circuit = circuit_of(findings, metric=Metric.EXPECTED_SCORE)
    content = circuit_json(findings, circuit, probe="math")
    theirs = "strategy top_k total_pairs total_evals time_seconds synergistic redundant all_interactions"
    assert set(theirs.split()) <= set(content)
    assert content["strategy"] == "exhaustive"
    assert content["total_pairs"] == len(PAIRS)
    assert content["total_evals"] == len(PAIRS) * 16
    baseline = mean_score(run, without(), "math")
    found = {(one["layer_i"], one["layer_j"]): one for one in content["all_interactions"]}
    assert sorted(found) == PAIRS
    for (a, b), one in found.items():
        single = [baseline - mean_score(run, without(layer), "math") for layer in (a, b)]
        joint = baseline - mean_score(run, without(a, b), "math")
        assert close(one["joint_delta"], joint)
        assert close(one["individual_delta_i"], single[0])
        assert close(one["individual_delta_j"], single[1])
        assert close(one["interaction_effect"], joint - sum(single))
        low, high = one["interaction_low"], one["interaction_high"]
        kind = "synergistic" if low > 0 else "redundant" if high < 0 else "independent"
        assert one["interaction_type"] == kind
    by_kind = {kind: [pair for pair, one in found.items() if one["interaction_type"] == kind] for kind in
               ("synergistic", "redundant")}  # fmt: skip
    for kind, sign in (("synergistic", -1), ("redundant", 1)):
        listed = [(one["layer_i"], one["layer_j"]) for one in content[kind]]
        assert sorted(listed) == sorted(by_kind[kind])
        sizes = [sign * one["interaction_effect"] for one in content[kind]]
        assert sizes == sorted(sizes)


def test_planted_pairs_are_found_with_their_sign_on_the_runs_own_metric(make_run: MakeRun) -> None:
    findings = read_findings(circuits(make_run))
    circuit = circuit_of(findings)
    found = circuit.interactions["math"]
    assert found[1, 2].kind == "synergistic"
    assert found[2, 4].kind == "redundant"
    for pair, one in found.items():
        assert one.mean == pytest.approx(PLANTED.get(pair, 0.0), abs=0.12)
    assert circuit.strongest("math")[0].layer_b == 2
    assert [one.kind for one in circuit.strongest("math")[:2]] == ["synergistic", "redundant"]


def test_the_table_has_a_row_for_each_pair_and_view(make_run: MakeRun) -> None:
    findings = read_findings(circuits(make_run, probes=("math", "json")))
    rows = list(csv.DictReader(io.StringIO(interactions_csv(findings, circuit_of(findings)))))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 3 * len(PAIRS)
    assert {row["probe"] for row in rows} == {"*", "math", "json"}
    assert {row["metric"] for row in rows} == {"log_odds"}
    mean, parts = (
        [float(row["interaction"]) for row in rows if (row["probe"] == "*") is over and row["layer_a"] == "1" and
         row["layer_b"] == "2"]
        for over in (True, False)
    )  # fmt: skip
    assert mean[0] == pytest.approx(sum(parts) / 2)


def test_a_probe_of_one_sample_leaves_every_pair_undecided_and_says_why(make_run: MakeRun) -> None:
    findings = read_findings(circuits(make_run, n_samples=1))
    circuit = circuit_of(findings)
    assert circuit.count("math", "undecided") == len(PAIRS)
    reasons = {one.reason for one in circuit.interactions["math"].values()}
    assert len(reasons) == 1
    (reason,) = reasons
    assert reason
    assert f"Undecided: {reason}." in circuit_text(circuit, findings, view="math")
    content = circuit_json(findings, circuit_of(findings, metric=Metric.EXPECTED_SCORE), probe="math")
    assert {one["interaction_type"] for one in content["all_interactions"]} == {"undecided"}
    assert content["synergistic"] == content["redundant"] == []


def test_pairs_that_were_not_asked_for_are_blank_and_those_that_wait_say_so(make_run: MakeRun) -> None:
    paths = [without(1, 2), without(2, 4)]
    run = circuits(make_run, parameters={"strategy": "fast", "top_layers": 0}, paths=paths)
    findings = read_findings(run)
    circuit = circuit_of(findings)
    assert sorted(circuit.pairs) == [(1, 2), (2, 4)]
    figure = interaction_map(findings, circuit, probe=None)
    drawn = np.concatenate(
        [np.argwhere(np.isfinite(np.array(t.z, dtype=float))) for t in figure.data if "decided" in t.name]
    )
    assert {tuple(place) for place in drawn.tolist()} == {(1, 2), (2, 1), (2, 4), (4, 2)}

    half = read_findings(circuits(make_run, share=0.5, shard_size=4))
    waiting = circuit_of(half)
    assert 0 < len(waiting.interactions["math"]) < len(waiting.pairs)
    figure = interaction_map(half, waiting, probe=None)
    (states,) = [t for t in figure.data if t.name == "without an interaction"]
    assert states.z[4][5] == states.z[5][4] == 0
    assert "not measured yet" in states.customdata[4][5]
    assert f"{len(waiting.interactions['math'])} of 15 planned pairs" in circuit_text(
        waiting, half, view="math"
    )


def test_a_pair_whose_single_failed_has_no_interaction_and_says_so(make_run: MakeRun) -> None:
    def broken(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
        value, _ = losing()(probe, task, sample, random)
        return value, Outcome.ERROR if task.path == without(3) and sample == 2 else Outcome.OK

    findings = read_findings(circuits(make_run, behaviour=broken))
    circuit = circuit_of(findings)
    assert sorted(set(PAIRS) - set(circuit.interactions["math"])) == [pair for pair in PAIRS if 3 in pair]
    figure = interaction_map(findings, circuit, probe=None)
    (states,) = [t for t in figure.data if t.name == "without an interaction"]
    assert "one of the two layers alone" in states.customdata[3][0]


def test_the_map_is_symmetric_pale_where_undecided_and_dotted_where_sure(make_run: MakeRun) -> None:
    findings = read_findings(circuits(make_run))
    circuit = circuit_of(findings)
    by_name = {trace.name: trace for trace in interaction_map(findings, circuit, probe="math").data}
    decided, pale = by_name["decided"], by_name["independent or undecided"]
    found = circuit.interactions["math"]
    for trace, kinds in ((decided, {"synergistic", "redundant"}), (pale, {"independent", "undecided"})):
        z = np.array(trace.z, dtype=float)
        assert np.array_equal(z, z.T, equal_nan=True)
        drawn = {(a, b) for a, b in np.argwhere(np.isfinite(z)).tolist() if a < b}
        assert drawn == {pair for pair, one in found.items() if one.kind in kinds}
        assert trace.zmin == -trace.zmax == -decided.zmax
    # However large, what is not decided is nearer to white than anything that the bar shows for the same size.
    assert min(int(colour[k : k + 2], 16) for _, colour in pale.colorscale for k in (1, 3, 5)) >= 0xD0
    assert decided.showscale
    assert not pale.showscale
    assert "pale: not decided, the interval holds zero" in by_name
    assert decided.z[1][2] == pytest.approx(found[1, 2].mean)
    row = decided.customdata[1][2]
    assert row[0] == "1 and 2"
    assert row[1] == "synergistic"
    dots = by_name["adjusted p below 0.05"]
    sure = {pair for pair, one in found.items() if one.kind != "independent" and one.p_adjusted < 0.05}
    assert {(x, y) for x, y in zip(dots.x, dots.y, strict=True) if x < y} == sure
    assert (1, 2) in sure


def test_answers_that_are_no_numbers_have_our_table_and_an_empty_circuit_with_the_reason(
    make_run: MakeRun,
) -> None:
    findings = read_findings(circuits(make_run, values=False))
    files = circuit_files(findings, circuit_of(findings))
    assert files["circuit.json"]["all_interactions"] == []
    assert files["circuit.json"]["reason"] == "the answers of probe math are no numbers"
    assert files["interactions.csv"].count("\n") == 1 + len(PAIRS)


def test_before_the_baseline_there_are_no_interactions_and_no_crash(make_run: MakeRun) -> None:
    findings = read_findings(circuits(make_run, with_baseline=False))
    circuit = circuit_of(findings)
    assert not circuit.interactions["math"]
    assert "nothing is known of interactions yet" in circuit_text(circuit, findings, view="math")
    assert next(one.name for one in figures(findings, probe=None, circuit=circuit)) == "interactions-log_odds"


def test_the_report_of_a_circuits_run_holds_its_files_and_its_words(make_run: MakeRun) -> None:
    run = circuits(make_run)
    files = write_report(run)
    assert "15 of 15 planned pairs are measured on math" in " ".join(files.summary.split())
    content = json.loads((run.root / "report" / "circuit.json").read_text())
    assert len(content["all_interactions"]) == 15
    page = files.page.read_text()
    assert "Pairs of layers" in page
    assert "<td>1 and 2</td><td>synergistic</td>" in page


def test_a_run_without_pairs_has_no_circuit(make_run: MakeRun) -> None:
    assert circuit_of(read_findings(make_run(analysis="ablation", behaviour=losing()))) is None


def test_where_one_of_three_probes_has_no_rows_there_is_no_mean_over_the_probes(make_run: MakeRun) -> None:
    def behaviour(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
        value, _ = losing()(probe, task, sample, random)
        return value, Outcome.ERROR if probe == "eq" else Outcome.OK

    circuit = circuit_of(
        read_findings(circuits(make_run, probes=("math", "json", "eq"), behaviour=behaviour))
    )
    counts = {view: len(found) for view, found in circuit.interactions.items()}
    assert counts == {None: 0, "math": len(PAIRS), "json": len(PAIRS), "eq": 0}
