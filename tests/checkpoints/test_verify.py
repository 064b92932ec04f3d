"""Verify: a checkpoint that is what the run measured is certified, and whatever else it may be is found out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from neuroscan_farm.checkpoints.certificate import CERTIFICATE_FILE, Certificate
from neuroscan_farm.checkpoints.materialize import materialize
from neuroscan_farm.checkpoints.verify import verify
from neuroscan_farm.coordinator.extend import plan_addition
from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.engine.shard import execute_shard
from neuroscan_farm.errors import ModelError, RequestError, WorkerError
from neuroscan_farm.planning.facts import fingerprint
from neuroscan_farm.store.additions import place_of_addition
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.paper_models import paper_probe
from tests.tiny_models import make_tiny

PATH = LayerPath.parse("0..3,1..5")  # the block 1,4
SAME_LENGTH = LayerPath.parse("0..4,2..5")

Check = Callable[..., Certificate]


@pytest.fixture
def run(make_run: MakeRun, warm: Any) -> RunDirectory:
    """A run that has measured the path and nothing else."""
    made = make_run(shard_size=1)
    shard = next(shard for shard in made.shards() if shard.tasks[0].path == PATH)
    execute_shard(made, shard.shard_id, 1, worker="w", warm=warm)
    return made


@pytest.fixture
def checkpoint(run: RunDirectory, tmp_path: Path) -> Path:
    return materialize(run, PATH, tmp_path / "out").folder


@pytest.fixture
def check(run: RunDirectory, checkpoint: Path, tmp_path: Path) -> Check:
    def check(path: LayerPath | None = None, *, of: RunDirectory = run) -> Certificate:
        return verify(checkpoint, of, path=path, cache_dir=tmp_path / "cache", cache_bytes=10**9)

    return check


def test_what_materialize_wrote_is_certified_with_all_that_it_rests_on(
    check: Check, run: RunDirectory, checkpoint: Path
) -> None:
    found = check()
    assert found.is_equal
    assert found.reasons == ()
    assert (found.layers_expected, found.layers_found, found.path) == (9, 9, str(PATH))
    assert found.logits is not None
    assert found.logits.samples == 8
    assert found.logits.largest_relative is not None
    assert found.logits.largest_relative <= found.logits.allowed_relative == 1e-5
    assert found.rows.compared == 8
    assert found.rows.largest_difference is not None
    assert found.rows.allowed is not None
    assert found.rows.largest_difference <= found.rows.allowed
    assert found.source_fingerprint == run.manifest.model_fingerprint
    assert found.checkpoint_fingerprint == fingerprint(checkpoint) != found.source_fingerprint
    assert found.relative_latency is not None
    assert found.relative_latency > 0
    assert found.relative_layers == 1.5
    assert json.loads((checkpoint / "verification.json").read_text())["verdict"] == "equal"
    assert "is the model along the path" in found.text()
    assert check().is_equal, "the certificate itself changes nothing"


def test_probes_that_were_added_to_the_run_are_compared_too(
    check: Check, run: RunDirectory, warm: Any, tmp_path: Path
) -> None:
    before = check()
    plan = plan_addition(run, [str(paper_probe(tmp_path / "added.json", name="added", samples=5))])
    addition = prepare(plan, place_of_addition(run, plan.run_id), executor="local")
    for shard in addition.shards():
        execute_shard(addition, shard.shard_id, 1, worker="test", warm=warm)
    certificate = check()
    assert certificate.is_equal
    assert certificate.logits is not None
    assert before.logits is not None
    assert certificate.logits.samples == before.logits.samples + 5
    assert certificate.rows.compared == before.rows.compared + 5


def forget_the_record(checkpoint: Path) -> None:
    (checkpoint / "neuroscan.json").unlink()


def test_one_changed_weight_is_found_by_digest_logits_and_rows(check: Check, checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.5.mlp.down_proj.weight"][0, 0] += 3
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    found = check()
    said = " ".join(found.reasons)
    assert not found.is_equal
    assert "1 of its files are not what was written, such as model.safetensors" in said
    assert "its logits differ from those of the source" in said
    assert "its scores differ from the run's rows" in said
    assert json.loads((checkpoint / "verification.json").read_text())["verdict"] == "different"
    assert "is NOT the model along the path" in found.text()


def test_a_checkpoint_of_another_path_of_the_same_length_is_found_out(check: Check, checkpoint: Path) -> None:
    with pytest.raises(RequestError, match=r"was made along 0\.\.3,1\.\.5, and 0\.\.4,2\.\.5 is asked for"):
        check(SAME_LENGTH)
    forget_the_record(checkpoint)
    found = check(SAME_LENGTH)
    assert not found.is_equal
    assert found.rows.compared == 0
    assert "has not measured it yet" in found.rows.note
    assert [reason for reason in found.reasons if "its logits differ" in reason]


def test_too_few_layers_are_found_out(check: Check, checkpoint: Path) -> None:
    forget_the_record(checkpoint)
    config = (checkpoint / "config.json").read_text()
    (checkpoint / "config.json").write_text(
        config.replace('"num_hidden_layers": 9', '"num_hidden_layers": 6')
    )
    found = check(PATH)
    assert found.reasons[0] == "its config says 6 layers, the path has 9"
    assert (found.layers_found, found.is_equal) == (6, False)


def test_missing_weights_are_found_out(check: Check, checkpoint: Path) -> None:
    forget_the_record(checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.layers.8.mlp.down_proj.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    found = check(PATH)
    assert "1 of its weights are missing, such as model.layers.8.mlp.down_proj.weight" in found.reasons


def test_another_tokenizer_is_found_out(check: Check, checkpoint: Path) -> None:
    forget_the_record(checkpoint)
    text = json.loads((checkpoint / "tokenizer.json").read_text())
    ids = text["model"]["vocab"]
    ids["1"], ids["2"] = ids["2"], ids["1"]
    (checkpoint / "tokenizer.json").write_text(json.dumps(text))
    assert any("its tokenizer is another" in reason for reason in check(PATH).reasons)
    (checkpoint / "tokenizer.json").write_text("{")
    assert any("its tokenizer cannot be loaded" in reason for reason in check(PATH).reasons)


def test_a_folder_that_transformers_cannot_load_is_certified_as_different(
    check: Check, checkpoint: Path
) -> None:
    forget_the_record(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"hidden_act": "none of those"}))
    found = check(PATH)
    assert found.logits is None
    assert any("transformers cannot load it" in reason for reason in found.reasons)


def test_a_mergekit_folder_tells_its_path_itself(check: Check, checkpoint: Path) -> None:
    forget_the_record(checkpoint)
    with pytest.raises(
        RequestError, match=r"neither neuroscan\.json nor mergekit_config\.yml says which layers"
    ):
        check()
    slices = [f"{{sources: [{{model: m, layer_range: [{a}, {b}]}}]}}" for a, b in PATH.runs()]
    text = f"merge_method: passthrough\ndtype: float32\nslices: [{', '.join(slices)}]\n"
    (checkpoint / "mergekit_config.yml").write_text(text)
    found = check()
    assert found.is_equal
    assert (found.made_by, found.path, found.checkpoint_digest) == ("mergekit", str(PATH), None)


def test_the_wrong_run_is_refused_before_anything_is_loaded(
    check: Check, checkpoint: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    other = make_run("other", model=str(make_tiny("llama", tmp_path / "other-model", seed=1)))
    with pytest.raises(
        ModelError, match=r"made of .*tiny-llama .* and run .* name the run that it was made from"
    ):
        check(of=other)
    (checkpoint / "neuroscan.json").write_text('{"schema_version": 1}')
    with pytest.raises(ModelError, match=r"neuroscan\.json: damaged"):
        check()


def test_another_models_weights_of_the_same_shape_are_found_out(
    check: Check, checkpoint: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    other = make_run("other", model=str(make_tiny("llama", tmp_path / "other-model", seed=1)))
    shutil.copy(materialize(other, PATH, tmp_path / "theirs").folder / "model.safetensors", checkpoint)
    forget_the_record(checkpoint)
    assert not check(PATH).is_equal


def test_in_bfloat16_the_rounding_of_bfloat16_is_allowed(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("coarse", engine={"dtype": "bfloat16"})
    made = materialize(run, PATH, tmp_path / "coarse-out")
    found = verify(made.folder, run, cache_dir=tmp_path / "cache", cache_bytes=10**9)
    assert found.is_equal
    assert found.dtype == "bfloat16"
    assert found.logits is not None
    assert found.logits.allowed_relative == 4e-2


def test_the_shell_exits_with_5_where_a_checkpoint_differs(
    run: RunDirectory,
    checkpoint: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from neuroscan_farm.cli.main import app, run_guarded

    def shell(*words: str) -> tuple[int, str, str]:
        code = run_guarded(lambda: app([*words], standalone_mode=False))
        out, err = capfd.readouterr()
        return code, out, err

    code, out, err = shell("materialize", str(run.root), "--block", "1,4", "-o", str(tmp_path / "again"))
    assert (code, out.strip()) == (0, str(tmp_path / "again"))
    assert "neuroscan-farm verify" in err
    code, out, _ = shell("verify", str(tmp_path / "again"), "--run", str(run.root), "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "equal")
    assert shell("materialize", str(run.root), "--top", "1", "-o", str(tmp_path / "again"))[0] == 5  # in use
    forget_the_record(checkpoint)
    code, out, err = shell("verify", str(checkpoint), "--run", str(run.root), "--path", str(SAME_LENGTH))
    assert code == 5
    assert "is NOT the model along the path" in out
    assert "nothing is written into it" in err
    assert "error: " in err
    assert "neuroscan-farm materialize" in err


def test_a_folder_that_nobody_of_ours_made_is_left_as_it_is(
    check: Check, run: RunDirectory, checkpoint: Path, tmp_path: Path
) -> None:
    forget_the_record(checkpoint)
    assert check(PATH).is_equal
    assert not (checkpoint / CERTIFICATE_FILE).exists()
    source = Path(run.manifest.model_folder)
    before = sorted(source.iterdir())
    places = {"cache_dir": tmp_path / "cache", "cache_bytes": 10**9}
    assert verify(source, run, path=LayerPath.identity(6), **places).is_equal  # type: ignore[arg-type]
    # The source itself may be of mergekit.
    (source / "mergekit_config.yml").write_text("slices: []")
    assert verify(source, run, path=LayerPath.identity(6), **places).made_by == "mergekit"  # type: ignore[arg-type]
    assert sorted(source.iterdir()) == sorted([*before, source / "mergekit_config.yml"])


def test_where_memory_is_short_the_source_goes_before_the_checkpoint_comes(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([0, 10**12])
    monkeypatch.setattr("neuroscan_farm.engine.rescoring.available_bytes", lambda: next(free))
    found = check()
    assert found.is_equal
    assert found.relative_latency is None
    assert "do not fit in memory side by side" in found.relative_latency_note
    monkeypatch.setattr("neuroscan_farm.engine.rescoring.available_bytes", lambda: 0)
    with pytest.raises(WorkerError, match="which is not free here; verify it on a larger machine"):
        check()
