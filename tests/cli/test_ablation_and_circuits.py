"""Ablation and circuits from the shell: the options become the request, and `plan` says what it comes to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from neuroscan_farm.store.run_directory import RunDirectory
from tests.cli.conftest import Command
from tests.paper_models import paper_model, paper_probe


def test_the_options_of_circuits_become_its_request(command: Command, model: Path, probe: Path) -> None:
    words = (
        "--strategy",
        "thorough",
        "--top-layers",
        3,
        "--similarity",
        0.9,
        "--pair",
        "1,4",
        "--pair",
        "0,2",
    )
    said = command("plan", "circuits", "-m", model, "-p", probe, *map(str, words))
    assert said.code == 0, said.stderr
    assert (
        "tasks              9 in 1 shards, and pairs around the layers whose absence moves scores most and pairs of "
        "layers that are alike when they are finished" in said.stdout
    )


def test_the_options_of_ablation_become_its_request(command: Command, model: Path, probe: Path) -> None:
    words = ("--component", "attention", "--component", "mlp", "--layers", "0..2,5")
    said = command("plan", "ablation", "-m", model, "-p", probe, *words, "--json")
    assert said.code == 0, said.stderr
    assert json.loads(said.stdout)["tasks"] == 1 + 2 * 4


def test_controls_become_blocks(command: Command, model: Path, probe: Path) -> None:
    said = command(
        "plan", "duplication", "-m", model, "-p", probe, "--block", "1,3", "--controls", "3", "--json"
    )
    assert said.code == 0, said.stderr
    assert json.loads(said.stdout)["tasks"] == 1 + 1 + 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("circuits", "--pair", "3,3"), "names layer 3 twice: a layer does not interact with itself"),
        (("circuits", "--pair", "3,6"), "this model has 6 layers; use 0 to 5"),
        (("circuits", "--layers", "3"), "parameters.layers is not known"),
        (("circuits", "--component", "mlp"), "parameters.components is not known"),
        (("ablation", "--strategy", "fast"), "parameters.strategy is not known"),
        (("ablation", "--block", "1,2"), "parameters.blocks is not known"),
        (("duplication", "--controls", "2"), "no block is named"),
        (
            ("duplication", "--path", "0..2,3:ffn"),
            "a layer has no component 'ffn'; there are: attention, mlp",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(
    words: tuple[str, ...], said: str, command: Command, model: Path, probe: Path
) -> None:
    answer = command("plan", words[0], "-m", model, "-p", probe, *words[1:])
    assert answer.code == 5
    assert said in answer.stderr
    assert not answer.stdout


def test_plan_shows_that_exhaustive_pairs_cost_about_a_third(
    command: Command, tmp_path: Path, probe: Path
) -> None:
    deep = paper_model(tmp_path / "deep", num_hidden_layers=80)
    said = command("plan", "circuits", "-m", deep, "-p", probe, "--strategy", "exhaustive", "--json")
    cost = json.loads(said.stdout)
    assert cost["tasks"] == 1 + 80 + 3_160
    assert cost["evaluations_naive"] == 3 * (80 + 80 * 79 + 246_480)
    assert 85_400 * 3 <= cost["evaluations_shared"] <= 1.05 * 85_400 * 3


def test_help_names_every_analysis_and_what_it_does(command: Command) -> None:
    said = re.sub(r"\s+", " ", command("run", "--help").stdout)
    for words in ("duplication: run blocks", "ablation: leave out one layer", "circuits: leave out pairs"):
        assert words in said


def test_a_run_of_half_layers_and_one_of_similar_pairs_end_with_their_reports(
    command: Command, tiny_llama: Path, tmp_path: Path
) -> None:
    probe = paper_probe(tmp_path / "few.json", samples=4)
    ablated = command("run", "ablation", "-m", tiny_llama, "-p", probe, "--component", "mlp", "-o", "ablated")
    assert ablated.code == 0, ablated.stderr
    run = RunDirectory.open("ablated")
    steps = {tuple(row["path"]) for row in run.parts.read().to_pylist()}
    assert steps == {
        tuple(range(6)),
        *((*range(k), 10_000 + k, *range(k + 1, 6)) for k in range(6)),
    }
    best = "0..2,3:attention,4..5"
    for target in ("mergekit", "exl3-layer-map"):
        refused = command("export", "ablated", "--format", target, "--path", best, "-o", "out")
        assert refused.code == 5
        assert f"path {best} runs one component of a layer alone" in refused.stderr
    assert not Path("out").exists()
    paired = command(
        "run",
        "circuits",
        "-m",
        tiny_llama,
        "-p",
        probe,
        "--strategy",
        "thorough",
        "--top-layers",
        "1",
        "-o",
        "paired",
    )
    assert paired.code == 0, paired.stderr
    run = RunDirectory.open("paired")
    assert len(run.similarity.read()) == 6
    assert run.plan_complete()
    assert any(len(task.path.skipped(6)) == 2 for shard in run.shards() for task in shard.tasks)


@pytest.mark.parametrize(
    ("strategy", "further"),
    [
        ("fast", ""),
        ("exhaustive", ""),
        ("thorough", ", and pairs of layers that are alike when they are finished"),
    ],
)
def test_without_top_layers_no_pairs_around_them_are_promised(
    command: Command, model: Path, probe: Path, strategy: str, further: str
) -> None:
    words = ("--strategy", strategy, "--top-layers", "0", "--pair", "1,4")
    said = command("plan", "circuits", "-m", model, "-p", probe, *words)
    assert said.code == 0, said.stderr
    (tasks,) = [line for line in said.stdout.splitlines() if line.startswith("tasks ")]
    assert tasks.endswith(f" shards{further}")
