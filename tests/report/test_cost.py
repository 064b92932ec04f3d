"""Cost beside benefit, and controls that cost as much as the winner."""

from __future__ import annotations

import json
from statistics import fmean

import numpy as np
import pytest

from neuroscan_farm.domain.costs import Cost
from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.domain.paths import LayerPath, parse_blocks
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.report.controls import controls_of, controls_text, windows_of
from neuroscan_farm.report.cost import cost_front, cost_text
from neuroscan_farm.report.cost_figure import cost_figure
from neuroscan_farm.report.findings import Findings, read_findings
from neuroscan_farm.report.write import write_report
from tests.report.conftest import MakeRun


def mean_of(findings: Findings, c: object) -> float:
    return c.results[None].effects[findings.metric].mean  # type: ignore[attr-defined]


def longer_is_better(
    probe: str, task: Task, sample: int, random: np.random.Generator
) -> tuple[float, Outcome]:
    gain = 0.1 * (task.block.j - task.block.i) + 0.01 * task.block.i if task.block else 0.0
    return gain + 0.1 * sample, Outcome.OK


def test_the_front_is_what_nothing_beats_in_effect_and_cost(make_run: MakeRun) -> None:
    findings = read_findings(make_run(depth=8))
    points = {c.task_id: (mean_of(findings, c), c.n_layers_run) for c in findings.configurations}
    points["untouched"] = (0.0, 8)
    expected = {
        name
        for name, (effect, cost) in points.items()
        if not any(
            other[0] >= effect and other[1] <= cost and other != (effect, cost) for other in points.values()
        )
    } - {"untouched"}
    front = cost_front(findings, probe=None)
    assert {c.task_id for c in front} == expected
    assert [c.n_layers_run for c in front] == sorted(c.n_layers_run for c in front)


def test_where_longer_is_better_the_front_has_a_block_of_each_length(make_run: MakeRun) -> None:
    front = cost_front(read_findings(make_run(behaviour=longer_is_better)), probe=None)
    assert [c.label for c in front] == ["(5, 6)", "(4, 6)", "(3, 6)", "(2, 6)", "(1, 6)", "(0, 6)"]


def test_what_costs_more_and_is_no_better_than_the_untouched_model_is_not_on_the_front(
    make_run: MakeRun,
) -> None:
    def hurts(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
        return (-1.0 if task.block else 0.0) + 0.1 * sample, Outcome.OK

    findings = read_findings(make_run(behaviour=hurts))
    assert cost_front(findings, probe=None) == []
    figure = cost_figure(findings, probe=None)
    (front,) = [trace for trace in figure.data if trace.name.startswith("front")]
    assert list(zip(front.x, front.y, strict=True)) == [(0, 0.0)]


def test_the_figure_shows_every_ranked_configuration_at_its_added_layers(make_run: MakeRun) -> None:
    findings = read_findings(make_run())
    points = cost_figure(findings, probe=None).data[0]
    expected = sorted((c.n_layers_run - 6, mean_of(findings, c)) for c in findings.configurations)
    assert np.allclose(sorted(zip(points.x, points.y, strict=True)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (Cost(3, 1_234_567, 4096, 1.25), "+3 layers, +1.2 M parameters, +4,096 bytes of KV cache a token, ×1.25 layer time"),
        (Cost(-1, None, None, 0.9), "-1 layer, parameters not known, KV cache not known, ×0.90 layer time"),
        (Cost(-1, -9312, -128, 0.9), "-1 layer, -9.3 k parameters, -128 bytes of KV cache a token, ×0.90 layer time"),
        (Cost(0, 320, 0, 1.0), "as many layers, +320 parameters, +0 bytes of KV cache a token, ×1.00 layer time"),
        (Cost(0, None, None, 1.0, in_part=1), "as many layers, 1 layer in part; parameters, KV cache and time not known"),
        (None, "–"),
    ],
)  # fmt: skip
def test_what_is_not_known_of_a_cost_is_said(cost: Cost | None, text: str) -> None:
    assert cost_text(cost) == text


def test_the_winner_is_compared_with_the_other_blocks_of_its_length(make_run: MakeRun) -> None:
    findings = read_findings(make_run(depth=8))
    (seen,) = controls_of(findings)
    winner = findings.ranked()[0]
    length = winner.block.j - winner.block.i
    others = [
        mean_of(findings, c)
        for c in findings.configurations
        if c is not winner and c.block.j - c.block.i == length
    ]
    assert seen.subject is winner
    assert not seen.named
    assert seen.windows == ((length, 2),)
    assert seen.n == len(others) == 8 - length
    assert seen.mean == pytest.approx(fmean(others))
    assert seen.percentile == pytest.approx(100.0)
    said = controls_text(findings)
    assert f"{len(others)} other blocks of {length} layer" in said
    assert winner.label in said
    assert "chosen as the best, so that share alone is no evidence" in said


def test_named_blocks_are_compared_with_the_controls_that_were_asked_for(make_run: MakeRun) -> None:
    parameters = {"blocks": ["4,7", "1,3;5,6"], "controls": 5}
    findings = read_findings(make_run(depth=10, parameters=parameters))
    compared = controls_of(findings)
    paths = {"4,7": LayerPath.duplicating(parse_blocks("4,7"), 10),
             "1,3;5,6": LayerPath.duplicating(parse_blocks("1,3;5,6"), 10)}  # fmt: skip
    assert {one.subject.path for one in compared} == set(paths.values())
    for one in compared:
        assert one.named
        assert one.n == 5
        others = [
            mean_of(findings, c)
            for c in findings.configurations
            if c.path not in paths.values() and windows_of(c.path, 10) == one.windows
        ]
        assert one.mean == pytest.approx(fmean(others))
        assert one.as_good == sum(other >= one.effect for other in others)
    assert {one.windows for one in compared} == {((3, 2),), ((1, 2), (2, 2))}
    assert "it would stand so high with a probability of" in controls_text(findings)


@pytest.mark.parametrize(
    ("path", "windows"),
    [
        ("0..6,4..9", ((3, 2),)),
        ("0..6,4..6,4..9", ((3, 3),)),
        ("0..2,1..5,5..9", ((1, 2), (2, 2))),
        ("0..9", None),
        ("0..3,5..9", None),
        ("0..6,4..8", None),
        ("1..6,4..9", None),
        ("0..5,6:mlp,7..9", None),
    ],
)
def test_windows_are_read_from_a_path(path: str, windows: object) -> None:
    assert windows_of(LayerPath.parse(path), 10) == windows


def test_controls_are_in_the_summary_as_words_and_as_data(make_run: MakeRun) -> None:
    files = write_report(make_run(depth=8))
    assert "Same compute elsewhere: " in files.summary
    (data,) = json.loads(files.summary_json.read_text())["matched_compute"]
    assert data["controls"] >= 2
    assert data["controls_mean_effect"] < data["effect"]
    assert "Same compute elsewhere" in files.page.read_text()


def test_without_two_blocks_of_its_length_there_are_no_controls(make_run: MakeRun) -> None:
    findings = read_findings(make_run(parameters={"blocks": ["1,2", "2,4", "1,5"]}))
    assert controls_of(findings) == []
    assert controls_text(findings) is None
    assert controls_of(read_findings(make_run(analysis="ablation"))) == []


def test_a_run_whose_configurations_cost_the_same_has_no_picture_of_cost(make_run: MakeRun) -> None:
    from neuroscan_farm.report.figures import figures

    names = [one.name for one in figures(read_findings(make_run(analysis="ablation")), probe=None)]
    assert "cost" not in names
    assert "cost" in [one.name for one in figures(read_findings(make_run()), probe=None)]
