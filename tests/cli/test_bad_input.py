"""Bad input: one message that says where, what was found, what is accepted and the mend; the right exit code; no data."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.store.run_directory import RunDirectory
from tests.cli.conftest import Command, Said
from tests.paper_models import finish, paper_model, paper_plan, paper_probe

PROGRAM = str(Path(sys.executable).with_name("neuroscan-farm"))


def refused(said: Said, code: int, *pieces: str) -> None:
    """Check that a command ended with `code`, one message that holds the pieces, and nothing on stdout."""
    assert said.code == code, said
    assert said.stdout == ""
    assert "Traceback" not in said.stderr
    assert [line for line in said.stderr.splitlines() if line.startswith("error: ")], said.stderr
    assert said.stderr.count("error: ") == 1
    for piece in pieces:
        assert piece in said.stderr


Asking = Callable[..., Said]


@pytest.fixture(params=["plan", "run", "submit"])
def asking(request: pytest.FixtureRequest, command: Command, model: Path, probe: Path) -> Asking:
    """Return a function that asks for a scan by each of the commands that take a request; a word of None is left out."""

    def ask(*words: str | Path, model: Path | str | None = model, probe: Path | str | None = probe) -> Said:
        given = [*(["-m", model] if model else []), *(["-p", probe] if probe else [])]
        return command(request.param, "duplication", *given, *words)

    return ask


def test_a_model_folder_that_is_not_there(asking: Asking) -> None:
    refused(
        asking(model="/nowhere/at/all"), 5, "model /nowhere/at/all: no such folder", "config.json", "`demo`"
    )


def test_a_model_folder_without_a_config(asking: Asking, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(asking(model=tmp_path / "empty"), 5, "config.json is missing")


def test_a_model_whose_config_is_broken(asking: Asking, model: Path) -> None:
    (model / "config.json").write_text('{"num_hidden_layers": ')
    refused(asking(), 5, "config.json: cannot be read", "fetch the model again")


def test_a_model_without_weights(asking: Asking, model: Path) -> None:
    (model / "model.safetensors").unlink()
    refused(asking(), 5, f"model {model}", "no .safetensors file")


def test_a_model_that_is_no_decoder(asking: Asking, tmp_path: Path) -> None:
    bert = paper_model(tmp_path / "bert", architectures=["BertForMaskedLM"], model_type="bert")
    refused(asking(model=bert), 5, "BertForMaskedLM is no decoder language model")
    t5 = paper_model(tmp_path / "t5", architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True)
    refused(asking(model=t5), 5, "encoder-decoder; only decoder-only models can be scanned")


def test_an_unknown_probe(asking: Asking) -> None:
    refused(asking(probe="mth"), 5, 'unknown probe "mth"', "did you mean math", "accepted: ")
    refused(asking(probe="nowhere.json"), 5, "nowhere.json: no such file")


def test_an_empty_probe(asking: Asking, probe: Path) -> None:
    probe.write_text('{"name": "sums", "samples": []}')
    refused(asking(), 5, f"{probe}: samples")
    probe.write_text("")
    refused(asking(), 5, str(probe))


def test_a_probe_with_several_problems_lists_them_all_with_their_sample_numbers(
    asking: Asking, probe: Path
) -> None:
    samples = [{"prompt": "1+1=", "answer": 2}, {"answer": 2}, {"prompt": "9+9=", "answer": 18}]
    probe.write_text(json.dumps({"name": "sums", "samples": samples}))
    refused(asking(), 5, "2 problems", "sample 2", "sample 3")


def test_a_request_without_a_model_or_a_probe(asking: Asking) -> None:
    refused(asking(model=None, probe=None), 5, "model is missing", "probes is missing")


def test_an_unknown_key_in_a_request_file(asking: Asking, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("mdoel: demo\nparameters: {min_blok: 3}\n")
    said = asking("--config", tmp_path / "grid.yaml")
    refused(
        said,
        5,
        "grid.yaml: mdoel is not known; did you mean model?",
        "parameters.min_blok is not known; did you mean min_block?",
    )


def test_a_min_block_larger_than_the_depth(asking: Asking) -> None:
    refused(asking("--min-block", "90"), 5, "min_block is 90 but this model has 6 layers", "use 1 to 6")


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (["--block", "3,9"], ["block 3,9 reaches beyond the model: it has 6 layers; use j <= 6"]),
        (["--block", "5,3"], ["need 0 <= i < j"]),
        (["--path", "0..9"], ["visits layer 9, but this model has 6 layers; use 0 to 5"]),
        (["--path", "5..3"], ["runs backwards"]),
        (["--min-block", "0"], ["parameters.min_block is 0"]),
        (["--dtype", "int4"], ["engine.dtype is 'int4'", "'float32'"]),
        (["--metric", "accuracy"], ["metric is 'accuracy'", "'log_odds'"]),
        (["--shard-size", "0"], ["shard_size is 0"]),
        (["--path", "0..99999999999"], ["too long"]),
        (["--skip-early", "6"], ["leave no layer", "this model has 6 layers"]),
    ],
)
def test_parameters_that_do_not_fit(asking: Asking, words: list[str], pieces: list[str]) -> None:
    refused(asking(*words), 5, *pieces)


def test_an_unknown_analysis(command: Command, model: Path, probe: Path) -> None:
    refused(
        command("plan", "ablashun", "-m", model, "-p", probe),
        5,
        "analysis 'ablashun' is not known; there are: duplication",
    )


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "duplication", "--mdoel", "demo"],
        ["plan", "duplication", "--min-block", "three"],
        ["plan", "duplication", "-m"],
        ["plam"],
        ["status"],
        ["probes", "shw", "math"],
        ["export", "run"],
        ["plan", "duplication", "demo"],
    ],
)
def test_words_that_are_no_command_end_with_two(command: Command, words: list[str]) -> None:
    said = command(*words)
    assert said.code == 2
    assert said.stdout == ""
    assert "Usage: " in said.stderr or said.stderr.startswith("Error: ")
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/neuroscan/run"])
def test_an_output_that_cannot_be_written(
    command: Command, model: Path, probe: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(
        command("run", "duplication", "-m", model, "-p", probe, "-o", place), 1, place, "choose another place"
    )


def test_an_output_that_holds_something_else(
    command: Command, model: Path, probe: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("")
    said = command("run", "duplication", "-m", model, "-p", probe, "-o", "thesis")
    refused(said, 5, "thesis: the directory is not empty and holds no run; choose a new one with --output")


def test_an_output_that_holds_the_run_of_another_request(
    command: Command, model: Path, probe: Path, tmp_path: Path
) -> None:
    prepare(paper_plan(model, probe), tmp_path / "run", executor="local")
    said = command(
        "run", "duplication", "-m", model, "-p", probe, "--shard-size", "4", "--step", "2", "-o", "run"
    )
    refused(
        said,
        5,
        "holds the run",
        "of another request",
        "its parameters.step is 1, not 2",
        "give another --output",
    )


def test_a_broker_out_of_reach_leaves_no_trace(
    command: Command, model: Path, probe: Path, tmp_path: Path
) -> None:
    said = command(
        "submit",
        "duplication",
        "-m",
        model,
        "-p",
        probe,
        "--broker",
        "redis://:secret@127.0.0.1:1/0",
        "-o",
        "run",
    )
    refused(said, 4, "127.0.0.1:1")
    assert "secret" not in said.stderr
    assert not (tmp_path / "run").exists()


def test_a_broker_whose_address_is_no_address(command: Command, model: Path, probe: Path) -> None:
    refused(command("submit", "duplication", "-m", model, "-p", probe, "--broker", "amqp://x"), 4, "redis://")


@pytest.fixture
def run(model: Path, probe: Path, tmp_path: Path) -> RunDirectory:
    return prepare(paper_plan(model, probe), tmp_path / "run", executor="local")


RUN_COMMANDS = ["status", "watch", "cancel", "report", "resume"]


@pytest.mark.parametrize("name", RUN_COMMANDS)
def test_a_run_that_is_not_there(command: Command, name: str) -> None:
    refused(
        command(name, "nothing"),
        5,
        "run 'nothing': neither a run directory nor an id",
        "`neuroscan-farm ls` lists the runs",
    )


@pytest.mark.parametrize("name", RUN_COMMANDS)
@pytest.mark.parametrize("file", ["manifest.json", "plan.parquet"])
def test_a_run_that_is_damaged(command: Command, run: RunDirectory, name: str, file: str) -> None:
    (run.root / file).write_text("{")
    refused(command(name, run.root), 5, file)


def test_a_damaged_run_does_not_hide_the_others(command: Command, run: RunDirectory, tmp_path: Path) -> None:
    broken = prepare(
        paper_plan(tmp_path / "tiny", tmp_path / "sums.json", shard_size=5),
        tmp_path / "broken",
        executor="local",
    )
    (broken.root / "plan.parquet").unlink()
    said = _with_runs(command, tmp_path, "ls")
    assert said.code == 0
    assert run.manifest.run_id in said.stdout
    assert "plan.parquet: cannot be read" in said.stderr
    planned = _with_runs(
        command,
        tmp_path,
        "plan",
        "duplication",
        "-m",
        str(tmp_path / "tiny"),
        "-p",
        str(tmp_path / "sums.json"),
    )
    assert planned.code == 0


def _with_runs(command: Command, runs: Path, *words: str) -> Said:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROSCAN_RUNS_DIR", str(runs))
        return command(*words)


def test_a_bad_part_is_told_by_status_and_its_tasks_are_missing(command: Command, run: RunDirectory) -> None:
    finish(run)
    first = run.shards()[0]
    path = run.parts.path(first.shard_id)
    path.write_bytes(path.read_bytes()[:100])
    said = command("status", run.root, "--json")
    overview = json.loads(said.stdout)
    assert said.code == 0
    assert overview["state"] == "stopped"
    assert overview["tasks_finished"] == overview["tasks"] - len(first.tasks)


def test_a_run_that_finished_with_failed_tasks_ends_with_three(command: Command, run: RunDirectory) -> None:
    finish(run, run.shards()[1:])
    finish(run, run.shards()[:1], outcome=Outcome.NON_FINITE)
    assert command("status", run.root).code == 3
    assert command("watch", run.root).code == 3


def test_waiting_that_is_given_up_ends_with_six(
    command: Command, model: Path, probe: Path, tmp_path: Path
) -> None:
    queued = prepare(paper_plan(model, probe), tmp_path / "queued", executor="celery")
    said = command("watch", queued.root, "--timeout", "0")
    assert said.code == 6
    assert "is queued after 0 s (0 of 22 tasks); it goes on" in said.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_in_order(
    model: Path, probe: Path, tmp_path: Path, number: int, code: int
) -> None:
    queued = prepare(paper_plan(model, probe), tmp_path / "queued", executor="celery")
    words = [PROGRAM, "watch", str(queued.root), "--interval", "0.1"]
    ours, theirs = os.openpty()  # on a terminal it shows at once that it watches
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs, text=True, env=_environment())
    os.close(theirs)
    try:
        shown = os.read(ours, 4096)
        process.send_signal(number)
        stdout, _ = process.communicate(timeout=60)
        with contextlib.suppress(OSError):  # Linux says so where a terminal ends
            while more := os.read(ours, 4096):
                shown += more
    finally:
        process.kill()
        os.close(ours)
    assert process.returncode == code, shown
    assert b"Traceback" not in shown
    assert stdout == ""


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("NEUROSCAN_")}


def test_a_reader_who_goes_away_is_no_error(tmp_path: Path) -> None:
    line = f"'{PROGRAM}' probes show math | head -n 1"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=_environment(), timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].startswith("math: ")


def test_an_error_through_the_real_entry_point_is_one_message(tmp_path: Path) -> None:
    words = [PROGRAM, "plan", "duplication", "-m", "/nowhere/at/all", "-p", "math"]
    done = subprocess.run(words, capture_output=True, text=True, env=_environment(), timeout=60)
    assert (done.returncode, done.stdout) == (5, "")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("NEUROSCAN_CACHE_GB", "-1"), ("NEUROSCAN_LOG_LEVEL", "LOUD"), ("NEUROSCAN_DTYPE", "int4")],
)
def test_a_wrong_variable(asking: Asking, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    refused(asking(), 5, value)


@pytest.mark.parametrize(
    ("words", "code", "pieces"),
    [
        (["--format", "pickle"], 5, ["pickle", "mergekit"]),
        (["--format", "mergekit", "--block", "4,9"], 5, ["reaches beyond the model: it has 6 layers"]),
        (
            ["--format", "mergekit", "--metric", "accuracy"],
            5,
            ["metric 'accuracy' is not known; there are: log_odds"],
        ),
        (["--format", "csv", "-o", "/proc/neuroscan/x.csv"], 1, ["/proc/neuroscan/x.csv"]),
    ],
)
def test_an_export_that_cannot_be_made(
    command: Command, run: RunDirectory, words: list[str], code: int, pieces: list[str]
) -> None:
    finish(run)
    refused(command("export", run.root, *words), code, *pieces)


def test_two_names_for_one_configuration_are_wrong_usage(command: Command, run: RunDirectory) -> None:
    finish(run)
    said = command("export", run.root, "--format", "mergekit", "--block", "1,3", "--path", "0..5")
    assert said.code == 2
    assert "--block, --path and --top each name a configuration; give one of them" in said.stderr
    assert said.stdout == ""


def test_a_probe_file_is_validated_by_its_own_command(command: Command, tmp_path: Path, probe: Path) -> None:
    probe.write_text('{"name": "sums", "sampels": []}')
    refused(command("probes", "validate", probe), 5, "sampels", "did you mean samples?")
    whole = command("probes", "validate", paper_probe(tmp_path / "whole.json"))
    assert (whole.code, whole.stdout) == (0, "sums: 3 samples, valid\n")
