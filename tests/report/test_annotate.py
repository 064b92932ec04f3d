"""Labels of layers over a run: what is read, what is refused, what is said and drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.domain.paths import Block
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.errors import RequestError, RunError
from neuroscan_farm.report.ablation import ablation_json
from neuroscan_farm.report.annotate import annotation_lines, read_labels
from neuroscan_farm.report.annotated_page import annotated_figure, annotated_html, label_colours
from neuroscan_farm.report.findings import read_findings
from tests.report.ablation_runs import losing
from tests.report.conftest import MakeRun

LABELS = {
    "0": "early_processing",
    "1": "syntax",
    "2": "reasoning",
    "3": "reasoning",
    "4": "reasoning",
    "5": "output",
}
WHOLE = {
    "model": "acme/tiny-llama",
    "total_layers": 6,
    "layer_labels": LABELS,
    "top_important_layers": [3, 0],
}


def only_1_4_helps(probe: str, task: Task, sample: int, random: np.random.Generator) -> tuple[float, Outcome]:
    gain = 1.0 if task.block == Block(1, 4) else -0.1 * len(task.path) if task.block else 0.0
    return gain + 0.1 * sample, Outcome.OK


def written(folder: Path, content: Any) -> Path:
    path = folder / "theirs.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_labels_are_read_by_layer_and_what_has_none_is_unknown(tmp_path: Path) -> None:
    labels = read_labels(written(tmp_path, {"layer_labels": {"1": "syntax", "3": "reasoning"}}), depth=4)
    assert labels.labels == ("unknown", "syntax", "unknown", "reasoning")
    assert labels.names == ("syntax", "reasoning", "unknown")
    assert labels.important == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{not json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([1, 2], "holds a list; a report.json is an object with layer_labels"),
        ({"total_layers": 6}, "layer_labels is missing; it maps layers to labels"),
        ({"layer_labels": ["a"]}, "layer_labels is a list"),
        ({"layer_labels": {}}, "layer_labels is empty, so there is nothing to overlay"),
        (WHOLE | {"total_layers": 28}, "total_layers is 28, but the run's model has 6 layers"),
        ({"layer_labels": {"6": "output"}}, "names layer '6', but the run's model has layers 0 to 5"),
        ({"layer_labels": {"-1": "output"}}, "names layer '-1'"),
        ({"layer_labels": {"last": "output"}}, "names layer 'last'"),
        ({"layer_labels": {"2": None}}, "the label of layer 2 is null; a label is a text"),
        ({"layer_labels": {"2": 7}}, "the label of layer 2 is a number"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_name_and_the_mend(
    tmp_path: Path, content: Any, said: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(RequestError, match=re.escape(f"{path}: ")) as error:
        read_labels(path, depth=6)
    assert said in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere\.json: cannot be read \(No such file or directory\)"):
        read_labels(tmp_path / "nowhere.json", depth=6)


def test_our_own_report_has_no_labels_and_says_so(make_run: MakeRun, tmp_path: Path) -> None:
    content = ablation_json(read_findings(make_run(analysis="ablation", behaviour=losing())), probe="math")
    with pytest.raises(RequestError, match=r"as in our own report\.json, tells none"):
        read_labels(written(tmp_path, content), depth=6)


def test_the_sentence_counts_the_labelled_layers_that_the_winner_duplicates(
    make_run: MakeRun, tmp_path: Path
) -> None:
    findings = read_findings(make_run(behaviour=only_1_4_helps))
    (line,) = annotation_lines(findings, read_labels(written(tmp_path, WHOLE), depth=6), top_k=1)
    assert line.startswith(
        "Rank 1, (1, 4) (+1.000 nats), duplicates 3 layers: 2 labelled reasoning, 1 labelled syntax."
    )
    # Windows of three layers hold 1, 2, 3 and 2 of the reasoning layers.
    assert "The model has 3 reasoning layers, of which it duplicates 2" in line
    assert "a block of 3 layers placed anywhere holds 2.0 on average" in line
    assert "1 of the 2 layers that the file calls most important is among them (3)." in line


def test_an_ablation_says_what_it_leaves_out(make_run: MakeRun, tmp_path: Path) -> None:
    labels = read_labels(written(tmp_path, WHOLE), depth=6)
    run = make_run(analysis="ablation", parameters={"components": ["layer", "mlp"]}, behaviour=losing())
    lines = annotation_lines(read_findings(run), labels, top_k=2)
    assert "without 3 (" in lines[0]
    assert "leaves out 1 layer: 1 labelled reasoning." in lines[0]
    assert "leaves out the mlp of 1 layer: 1 labelled reasoning." in lines[1]


def test_labels_of_another_model_and_missing_labels_are_remarked(make_run: MakeRun, tmp_path: Path) -> None:
    labels = read_labels(
        written(tmp_path, {"model": "other/model", "layer_labels": {"0": "syntax"}}), depth=6
    )
    lines = annotation_lines(read_findings(make_run()), labels, top_k=1)
    assert (
        lines[0] == "The labels are of other/model, the run is of acme/tiny-llama: see that it is one model."
    )
    assert lines[1] == "5 of 6 layers have no label there."


def test_nothing_measured_has_no_winner_to_explain(make_run: MakeRun, tmp_path: Path) -> None:
    labels = read_labels(written(tmp_path, WHOLE), depth=6)
    assert annotation_lines(read_findings(make_run(share=0.0)), labels) == [
        "Nothing is ranked yet, so there is no winner to explain."
    ]


def test_the_band_stands_at_both_axes_of_the_heatmap_with_a_colour_for_each_label(
    make_run: MakeRun, tmp_path: Path
) -> None:
    labels = read_labels(written(tmp_path, WHOLE), depth=6)
    findings = read_findings(make_run())
    figure = annotated_figure(findings, labels).figure
    colours = label_colours(labels)
    assert len(set(colours.values())) == len(colours) == 5
    left = {shape.y0 + 0.5: shape.fillcolor for shape in figure.layout.shapes if shape.x1 < 0.5}
    above = {shape.x0 + 0.5: shape.fillcolor for shape in figure.layout.shapes if shape.y1 < -0.5}
    assert [left[layer] for layer in range(6)] == [colours[name] for name in labels.labels]
    # The column of j is of blocks whose last layer is j - 1.
    assert [above[j] for j in range(1, 7)] == [colours[name] for name in labels.labels]
    assert "reasoning (3)" in {trace.name for trace in figure.data}


def test_the_page_holds_the_sentences_and_nothing_of_the_file_is_markup(
    make_run: MakeRun, tmp_path: Path
) -> None:
    evil = WHOLE | {"layer_labels": LABELS | {"0": "<script>alert(1)</script>"}, "model": "</script><b>x"}
    labels = read_labels(written(tmp_path, evil), depth=6)
    findings = read_findings(make_run())
    lines = annotation_lines(findings, labels)
    html = annotated_html(findings, annotated_figure(findings, labels), lines=lines, source="<i>.json")
    assert "Rank 1, " in html
    for bad in ("<script>alert", "</script><b>x", "<i>.json"):
        assert bad not in html
    assert 'http-equiv="Content-Security-Policy"' in html


def test_a_run_of_a_few_explicit_orders_has_nothing_to_lay_labels_over(
    make_run: MakeRun, tmp_path: Path
) -> None:
    findings = read_findings(make_run(parameters={"paths": ["5,0..4"]}))
    with pytest.raises(RunError, match="has neither"):
        annotated_figure(findings, read_labels(written(tmp_path, WHOLE), depth=6))
