"""The report on disk: the page, the summary, the tables; and single exports."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.paths import Block, LayerPath
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.errors import RequestError, RunError, StorageError
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.mergekit import path_of_mergekit
from neuroscan_farm.report.tables import COLUMNS
from neuroscan_farm.report.write import export, write_report
from neuroscan_farm.store.attempts import Attempt
from tests.report.conftest import MakeRun, early_hurts_middle_helps

EVIL = "</script><script>alert(1)</script>"


class Elements(HTMLParser):
    """Collects what a page holds and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.scripts: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            value or "" for name, value in attrs if name in {"src", "srcset", "href", "data", "action"}
        ]
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data


def elements_of(page: Path) -> Elements:
    elements = Elements()
    elements.feed(page.read_text(encoding="utf-8"))
    return elements


def data_of(page: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(elements_of(page).scripts[1])
    return found


def evil(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
    if task.block == Block(1, 2):
        return 0.0, Outcome.ERROR
    return early_hurts_middle_helps(probe, task, sample, random)


def test_a_report_has_all_its_files_and_leaves_none_half_written(make_run: MakeRun) -> None:
    run = make_run(probes=("math", "json"))
    files = write_report(run)
    assert sorted(path.name for path in files.folder.iterdir()) == [
        "best-1.mergekit.yaml",
        "best-2.mergekit.yaml",
        "best-3.mergekit.yaml",
        "configurations.csv",
        "index.html",
        "multi_probe.json",
        "results-json.json",
        "results-math.json",
        "results.json",
        "summary.json",
        "summary.txt",
    ]
    assert files.summary == files.summary_text.read_text()


def test_the_page_loads_nothing_from_anywhere(make_run: MakeRun) -> None:
    page = write_report(make_run()).page
    elements = elements_of(page)
    assert elements.loads == []
    assert not {"link", "img", "iframe", "base", "object"} & set(elements.tags)
    text = page.read_text()
    assert "default-src 'none'" in text
    assert "@import" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_the_page_holds_plotly_once_and_is_small(make_run: MakeRun) -> None:
    page = write_report(make_run(probes=("math", "json"))).page
    assert len([s for s in elements_of(page).scripts if len(s) > 1_000_000]) == 1
    assert page.stat().st_size < 6_000_000


def test_the_page_offers_no_upload(make_run: MakeRun) -> None:
    config = data_of(write_report(make_run()).page)["config"]
    assert config["plotlyServerURL"] == ""  # type: ignore[index]
    assert "sendChartToCloud" in config["modeBarButtonsToRemove"]  # type: ignore[index]


def test_text_from_models_and_errors_stays_text(make_run: MakeRun) -> None:
    run = make_run(model=f"a/{EVIL}", behaviour=evil)
    run.attempts.record(Attempt("s0", 1, "died", None, "w1", EVIL, "2026-11-20T08:00:00+00:00"))
    elements = elements_of(write_report(run).page)
    assert len(elements.scripts) == 3
    assert not any(script.startswith("alert") for script in elements.scripts)


def test_equal_hover_texts_are_in_the_page_once(make_run: MakeRun) -> None:
    data = data_of(write_report(make_run(depth=9)).page)
    uses = [
        trace["customdata"]
        for view in data["views"]  # type: ignore[attr-defined]
        for figure in view["figures"]
        for trace in figure["data"]
        if "customdata" in trace and figure["name"].startswith("heatmap")
    ]
    assert len(uses) == 4
    assert len(set(uses)) == 2
    assert len(data["pool"]) == 4  # type: ignore[arg-type]  # and the points and the front of the picture of cost


def test_the_page_of_a_run_that_goes_on_says_on_how_much_it_rests(make_run: MakeRun) -> None:
    run = make_run(share=0.5, shard_size=4, plan_complete=False)
    files = write_report(run)
    said = (
        "13 of 22 planned tasks are measured (59 %); the run is not finished; a further stage may be planned"
    )
    assert said in files.summary
    assert said in files.page.read_text()
    assert json.loads(files.summary_json.read_text())["tasks_measured"] == 13


def test_without_the_baseline_the_report_says_so_and_names_no_best(make_run: MakeRun) -> None:
    files = write_report(make_run(with_baseline=False))
    assert "baseline (the untouched model) is not measured yet" in " ".join(files.summary.split())
    assert files.mergekit == ()
    assert json.loads(files.summary_json.read_text())["best"] == []


def test_a_report_of_nothing_is_a_report(make_run: MakeRun) -> None:
    assert "0 of 22 planned tasks are measured (0 %)" in write_report(make_run(share=0.0)).summary


def test_a_baseline_that_failed_is_named_with_its_reason(make_run: MakeRun) -> None:
    def fails(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
        return 0.0, Outcome.OK if task.block else Outcome.NON_FINITE

    assert "The baseline failed (made up: non_finite)" in write_report(make_run(behaviour=fails)).summary


def test_the_summary_says_that_intervals_are_not_corrected_and_how_many_were_tried(make_run: MakeRun) -> None:
    text = " ".join(write_report(make_run()).summary.split())
    assert "not corrected for the number of configurations tried (21)" in text


def test_where_nothing_helps_the_summary_says_so(make_run: MakeRun) -> None:
    def hurts(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
        return (-1.0 if task.block else 1.0) + 0.01 * sample, Outcome.OK

    assert (
        "No configuration is better than the untouched model."
        in write_report(make_run(behaviour=hurts)).summary
    )


def test_failures_are_grouped_by_what_was_said(make_run: MakeRun) -> None:
    run = make_run(behaviour=evil)
    run.attempts.record(
        Attempt("s0", 1, "died", "t0", "w1", "killed by signal 9", "2026-11-20T08:00:00+00:00")
    )
    files = write_report(run)
    assert "error: made up: error (1 configurations, 8 samples; such as (1, 2))" in files.summary
    outcomes = [group["outcome"] for group in json.loads(files.summary_json.read_text())["failures"]]
    assert outcomes == ["error", "died"]


def test_the_page_of_several_probes_compares_them(make_run: MakeRun) -> None:
    page = write_report(make_run(probes=("math", "json"))).page
    text = page.read_text()
    assert "Across the probes" in text
    assert "Best for each probe" in text
    assert [figure["name"] for figure in data_of(page)["across"]] == ["probes"]  # type: ignore[attr-defined]
    single = write_report(make_run()).page
    assert "Across the probes" not in single.read_text()
    assert data_of(single)["across"] == []


def test_the_tables_carry_corrected_p_values_and_cost(make_run: MakeRun) -> None:
    run = make_run()
    page = write_report(run).page
    text = page.read_text()
    best = read_findings(run).ranked()[0]
    row = re.search(r"<tr><td class=\"n\">1</td>.*?</tr>", text, re.DOTALL)
    assert row is not None
    assert f"{best.cost.added_layers:+d} layer" in row[0]  # type: ignore[union-attr]
    assert "adjusted p" in text
    effect = best.results[None].effects[Metric.LOG_ODDS]
    (view,) = data_of(page)["views"]  # type: ignore[misc]
    first = next(line for line in view["rows"] if line[0] == 1)
    assert first[4:6] == [round(effect.p_adjusted, 6), round(effect.q, 6)]
    assert len(first) + 3 == len(re.findall(r"data-column=", text))


def test_files_that_another_metric_or_analysis_left_do_not_stay(make_run: MakeRun) -> None:
    run = make_run()
    write_report(run)
    for name in ("circuit.json", "cross_probe.json", "ablation-of-mlp.csv", "results-old.json"):
        (run.root / "report" / name).write_text("old")
    (run.root / "report" / "annotated.html").write_text("a person asked for this one")
    write_report(run)
    left = {path.name for path in (run.root / "report").iterdir()}
    assert not left & {"circuit.json", "cross_probe.json", "ablation-of-mlp.csv", "results-old.json"}
    assert "annotated.html" in left


def test_merge_files_of_an_earlier_report_do_not_stay(make_run: MakeRun) -> None:
    run = make_run()
    assert len(write_report(run).mergekit) == 3
    assert len(write_report(run, top_k=1).mergekit) == 1
    assert len(list((run.root / "report").glob("best-*"))) == 1


def test_another_metric_ranks_anew(make_run: MakeRun) -> None:
    run = make_run()
    write_report(run, metric=Metric.CORRECT)
    assert json.loads((run.root / "report" / "results.json").read_text())["ranked_by"] == "correct"


def test_a_number_of_best_below_one_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(RequestError, match="top_k is 0; use 1 or more"):
        write_report(make_run(), top_k=0)


def test_a_folder_that_cannot_be_made_is_an_error_with_a_mend(make_run: MakeRun) -> None:
    run = make_run()
    (run.root / "report").write_text("in the way")
    with pytest.raises(StorageError, match="a file is in the way"):
        write_report(run)


def test_the_table_has_a_row_for_each_configuration_and_probe(make_run: MakeRun) -> None:
    run = make_run(probes=("math", "json"), behaviour=evil)
    rows = list(csv.DictReader(io.StringIO(export(run, format="csv"))))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 22 * 3
    assert {row["probe"] for row in rows} == {"*", "math", "json"}
    assert [row["baseline"] for row in rows].count("true") == 3
    failed = [row for row in rows if row["i"] == "1" and row["j"] == "2"]
    assert {row["log_odds"] for row in failed} == {""}
    assert "nan" not in export(run, format="csv").lower()


def test_the_json_table_is_versioned_and_strict(make_run: MakeRun) -> None:
    run = make_run(behaviour=evil)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(export(run, format="json"), parse_constant=refuse)
    assert content["schema_version"] == 2
    assert len(content["configurations"]) == 22
    assert content["configurations"][0]["layers"] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("rank", [1, 2])
def test_the_configuration_of_a_rank_is_exported(make_run: MakeRun, rank: int) -> None:
    run = make_run()
    write_report(run)
    text = export(run, format="mergekit", top=rank)
    assert text == (run.root / "report" / f"best-{rank}.mergekit.yaml").read_text()
    assert f"{path_of_mergekit(text)}\n" == export(run, format="exl3-layer-map", top=rank)


def test_a_named_path_needs_no_measurement(make_run: MakeRun) -> None:
    run = make_run(share=0.0)
    path = LayerPath.parse("0..3,1..5")
    assert export(run, format="exl3-layer-map", path=path) == "0..3,1..5\n"
    text = export(run, format="mergekit", path=LayerPath.parse("5,4,0..2"))
    assert path_of_mergekit(text) == LayerPath((5, 4, 0, 1, 2))
    assert "no effect is known in this run: not in its plan" in text


def test_an_export_says_which_run_and_what_effect(make_run: MakeRun) -> None:
    text = export(make_run(), format="mergekit")
    assert "# neuroscan-farm run duplication-tiny-llama-0123456789" in text
    assert re.search(r"# effect [+-]\d\.\d+ nats on log_odds .*rank 1", text)


def test_tables_can_hold_one_configuration(make_run: MakeRun) -> None:
    run = make_run()
    path = LayerPath.parse("0..2,1..5")
    (record,) = json.loads(export(run, format="json", path=path))["configurations"]
    assert (record["i"], record["j"]) == (1, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "gguf"}, "format 'gguf' is not known; there are: mergekit, exl3-layer-map, csv, json"),
        ({"format": "mergekit", "path": LayerPath((0, 6))}, "this model has 6 layers; use 0 to 5"),
        ({"format": "mergekit", "top": 0}, "top is 0; use 1"),
    ],
)
def test_an_export_that_cannot_be_is_refused(
    make_run: MakeRun, options: dict[str, object], message: str
) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        export(make_run(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("built", "options", "message"),
    [
        (
            {"share": 0.0},
            {"format": "mergekit"},
            "no configuration has rank 1; 0 have a rank (not measured yet)",
        ),
        ({}, {"format": "mergekit", "top": 22}, "no configuration has rank 22; 21 have a rank;"),
        ({}, {"format": "csv", "path": LayerPath((0,))}, "path 0 is not in this run"),
    ],
)
def test_an_export_of_what_is_not_there_says_what_to_do(
    make_run: MakeRun, built: dict[str, object], options: dict[str, object], message: str
) -> None:
    with pytest.raises(RunError, match=re.escape(message)):
        export(make_run(**built), **options)  # type: ignore[arg-type]
