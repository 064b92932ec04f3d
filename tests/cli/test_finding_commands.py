"""`top`, `compare` and `annotate` as a person uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuroscan_farm.store.run_directory import RunDirectory
from tests.cli.conftest import Command
from tests.cli.test_bad_input import refused
from tests.report.conftest import build_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return build_run(tmp_path / "one", probes=("math", "json"))


def test_top_lists_the_best_with_interval_corrected_p_and_cost(command: Command, run: RunDirectory) -> None:
    said = command("top", run.root, "-k", "3")
    assert said.code == 0
    lines = said.stdout.splitlines()
    assert lines[0].split() == [
        "rank",
        "configuration",
        "change",
        "95",
        "%",
        "interval",
        "adj.",
        "p",
        "q",
        "accuracy",
        "cost",
    ]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert "layer time" in lines[1]
    assert "on mean of 2 probes" in lines[4]
    assert lines[5].startswith("best expected under noise: ")


def test_top_on_one_probe_as_data(command: Command, run: RunDirectory) -> None:
    said = command("top", run.root, "-k", "2", "--probe", "json", "--json")
    data = json.loads(said.stdout)
    assert (data["schema_version"], data["probe"]) == (1, "json")
    assert [one["rank"] for one in data["best"]] == [1, 2]
    assert {one["probe"] for one in data["best"]} == {"json"}
    over = json.loads(command("top", run.root, "--json").stdout)
    assert over["probe"] == "*"
    assert len(over["best"]) == 10


def test_top_of_a_run_of_one_probe_has_its_records(command: Command, tmp_path: Path) -> None:
    data = json.loads(command("top", build_run(tmp_path / "single").root, "-k", "1", "--json").stdout)
    assert [one["probe"] for one in data["best"]] == ["math"]


def test_top_of_a_probe_that_is_not_there_is_refused(command: Command, run: RunDirectory) -> None:
    refused(command("top", run.root, "-p", "eq"), 5, "probe eq is not in this run; there are: math, json")


def test_top_of_nothing_says_why(command: Command, tmp_path: Path) -> None:
    said = command("top", build_run(tmp_path / "none", share=0.0).root)
    assert said.stdout == "no configuration has a rank: not measured yet\n"


def test_compare_prints_both_runs_or_data(command: Command, run: RunDirectory, tmp_path: Path) -> None:
    other = build_run(tmp_path / "two", probes=("math", "json"), model="acme/other", seed=4)
    text = command("compare", run.root, other.root).stdout
    assert "acme/other" in text
    assert "configurations have a change in both" in text
    data = json.loads(command("compare", run.root, other.root, "--json").stdout)
    assert [view["probe"] for view in data["views"]] == ["*", "math", "json"]


def test_compare_refuses_runs_that_differ(command: Command, run: RunDirectory, tmp_path: Path) -> None:
    other = build_run(tmp_path / "two", analysis="ablation", probes=("math", "json"))
    refused(
        command("compare", run.root, other.root), 5, "they differ in: analysis (duplication and ablation)"
    )


def test_annotate_prints_the_sentences_and_writes_a_page(
    command: Command, run: RunDirectory, tmp_path: Path
) -> None:
    labels = tmp_path / "report.json"
    labels.write_text(json.dumps({"layer_labels": {str(layer): "syntax" for layer in range(6)}}))
    said = command("annotate", run.root, labels)
    assert said.code == 0
    assert [line[:6] for line in said.stdout.splitlines()] == ["Rank 1", "Rank 2", "Rank 3"]
    assert (run.root / "report" / "annotated.html").read_text().startswith("<!doctype html>")
    elsewhere = tmp_path / "page.html"
    assert command("annotate", run.root, labels, "-o", elsewhere, "-k", "1", "-p", "json").code == 0
    assert "Rank 1, " in elsewhere.read_text()


def test_annotate_refuses_labels_of_another_depth(
    command: Command, run: RunDirectory, tmp_path: Path
) -> None:
    labels = tmp_path / "report.json"
    labels.write_text(json.dumps({"total_layers": 28, "layer_labels": {"0": "syntax"}}))
    refused(command("annotate", run.root, labels), 5, "total_layers is 28, but the run's model has 6 layers")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("materialize", "RUN", "-o", "out"), "no configuration is named"),
        (("materialize", "RUN", "-o", "out", "--top", "1", "--block", "1,2"), "give one of them"),
        (("export", "RUN", "--format", "mergekit", "--path", "0..3", "--block", "1,2"), "give one of them"),
        (("verify", "out", "--run", "RUN", "--path", "0..3", "--block", "1,2"), "give one of them"),
        (("verify", "out"), "--run"),
    ],
)
def test_wrong_usage_ends_with_exit_code_2(
    command: Command, run: RunDirectory, words: tuple[str, ...], said: str
) -> None:
    ended = command(*(str(run.root) if word == "RUN" else word for word in words))
    assert ended.code == 2
    assert said in ended.stderr
    assert ended.stdout == ""


def test_materialize_says_the_least_size_of_a_weight_file(command: Command, run: RunDirectory) -> None:
    ended = command("materialize", run.root, "-o", "out", "--top", "1", "--shard-size", "60KB")
    refused(ended, 5, "shard-size '60KB' is less than a megabyte; the least is 1MB")


def test_the_audit_of_a_run_that_holds_samples_out_is_of_those_that_choose(
    command: Command, tmp_path: Path
) -> None:
    held = build_run(tmp_path / "held", n_samples=32, confirm=0.5)
    said = command("probes", "audit", "--run", held.root)
    assert "scores are of the 16 samples that choose; the run holds out the other 16" in said.stdout
    (one,) = json.loads(command("probes", "audit", "--run", held.root, "--json").stdout)["probes"]
    assert (one["n_samples"], one["run"]["samples"]) == (32, 16)
