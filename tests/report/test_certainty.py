"""How sure the report is: intervals and p-values in every place, the best under noise, and what it all rests on."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.paths import Block
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.report.chance import chance, chance_text, noise_text, stands_out
from neuroscan_farm.report.figure_style import colour_bar
from neuroscan_farm.report.findings import Findings, read_findings
from neuroscan_farm.report.heatmap import heatmap
from neuroscan_farm.report.hover import hover_row
from neuroscan_farm.report.metric_text import p_text
from neuroscan_farm.report.results_json import results_json
from neuroscan_farm.report.summary import notices, summary_dict, summary_text
from neuroscan_farm.report.tables import table_csv
from neuroscan_farm.statistics.effects import Effect, paired_effects
from tests.report.conftest import MakeRun

HELPS = Block(2, 4)


def nothing_helps(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
    return float(random.normal()), Outcome.OK


def one_helps(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
    return float(random.normal(0, 0.3)) + (1.5 if task.block == HELPS else 0.0), Outcome.OK


def one_line(text: str) -> str:
    return " ".join(text.split())


def winner(findings: Findings) -> Effect:
    return findings.ranked()[0].results[None].effects[Metric.LOG_ODDS]


def test_a_planted_effect_stands_out_everywhere(make_run: MakeRun) -> None:
    findings = read_findings(make_run(behaviour=one_helps, n_samples=16))
    best = findings.ranked()[0]
    effect = winner(findings)
    assert best.block == HELPS
    assert stands_out(effect)
    assert effect.p is not None
    assert effect.p_adjusted is not None
    assert effect.q is not None
    assert effect.p <= min(effect.p_adjusted, effect.q)
    seen = chance(findings)
    assert (seen.better, seen.worse, seen.discoveries) == (1, 0, 1)
    noise = findings.noise[None]
    assert noise is not None
    assert noise.tried == 21
    assert 0 < noise.mean < noise.high < effect.mean
    said = one_line(summary_text(findings, failures=[]))
    assert "adj. p" in said
    text = f"+{effect.mean:.3f} (adjusted p {p_text(effect.p_adjusted)})"
    assert f"only above +{noise.high:.3f} it stands out" in said
    assert f"the best here: {text}" in said
    assert "1 is better than the untouched model and 0 worse (adjusted p below 0.05)" in said
    row = hover_row(best, probe=None, metric=Metric.LOG_ODDS)
    assert row[13].startswith(f"adjusted p {p_text(effect.p_adjusted)} · q ".replace("<", "&lt;"))


def test_where_nothing_helps_nothing_stands_out(make_run: MakeRun) -> None:
    for seed in range(5):
        findings = read_findings(make_run(behaviour=nothing_helps, n_samples=16, seed=seed))
        assert chance(findings).better == 0
        assert "0 are better than the untouched model" in one_line(chance_text(chance(findings)))


def test_the_numbers_of_the_files_are_those_of_the_effects(make_run: MakeRun) -> None:
    run = make_run(behaviour=one_helps, n_samples=16)
    findings = read_findings(run)
    effect = winner(findings)
    (row,) = [row for row in csv.DictReader(io.StringIO(table_csv(findings))) if row["rank"] == "1"]
    for name in ("p", "p_adjusted", "q"):
        assert float(row[name]) == getattr(effect, name)
    assert row["no_interval"] == ""
    assert float(row["added_layers"]) == 2
    assert float(row["relative_latency"]) == pytest.approx(8 / 6)
    summary = json.loads(json.dumps(summary_dict(findings, failures=[])))
    assert summary["best"][0]["p_adjusted"] == effect.p_adjusted
    assert summary["better_adjusted"] == 1
    assert summary["share_measured"] == 1.0
    noise = findings.noise[None]
    assert noise is not None
    assert summary["noise"]["math"]["best_effect"] == noise.mean
    assert summary["noise"]["math"]["best_must_exceed"] == noise.high
    assert summary["confirmation"] is None
    top = results_json(findings, probe="math")["top_configs"][0]
    assert (top["p_adjusted"], top["q"]) == (effect.p_adjusted, effect.q)


def test_effects_are_those_of_the_rows_alone(make_run: MakeRun) -> None:
    run = make_run(behaviour=one_helps)
    findings = read_findings(run)
    assert findings.baseline is not None
    again = paired_effects(run.parts.read(), metric=Metric.LOG_ODDS, baseline_id=findings.baseline.task_id)
    by_task = {effect.task_id: effect for effect in again}
    for c in findings.configurations:
        assert c.results["math"].effects[Metric.LOG_ODDS] == by_task[c.task_id]


def test_each_probe_and_their_mean_are_corrected_for_themselves(make_run: MakeRun) -> None:
    findings = read_findings(make_run(behaviour=one_helps, probes=("math", "json"), n_samples=12))
    adjusted = {
        view: [c.results[view].effects[Metric.LOG_ODDS].p_adjusted for c in findings.configurations]
        for view in findings.views
    }
    assert len({tuple(values) for values in adjusted.values()}) == 3
    assert set(findings.noise) == {None, "math", "json"}
    assert set(findings.matrices) == {"math", "json"}
    assert min(adjusted[None]) < 0.05  # type: ignore[type-var,operator]


def test_a_run_half_done_says_over_what_its_p_values_are(make_run: MakeRun) -> None:
    findings = read_findings(make_run(share=0.5, shard_size=4))
    assert findings.share == pytest.approx(13 / 22)
    said = one_line(chance_text(chance(findings)))
    assert "All of this is over the 13 of 22 tasks that are measured, and will change" in said
    assert "All of this" not in chance_text(chance(read_findings(make_run())))


def test_without_anything_measured_nothing_is_said_of_chance(make_run: MakeRun) -> None:
    findings = read_findings(make_run(share=0.0))
    seen = chance(findings)
    assert seen.noise is None
    assert noise_text(seen) is None
    assert chance_text(seen).startswith("Nothing can be said of chance yet")


def test_one_sample_has_no_interval_and_the_report_says_why(make_run: MakeRun) -> None:
    findings = read_findings(make_run(n_samples=1))
    effect = winner(findings)
    assert (effect.low, effect.p_adjusted) == (None, None)
    row = hover_row(findings.ranked()[0], probe=None, metric=Metric.LOG_ODDS)
    assert row[13] == "no interval: one sample alone says nothing of the spread"
    assert any("Probe math: one sample: there is no spread" in notice for notice in notices(findings))
    assert "Nothing can be said of chance yet" in one_line(summary_text(findings, failures=[]))


def test_the_heatmap_marks_the_noise_at_the_colour_bar_and_in_its_title(make_run: MakeRun) -> None:
    findings = read_findings(make_run(behaviour=one_helps, n_samples=16))
    noise = findings.noise[None]
    assert noise is not None
    figure = heatmap(findings, probe=None)
    (change,) = [trace for trace in figure.data if trace.name == "change"]
    texts = dict(zip(change.colorbar.ticktext, change.colorbar.tickvals, strict=True))
    # It is small against the colours, so that it shares the zero's label; alone, the two would lie on each other.
    assert noise.mean < 0.2 * change.zmax
    assert texts[f"0, noise +{noise.mean:.3f}"] == 0
    assert f"best of 21 expected under noise: +{noise.mean:.3f}" in figure.layout.title.subtitle.text
    assert f"the best stands out above +{noise.high:.3f}" in figure.layout.title.subtitle.text


def test_noise_beyond_the_colours_stands_at_their_end(make_run: MakeRun) -> None:
    findings = read_findings(make_run(behaviour=nothing_helps, n_samples=8, seed=4))
    figure = heatmap(findings, probe=None, metric=Metric.CORRECT)
    (change,) = [trace for trace in figure.data if trace.name == "change"]
    noise = findings.noise_on(Metric.CORRECT, None)
    assert noise is not None
    level = 100 * noise.mean
    marks = [
        (text, value)
        for text, value in zip(change.colorbar.ticktext, change.colorbar.tickvals, strict=True)
        if "noise +" in text
    ]
    ((text, value),) = marks
    expected = 0 if level < 0.2 * change.zmax else 0.8 * change.zmax if level > change.zmax else level
    assert value == pytest.approx(expected)
    assert ("▲" in text) == (level > change.zmax)


def test_lines_go_around_the_blocks_that_stand_out(make_run: MakeRun) -> None:
    findings = read_findings(make_run(behaviour=one_helps, n_samples=16))
    figure = heatmap(findings, probe=None)
    (line,) = [trace for trace in figure.data if trace.name == "better, adjusted p < 0.05"]
    assert line.mode == "lines"
    assert {x for x in line.x if x is not None} == {HELPS.j - 0.5, HELPS.j + 0.5}
    assert {y for y in line.y if y is not None} == {HELPS.i - 0.5, HELPS.i + 0.5}
    assert line.x.count(None) == 4  # four sides


def test_no_line_runs_between_two_blocks_that_stand_out(make_run: MakeRun) -> None:
    def two_help(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
        helps = task.block in (HELPS, Block(2, 5))
        return float(random.normal(0, 0.2)) + (1.5 if helps else 0.0), Outcome.OK

    figure = heatmap(read_findings(make_run(behaviour=two_help, n_samples=16)), probe=None)
    (line,) = [trace for trace in figure.data if trace.name == "better, adjusted p < 0.05"]
    assert line.x.count(None) == 6
    sides = {tuple(line.x[k : k + 2]) for k in range(0, len(line.x), 3)}
    assert (HELPS.j + 0.5, HELPS.j + 0.5) not in sides


def test_p_values_are_written_with_two_digits_and_never_as_zero() -> None:
    assert [p_text(p) for p in (None, 0.0, 0.0004, 0.0123, 0.5)] == [
        "–",
        "< 0.001",
        "< 0.001",
        "0.012",
        "0.50",
    ]


@pytest.mark.parametrize("noise", [None, *np.linspace(0.001, 1.4, 60).tolist()])
def test_labels_of_a_colour_bar_keep_apart_wherever_the_noise_is(noise: float | None) -> None:
    bar = colour_bar("nats", 1.0, 3, below=True, noise=noise)
    places = sorted(bar["tickvals"])
    assert min(np.diff(places)) >= 0.2 - 1e-9
    assert places[0] == -1
    assert sum("noise" in text for text in bar["ticktext"]) == (noise is not None)
    assert bar["title"]["side"] == "top"  # beside the bar it would run through the labels


def test_one_configuration_is_no_best_of_many(make_run: MakeRun) -> None:
    findings = read_findings(make_run(parameters={"blocks": ["2,4"]}, behaviour=one_helps, n_samples=16))
    seen = chance(findings)
    assert seen.noise is not None
    assert seen.noise.tried == 1
    said = f"{noise_text(seen)} {chance_text(seen)}"
    assert "One configuration was tried. It shows +" in said
    assert "configurations" not in said
    assert "best" not in said
    assert f"only above +{seen.noise.high:.3f} it stands out" in said


def test_what_the_best_must_exceed_and_its_adjusted_p_never_contradict_each_other(make_run: MakeRun) -> None:
    out = set()
    for seed in range(8):
        for behaviour in (one_helps, nothing_helps):
            findings = read_findings(make_run(behaviour=behaviour, n_samples=16, seed=seed))
            noise, effect = findings.noise[None], winner(findings)
            assert noise is not None
            assert noise.high is not None
            assert (effect.mean > noise.high) == stands_out(effect)
            out.add(stands_out(effect))
    assert out == {True, False}
