"""The figures: where a block stands, what is starred, and what a missing cell says."""

from __future__ import annotations

import numpy as np
import pytest

from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.paths import Block
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.report.bars import bars
from neuroscan_farm.report.figure_style import FIGURE_CONFIG
from neuroscan_farm.report.figures import figures
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.heatmap import heatmap
from neuroscan_farm.store.run_directory import RunDirectory
from tests.report.conftest import MakeRun


def trace(figure: object, name: str) -> object:
    (found,) = [t for t in figure.data if t.name == name]  # type: ignore[attr-defined]
    return found


def names_of(run: RunDirectory) -> list[str]:
    return [drawn.name for drawn in figures(read_findings(run), probe=None)]


def only_block_1_3_fails(
    probe: str, task: Task, sample: int, random: np.random.Generator
) -> tuple[float, Outcome]:
    return 0.1 * sample, Outcome.ERROR if task.block == Block(1, 3) else Outcome.OK


def test_a_cell_stands_at_its_end_and_its_start_and_holds_the_mean_change(make_run: MakeRun) -> None:
    findings = read_findings(make_run())
    change = trace(heatmap(findings, probe=None), "change")
    for c in findings.configurations:
        assert c.block is not None
        column = list(change.x).index(c.block.j)
        row = list(change.y).index(c.block.i)
        assert change.z[row][column] == pytest.approx(c.results[None].effects[Metric.LOG_ODDS].mean, rel=1e-6)


def test_the_column_of_blocks_that_end_with_the_last_layer_is_there(make_run: MakeRun) -> None:
    figure = heatmap(read_findings(make_run(depth=6)), probe=None)
    change = trace(figure, "change")
    assert list(change.x) == [1, 2, 3, 4, 5, 6]
    assert np.isfinite(np.array(change.z)[:, -1]).all()
    assert figure.layout.xaxis.range == (0.5, 6.5)


def test_colours_are_symmetric_around_zero(make_run: MakeRun) -> None:
    change = trace(heatmap(read_findings(make_run()), probe=None), "change")
    assert change.zmid == 0
    assert change.zmin == -change.zmax
    assert change.zmax >= np.nanmax(change.z)
    assert change.colorbar.title.text.startswith("nats<br>")


def test_the_best_are_starred_and_no_others(make_run: MakeRun) -> None:
    findings = read_findings(make_run())
    stars = trace(heatmap(findings, probe=None, top_k=4), "best 4 on log_odds")
    best = {(c.block.i, c.block.j) for c in findings.ranked()[:4] if c.block}
    assert set(zip(stars.y, stars.x, strict=True)) == best


def test_the_hover_says_everything(make_run: MakeRun) -> None:
    findings = read_findings(make_run())
    best = findings.ranked()[0]
    assert best.block is not None
    change = trace(heatmap(findings, probe=None), "change")
    row = change.customdata[best.block.i][best.block.j - 1]
    assert row[0] == best.label
    assert row[1] == "rank 1"
    assert row[2] == str(best.path)
    assert row[12] == "8 ok"
    for number in range(13):
        assert f"%{{customdata[{number}]}}" in change.hovertemplate


def test_a_failed_cell_and_a_waiting_cell_differ_and_say_why(make_run: MakeRun) -> None:
    run = make_run(share=0.5, shard_size=4, behaviour=only_block_1_3_fails)
    figure = heatmap(read_findings(run), probe=None)
    states = trace(figure, "without a change")
    assert states.z[1][2] == 1
    assert "made up: error" in states.customdata[1][2]
    assert states.z[5][5] == 0
    assert "not measured yet" in states.customdata[5][5]
    assert np.isnan(trace(figure, "change").z[1][2])
    assert trace(figure, "samples failed").x == (3,)


def test_without_the_baseline_cells_say_that_it_is_missing(make_run: MakeRun) -> None:
    figure = heatmap(read_findings(make_run(with_baseline=False)), probe=None)
    assert np.nanmax(trace(figure, "without a change").z) == 2
    assert "baseline is not measured yet" in figure.layout.title.subtitle.text


def test_a_grid_has_heatmaps_of_the_metric_and_of_accuracy(make_run: MakeRun) -> None:
    assert names_of(make_run(depth=9)) == ["heatmap-log_odds", "heatmap-correct", "cost"]


def test_without_right_answers_there_is_no_accuracy_heatmap(make_run: MakeRun) -> None:
    run = make_run(depth=9, labelled=False, metric="expected_score")
    assert names_of(run) == ["heatmap-expected_score", "cost"]


def test_paths_that_are_no_grid_have_bars_best_first_with_intervals(make_run: MakeRun) -> None:
    parameters = {"blocks": ["1,2;4,5", "2,4x3"], "paths": ["0..1,3..5", "5,0..4"]}
    run = make_run(parameters=parameters)
    assert names_of(run) == ["bars-log_odds", "bars-correct", "cost"]
    bar = bars(read_findings(run), probe=None).data[0]
    assert list(bar.x) == sorted(bar.x, reverse=True)
    assert len(bar.error_x.array) == 4


def test_blocks_that_all_run_three_times_are_a_grid_too(make_run: MakeRun) -> None:
    assert names_of(make_run(depth=9, parameters={"times": 3}))[0] == "heatmap-log_odds"


def test_of_very_many_paths_the_best_and_the_worst_have_bars_and_the_title_says_so(make_run: MakeRun) -> None:
    figure = bars(read_findings(make_run(depth=12)), probe=None)
    assert len(figure.data[0].x) == 60
    assert "the best 40 and the worst 20 of 78" in figure.layout.title.subtitle.text


def test_model_names_are_not_markup(make_run: MakeRun) -> None:
    figure = heatmap(read_findings(make_run(model="a/<b>x")), probe=None)
    assert "&lt;b&gt;x" in figure.layout.title.text


def test_no_figure_can_be_uploaded() -> None:
    assert FIGURE_CONFIG["plotlyServerURL"] == ""
    assert "sendChartToCloud" in FIGURE_CONFIG["modeBarButtonsToRemove"]
