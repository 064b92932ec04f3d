"""What is read of runs: the list, one run, its table, its figures, its rows. The same as the report says."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from neuroscan_farm.coordinator.overview import look_at
from neuroscan_farm.coordinator.run_lock import lock_of
from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.report.compare import compare_runs, comparison_dict
from neuroscan_farm.report.figure_json import figure_data
from neuroscan_farm.report.figures import figures
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.report.tables import records
from neuroscan_farm.report.write import export, write_report
from neuroscan_farm.serve.rows import ARROW
from neuroscan_farm.store.attempts import Attempt
from neuroscan_farm.store.run_directory import RunDirectory
from tests.farm_fixtures import wait_for
from tests.report.conftest import build_run, early_hurts_middle_helps
from tests.serve.api import Api


def some_fail(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
    if task.block is not None and (task.block.i, task.block.j) == (1, 3):
        return 0.0, Outcome.NON_FINITE
    return early_hurts_middle_helps(probe, task, sample, random)


@pytest.fixture
def api(tmp_path: Path) -> Api:
    return Api(tmp_path / "runs")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_the_list_shows_each_run_with_its_best_and_is_filtered_and_paged(api: Api, runs: Path) -> None:
    build_run(runs / "small", depth=6)
    build_run(runs / "two", depth=7, probes=("math", "eq"), share=0.5)
    build_run(runs / "cut", depth=5, analysis="ablation", model="acme/other")
    listed = api.get("/runs")
    assert {one["id"] for one in listed["runs"]} == {"small", "two", "cut"}
    assert listed["total"] == listed["all"] == 3
    by_id = {one["id"]: one for one in listed["runs"]}
    assert by_id["small"]["state"] == "finished"
    assert by_id["small"]["share"] == 1
    assert by_id["two"]["state"] == "stopped"
    assert 0 < by_id["two"]["share"] < 1
    assert "resume" in by_id["two"]["can"]
    for query, found in (
        ({"state": "finished"}, {"small", "cut"}),
        ({"state": ["finished", "stopped"]}, {"small", "cut", "two"}),
        ({"analysis": "ablation"}, {"cut"}),
        ({"probe": "eq"}, {"two"}),
        ({"model": "OTHER"}, {"cut"}),
        ({"text": "duplication eq"}, {"two"}),
        ({"text": "nothing of it"}, set()),
    ):
        assert {one["id"] for one in api.get("/runs", **query)["runs"]} == found, query
    pages = [api.get("/runs", limit=1, offset=k)["runs"] for k in range(4)]
    assert [one["id"] for page in pages for one in page] == [one["id"] for one in listed["runs"]]


def test_the_best_is_that_of_the_report_with_its_interval(api: Api, runs: Path) -> None:
    run = build_run(runs / "small", depth=6)
    findings = read_findings(run)
    best = findings.ranked()[0]
    effect = best.results[None].effects[findings.metric]

    def listed() -> dict[str, Any]:
        found: dict[str, Any] = api.get("/runs")["runs"][0]
        return found

    first = listed()  # once: what works it out is quick
    assert first["best"] is None
    assert first["no_best"] == "it is being worked out"
    api.rest()
    one = listed()
    assert one["best"]["path"] == str(best.path)
    assert one["best"]["label"] == best.label
    assert (one["best"]["effect"], one["best"]["low"], one["best"]["high"]) == (
        effect.mean,
        effect.low,
        effect.high,
    )
    write_report(run)
    assert (
        Api(runs).get("/runs")["runs"][0]["best"] == one["best"]
    )  # as the report says it, without reading rows


def test_a_report_of_older_rows_is_not_believed(api: Api, runs: Path) -> None:
    run = build_run(runs / "small", depth=6)
    write_report(run)
    summary = runs / "small" / "report" / "summary.json"
    said = json.loads(summary.read_text())
    said["best"][0]["effect"] = 99.0
    said["tasks_measured"] -= 1
    summary.write_text(json.dumps(said))
    assert api.get("/runs")["runs"][0]["best"] is None


def test_a_damaged_run_is_named_with_its_error_and_hides_no_other(api: Api, runs: Path) -> None:
    build_run(runs / "good", depth=5)
    for name, broken in (
        ("no-manifest", "manifest.json"),
        ("no-plan", "plan.parquet"),
        ("no-request", "request.yaml"),
    ):
        build_run(runs / name, depth=5)
        (runs / name / broken).write_bytes(b"broken: [")
    (runs / "a folder").mkdir()
    listed = api.get("/runs")
    assert [one["id"] for one in listed["runs"]] == ["good"]
    assert {one["id"] for one in listed["left_out"]} == {"no-manifest", "no-plan", "no-request"}
    assert all(one["error"] for one in listed["left_out"])
    assert "error" in api.get("/runs/no-manifest", status=409)
    assert "error" in api.get("/runs/no-plan/figures", status=409)
    assert api.get("/runs/a folder", status=404)["mend"]


def test_a_run_that_is_taken_away_or_replaced_is_seen_to_be(api: Api, runs: Path) -> None:
    build_run(runs / "one", depth=5)
    before = api.get("/runs/one")
    shutil.rmtree(runs / "one")
    api.get("/runs/one", status=404)
    build_run(runs / "one", depth=6)
    assert api.get("/runs/one")["depth"] == 6 != before["depth"]
    assert api.get("/runs/one/configurations")["total"] == 21


def test_one_run_says_what_it_rests_on(api: Api, runs: Path) -> None:
    run = build_run(runs / "two", depth=6, probes=("math", "eq"))
    one = api.get("/runs/two")
    assert one["views"] == ["*", "math", "eq"]
    assert one["metrics"][0] == "log_odds"
    assert one["request"]["analysis"] == "duplication"
    assert one["n_samples"] == dict(run.manifest.n_samples)
    assert api.get(f"/runs/{run.manifest.run_id}")["id"] == "two"
    assert not one["can_materialize"]


def test_stamps_change_when_and_only_when_something_did(api: Api, runs: Path) -> None:
    run = build_run(runs / "one", depth=6, share=0.5)
    first = api.get("/runs/one")
    assert api.get("/runs/one")["stamp"] == first["stamp"]
    run.set_wanted("paused")
    paused = api.get("/runs/one")
    assert paused["state"] == "paused"
    assert paused["stamp"] != first["stamp"]
    assert paused["rows_stamp"] == first["rows_stamp"]
    done = build_run(runs.parent / "other", depth=6)
    for part in (runs.parent / "other" / "parts").iterdir():
        shutil.copy(part, runs / "one" / "parts")
    assert done.manifest.run_id == run.manifest.run_id
    finished = api.get("/runs/one")
    assert finished["state"] == "finished"
    assert finished["rows_stamp"] != paused["rows_stamp"]
    again = Api(runs).get("/runs/one")  # another server says the same
    assert (again["stamp"], again["rows_stamp"]) == (finished["stamp"], finished["rows_stamp"])


def test_a_finished_run_at_rest_whose_rows_are_lost_is_seen_to_change(
    api: Api, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuroscan_farm.serve.runs._SETTLED_NANOSECONDS", 0)
    build_run(runs / "one", depth=6, shard_size=4)
    assert api.get("/runs/one")["state"] == api.get("/runs/one")["state"] == "finished"
    next((runs / "one" / "parts").iterdir()).unlink()
    assert api.get("/runs/one")["state"] == "stopped"


def test_the_table_is_the_reports_and_can_be_sorted_paged_and_asked_for_one(api: Api, runs: Path) -> None:
    run = build_run(runs / "two", depth=6, probes=("math", "eq"), behaviour=some_fail)
    findings = read_findings(run)
    for probe in ("*", "math", "eq"):
        page = api.get("/runs/two/configurations", probe=probe, limit=1000, baseline=True)
        told = {row["task_id"]: row for row in page["configurations"]}
        for record in records(findings):
            if record["probe"] == probe:
                assert {name: told[record["task_id"]][name] for name in record} == record
    page = api.get("/runs/two/configurations", limit=1000)
    ranks = [row["rank"] for row in page["configurations"]]
    assert ranks[:-1] == sorted(ranks[:-1])
    assert ranks[-1] is None  # absent last, whichever way it is sorted
    effects = [
        row["effect"]
        for row in api.get("/runs/two/configurations", sort="-effect", limit=1000)["configurations"]
    ]
    assert effects[:-1] == sorted(effects[:-1], reverse=True)
    assert effects[-1] is None
    cut = api.get("/runs/two/configurations", limit=3, offset=2)
    assert [row["rank"] for row in cut["configurations"]] == [3, 4, 5]
    assert cut["total"] == page["total"] == 21
    (one,) = api.get("/runs/two/configurations", block="2,4")["configurations"]
    assert one["block"] == {"i": 2, "j": 4, "times": 2}
    assert api.get("/runs/two/configurations", path=one["path"])["configurations"] == [one]
    assert api.get("/runs/two/configurations", path="0..5,0..5")["total"] == 1
    for wrong in (
        {"sort": "nothing"},
        {"probe": "none"},
        {"block": "9,3"},
        {"path": "x"},
        {"metric": "x"},
        {"limit": 0},
    ):
        assert "error" in api.get("/runs/two/configurations", status=422, **wrong)


def test_one_configuration_tells_each_sample_beside_the_untouched_model(api: Api, runs: Path) -> None:
    run = build_run(runs / "two", depth=6, probes=("math", "eq"))
    row = api.get("/runs/two/configurations", probe="math")["configurations"][0]
    one = api.get(f"/runs/two/configurations/{row['task_id']}")
    assert len(one["samples"]) == sum(run.manifest.n_samples.values())
    mine = [sample for sample in one["samples"] if sample["probe"] == "math"]
    assert np.mean([sample["effect"] for sample in mine]) == pytest.approx(row["effect"])
    assert all(sample["effect"] == sample["value"] - sample["baseline"] for sample in mine)
    assert mine[0]["top_token"] == "<b>7</b>"  # as it is: whoever shows it shows text
    assert [view["probe"] for view in one["views"]] == ["*", "math", "eq"]
    assert one["layers"] == [layer for first, end in one["runs"] for layer in range(first, end)]
    assert {
        sample["probe"]
        for sample in api.get(f"/runs/two/configurations/{row['task_id']}", probe="eq")["samples"]
    } == {"eq"}
    assert "none of this id" in api.get("/runs/two/configurations/t0", status=404)["error"]


@pytest.mark.parametrize("analysis", ["duplication", "ablation", "circuits"])
def test_figures_are_the_very_ones_of_the_report(api: Api, runs: Path, analysis: str) -> None:
    from neuroscan_farm.report.circuits import circuit_of

    parameters = {"strategy": "exhaustive"} if analysis == "circuits" else {}
    run = build_run(runs / "one", depth=6, analysis=analysis, probes=("math", "eq"), parameters=parameters)
    findings = read_findings(run)
    circuit = circuit_of(findings)
    for view, name in ((None, "*"), ("eq", "eq")):
        drawn = {one.name: one for one in figures(findings, probe=view, circuit=circuit)}
        heads = api.get("/runs/one/figures", probe=name)["figures"]
        assert [head["name"] for head in heads if head["of_a_view"]] == list(drawn)
        assert any(not head["of_a_view"] for head in heads)
        for head in heads:
            told = api.get(f"/runs/one/figures/{head['name']}", probe=name)
            if head["of_a_view"]:
                assert {key: told[key] for key in ("data", "layout", "title", "subtitle")} == {
                    key: value
                    for key, value in figure_data(drawn[head["name"]]).items()
                    if key in ("data", "layout", "title", "subtitle")
                }
    assert "there are" in api.get("/runs/one/figures/none", status=404)["error"]


def test_an_unchanged_figure_is_not_sent_again(api: Api, runs: Path) -> None:
    build_run(runs / "one", depth=6)
    first = api.client.get("/api/v1/runs/one/figures/heatmap-log_odds")
    again = api.client.get(
        "/api/v1/runs/one/figures/heatmap-log_odds", headers={"if-none-match": first.headers["etag"]}
    )
    assert again.status_code == 304
    assert not again.content
    other = api.client.get(
        "/api/v1/runs/one/figures/heatmap-correct", headers={"if-none-match": first.headers["etag"]}
    )
    assert other.status_code == 200


def test_the_mask_leaves_full_colour_to_what_stands_out_alone(api: Api, runs: Path) -> None:
    run = build_run(runs / "one", depth=8, n_samples=24)
    findings = read_findings(run)
    sure = {
        (c.block.i, c.block.j)
        for c in findings.configurations
        if c.block and (p := c.results[None].effects[Metric.LOG_ODDS].p_adjusted) is not None and p < 0.05
    }
    assert 0 < len(sure) < len(findings.configurations)
    figure = api.get("/runs/one/figures/heatmap-log_odds", significant=True)
    plain = api.get("/runs/one/figures/heatmap-log_odds")
    traces = {trace["name"]: trace for trace in figure["data"]}

    def cells(z: list[list[float | None]]) -> set[tuple[int, int]]:
        return {(i, j + 1) for i, row in enumerate(z) for j, value in enumerate(row) if value is not None}

    assert cells(traces["change"]["z"]) == sure
    faint = traces["adjusted p of 0.05 or more"]
    assert faint["opacity"] < 0.3
    assert cells(faint["z"]) == {(c.block.i, c.block.j) for c in findings.configurations if c.block} - sure
    assert (faint["zmin"], faint["zmax"]) == (traces["change"]["zmin"], traces["change"]["zmax"])
    assert len(figure["data"]) == len(plain["data"]) + 1
    assert "faint" in figure["subtitle"]


def test_the_mask_fades_bars_too_and_leaves_charts_that_are_faint_already(api: Api, runs: Path) -> None:
    build_run(runs / "bars", depth=6, parameters={"blocks": ["1,3;3,5", "0,2", "2,5"]}, n_samples=24)
    build_run(runs / "cut", depth=6, analysis="ablation")
    (bar,) = api.get("/runs/bars/figures/bars-log_odds", significant=True)["data"]
    assert set(bar["marker"]["opacity"]) <= {1.0, 0.42}
    for significant in (True, False):
        chart = api.get("/runs/cut/figures/ablation-log_odds", significant=significant)["data"]
        assert chart == api.get("/runs/cut/figures/ablation-log_odds")["data"]


def test_another_metric_ranks_anew(api: Api, runs: Path) -> None:
    run = build_run(runs / "one", depth=6)
    findings = read_findings(run, metric=Metric.EXPECTED_SCORE)
    page = api.get("/runs/one/configurations", metric="expected_score")
    assert page["configurations"][0]["path"] == str(findings.ranked()[0].path)
    names = [head["name"] for head in api.get("/runs/one/figures", metric="expected_score")["figures"]]
    assert "heatmap-expected_score" in names
    build_run(runs / "bare", depth=5, values=False)
    assert (
        "cannot tell it" in api.get("/runs/bare/configurations", status=422, metric="expected_score")["error"]
    )


def test_findings_say_what_the_report_says(api: Api, runs: Path) -> None:
    run = build_run(runs / "one", depth=6, share=0.6)
    write_report(run)
    said = api.get("/runs/one/findings")
    summary = json.loads((runs / "one" / "report" / "summary.json").read_text())
    assert said["summary"] == {name: summary[name] for name in said["summary"]}
    assert said["notices"] == summary["notices"]
    assert "the run is not finished" in said["progress"]
    assert said["views"] == [{"view": "math", "name": "math"}]


def test_rows_come_in_three_forms_that_say_the_same(api: Api, runs: Path) -> None:
    run = build_run(runs / "two", depth=5, probes=("math", "eq"), behaviour=some_fail)
    truth = run.parts.read().sort_by([(name, "ascending") for name in ("task_id", "probe", "sample_id")])
    read = api.client.get("/api/v1/runs/two/rows", params={"limit": 10_000})
    assert read.json()["rows"] == truth.to_pylist()
    assert int(read.headers["x-total-count"]) == read.json()["total"] == truth.num_rows
    arrow = api.client.get("/api/v1/runs/two/rows", params={"limit": 10_000}, headers={"accept": ARROW})
    assert arrow.headers["content-type"] == ARROW
    assert pa.ipc.open_stream(arrow.content).read_all().to_pylist() == truth.to_pylist()
    csv = api.client.get("/api/v1/runs/two/rows", params={"limit": 10_000, "format": "csv"})
    frame = pd.read_csv(io.BytesIO(csv.content))
    assert list(frame.columns) == truth.column_names
    assert frame["log_odds"].tolist() == pytest.approx(truth["log_odds"].to_pandas().tolist(), nan_ok=True)
    assert json.loads(frame["path"][0]) == truth["path"][0].as_py()
    assert api.client.get("/api/v1/runs/two/rows", headers={"accept": "image/png"}).status_code == 406
    assert (
        api.client.get("/api/v1/runs/two/rows", headers={"accept": "text/csv, */*"})
        .headers["content-type"]
        .startswith("text/csv")
    )


def test_rows_are_filtered_and_paged_without_a_gap_or_a_double(api: Api, runs: Path) -> None:
    run = build_run(runs / "two", depth=5, probes=("math", "eq"), behaviour=some_fail)
    everything = api.get("/runs/two/rows", limit=10_000)["rows"]
    pages = [
        api.get("/runs/two/rows", limit=37, offset=k)["rows"] for k in range(0, len(everything) + 37, 37)
    ]
    assert [row for page in pages for row in page] == everything
    bad = api.get("/runs/two/rows", outcome="non_finite", limit=10_000)
    assert {row["outcome"] for row in bad["rows"]} == {"non_finite"}
    assert bad["total"] == 16
    task = bad["rows"][0]["task_id"]
    found = api.get("/runs/two/rows", task=task, probe="eq")["rows"]
    assert {(row["task_id"], row["probe"]) for row in found} == {(task, "eq")}
    assert len(found) == run.manifest.n_samples["eq"]
    assert api.get("/runs/two/rows", probe="none")["total"] == 0


@pytest.mark.parametrize("form", ["mergekit", "exl3-layer-map", "csv", "json"])
def test_exports_are_those_of_the_command_line(api: Api, runs: Path, form: str) -> None:
    run = build_run(runs / "one", depth=6)
    response = api.client.get(f"/api/v1/runs/one/exports/{form}")
    assert response.text == export(run, format=form)
    assert "attachment" in response.headers["content-disposition"]
    if form in {"mergekit", "exl3-layer-map"}:
        second = api.client.get(f"/api/v1/runs/one/exports/{form}", params={"top": 2})
        assert second.text == export(run, format=form, top=2) != response.text
        assert (
            "no configuration has rank" in api.get(f"/runs/one/exports/{form}", status=409, top=999)["error"]
        )
    assert "give one of them" in api.get(f"/runs/one/exports/{form}", status=422, top=1, block="1,3")["error"]
    api.get("/runs/one/exports/pickle", status=422)


def test_failures_are_grouped_by_what_they_said(api: Api, runs: Path) -> None:
    run = build_run(runs / "one", depth=6, behaviour=some_fail)
    run.attempts.record(
        Attempt("s1", 1, "died", None, "w1", "killed by signal 9\nmore", "2026-01-01T00:00:00+00:00")
    )
    said = api.get("/runs/one/failures")
    assert [(one["outcome"], one["samples"]) for one in said["groups"]] == [("non_finite", 8), ("died", 0)]
    assert said["can_retry"]
    assert said["tasks_failed"] == 1
    assert api.get("/runs/one")["can"] == ["retry"]


def test_two_runs_are_compared_as_the_command_line_does(api: Api, runs: Path) -> None:
    first, second = build_run(runs / "a", depth=6), build_run(runs / "b", depth=8)
    said = api.get("/compare", a="a", b="b")
    told = comparison_dict(compare_runs(read_findings(first), read_findings(second)))
    assert {name: said[name] for name in told} == json.loads(json.dumps(told))
    assert "matched by their share" in said["text"]
    assert "same run" in api.get("/compare", a="a", b="a", status=422)["error"]
    build_run(runs / "c", depth=6, analysis="ablation")
    assert "cannot be compared" in api.get("/compare", a="a", b="c", status=422)["error"]
    for query in ({"a": "a", "b": "none"}, {"a": "none", "b": "a"}):
        assert "run 'none': there is none of this id" in api.get("/compare", status=404, **query)["error"]


def test_a_part_that_is_damaged_in_place_is_noticed_within_seconds(api: Api, runs: Path) -> None:
    run = build_run(runs / "one", depth=6, shard_size=4)
    folders = (run.root, run.root / "parts", run.root / "attempts")
    long_ago = time.time() - 3600
    for folder in folders:
        if folder.exists():
            os.utime(folder, (long_ago, long_ago))
    assert api.get("/runs/one")["state"] == "finished"
    part = min((run.root / "parts").glob("*.parquet"))
    with part.open("r+b") as file:  # its folder's time stays
        file.truncate(7)
    assert (run.root / "parts").stat().st_mtime == pytest.approx(long_ago)
    seen = wait_for(
        lambda: (one := api.get("/runs/one"))["state"] != "finished" and one,
        "the damage",
        seconds=10,
    )
    overview = look_at(RunDirectory.open(run.location))
    assert (seen["state"], seen["tasks_finished"]) == (overview.state, overview.tasks_finished)
    assert api.get("/runs", state="stopped")["total"] == 1


def test_numbers_for_prometheus_leave_out_what_nobody_knows(api: Api, runs: Path) -> None:
    build_run(runs / "done", depth=5)
    build_run(runs / "half", depth=5, share=0.5, shard_size=2)
    text = api.client.get("/api/v1/metrics").text
    assert 'neuroscan_serve_runs{state="finished"} 1.0' in text
    assert 'neuroscan_serve_runs{state="stopped"} 1.0' in text
    assert 'neuroscan_serve_run_tasks_finished{run="half"}' in text
    assert 'run="done"' not in text
    assert "neuroscan_serve_broker_up 0.0" in text
    assert "\nneuroscan_serve_workers " not in text


def test_two_hundred_runs_are_looked_at_once_and_then_by_their_changes(api: Api, runs: Path) -> None:
    build_run(runs / "r0", depth=5)
    for number in range(1, 200):
        shutil.copytree(runs / "r0", runs / f"r{number}")
    assert api.get("/runs", limit=1000)["total"] == 200
    looks = {name: run._looks for name, (run, _) in api.server.runs.listing(fresh=True).runs.items()}
    before = {name: next(iter(found.values())) for name, found in looks.items()}
    api.get("/runs", limit=1000)
    assert all(next(iter(found.values())) is before[name] for name, found in looks.items())


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/api/v1/runs", {"GET", "POST"}),
        ("/api/v1/runs/one/materialize", {"GET", "POST"}),
        ("/api/v1/runs/one/pause", {"POST"}),
        ("/api/v1/runs/one", {"GET"}),
        ("/login", {"GET", "POST"}),
        ("/", {"GET"}),
    ],
)
def test_an_address_names_all_of_its_methods(api: Api, path: str, methods: set[str]) -> None:
    refused = api.client.delete(path)
    assert refused.status_code == 405
    assert set(refused.headers["allow"].split(", ")) == methods
    assert all(method in refused.json()["mend"] for method in methods)
    asked = api.client.options(path)
    assert asked.status_code == 204
    assert set(asked.headers["allow"].split(", ")) == methods
    assert api.client.options("/nonsense").status_code == 404


def test_a_browser_at_an_unknown_address_gets_a_page_and_a_program_gets_json(api: Api) -> None:
    page = api.client.get("/<b>nonsense", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.status_code == 404
    assert page.headers["content-type"].startswith("text/html")
    assert '<a href="/">All runs</a>' in page.text
    assert "/static/report.css" in page.text
    assert "<b>nonsense" not in page.text
    for path, accept in (("/nonsense", "application/json"), ("/api/v1/nonsense", "text/html")):
        said = api.client.get(path, headers={"accept": accept})
        assert said.status_code == 404
        assert said.json()["error"]


def test_without_a_broker_no_worker_is_drained_and_the_description_says_so(api: Api) -> None:
    assert "out of reach" in api.post("/workers/any/drain", status=503)["error"]
    told = api.get("/openapi.json")["paths"]["/api/v1/workers/{name}/drain"]["post"]
    assert "503" in told["description"]
    assert {"404", "503"} <= set(told["responses"])


def test_what_is_said_of_a_run_without_a_baseline_holds_while_it_goes_on(api: Api, runs: Path) -> None:
    run = build_run(runs / "two", depth=6, share=0.0, shard_size=2)
    with lock_of(run.location):
        assert api.get("/runs/two")["state"] == "running"
        (notice,) = [one for one in api.get("/runs/two/findings")["notices"] if "not measured yet" in one]
    assert "If nobody works on the run any more" in notice
