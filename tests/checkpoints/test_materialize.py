"""Materialize: a whole checkpoint or nothing, made of the source's own bytes, with what belongs to it and no more."""

from __future__ import annotations

import errno
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from neuroscan_farm.checkpoints.layer_names import NewTensor
from neuroscan_farm.checkpoints.materialize import materialize
from neuroscan_farm.checkpoints.record import changed_files, digest_of, read_record
from neuroscan_farm.checkpoints.weight_writer import write_weights
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.errors import ModelError, RequestError, StorageError
from neuroscan_farm.planning.facts import read_facts
from neuroscan_farm.planning.weight_files import StoredTensor, stored_tensors
from neuroscan_farm.store.run_directory import RunDirectory
from tests.checkpoints.test_families import own_logits, run_of
from tests.conftest import MakeRun
from tests.tiny_models import make_tiny

PATH = LayerPath.parse("0..3,1..5")


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_every_tensor_is_the_sources_own(make_run: MakeRun, tiny_llama: Path, tmp_path: Path) -> None:
    made = materialize(make_run(), PATH, tmp_path / "out")
    old, new = load_file(tiny_llama / "model.safetensors"), load_file(made.folder / "model.safetensors")
    for place, layer in enumerate(PATH):
        inner = {
            name.removeprefix(f"model.layers.{layer}.")
            for name in old
            if name.startswith(f"model.layers.{layer}.")
        }
        assert inner
        for name in inner:
            assert torch.equal(new.pop(f"model.layers.{place}.{name}"), old[f"model.layers.{layer}.{name}"])
    assert new.keys() == {name for name in old if not name.startswith("model.layers.")}
    assert all(torch.equal(tensor, old[name]) for name, tensor in new.items())


def test_the_folder_holds_what_belongs_to_the_model_and_no_old_weights(tmp_path: Path) -> None:
    model = make_tiny("llama", tmp_path / "model")
    strangers = (
        "pytorch_model.bin",
        "model.safetensors.index.json",
        "consolidated.pth",
        ".gitattributes",
        "README.md",
    )
    own = ("chat_template.jinja", "modeling_x.py", "LICENSE", "additional_chat_templates/tool.jinja")
    for name in (*strangers, *own):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("{}" if name.endswith("json") else "# nothing\n")
    made = materialize(run_of(model, tmp_path), PATH, tmp_path / "out")
    written = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()}
    assert written == {
        *("config.json", "model.safetensors", "README.md", "neuroscan.json", "generation_config.json"),
        *("tokenizer.json", "tokenizer_config.json"),
        *own,
    }
    assert set(made.files) == written
    assert "# demo" not in (made.folder / "README.md").read_text().splitlines()[:1]


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = make_tiny("llama", tmp_path / "model", tie_word_embeddings=True)
    assert "lm_head.weight" not in stored_tensors(model)
    made = materialize(run_of(model, tmp_path), PATH, tmp_path / "out")
    assert "lm_head.weight" not in stored_tensors(made.folder)
    assert torch.isfinite(own_logits(made.folder)).all()


def shard(model: Path, count: int) -> Path:
    """Cut a model's weights into several files, layers across them."""
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    parts = [names[k::count] for k in range(count)]
    where = {
        name: f"model-{k + 1:05d}-of-{count:05d}.safetensors" for k, part in enumerate(parts) for name in part
    }
    for part in parts:
        save_file({name: tensors[name] for name in part}, model / where[part[0]], metadata={"format": "pt"})
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (model / "model.safetensors").unlink()
    return model


def test_a_model_in_several_files_gives_the_same_weights_in_as_many_as_are_asked_for(
    make_run: MakeRun, tmp_path: Path
) -> None:
    whole = materialize(make_run("first"), PATH, tmp_path / "whole")
    model = shard(make_tiny("llama", tmp_path / "model"), 3)
    most = 30_000
    cut = materialize(run_of(model, tmp_path), PATH, tmp_path / "cut", most_shard_bytes=most)
    index = json.loads((cut.folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == cut.size_bytes == whole.size_bytes
    files = set(index["weight_map"].values())
    assert len(files) > 3
    assert files == {path.name for path in cut.folder.glob("*.safetensors")}
    found: dict[str, torch.Tensor] = {}
    for name in files:
        part = load_file(cut.folder / name)
        assert len(part) == 1 or sum(tensor.nbytes for tensor in part.values()) <= most
        assert all(index["weight_map"][tensor] == name for tensor in part)
        found |= part
    wanted = load_file(whole.folder / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert torch.equal(own_logits(cut.folder), own_logits(whole.folder))


def test_the_record_says_what_it_is_made_of_and_every_changed_file_shows(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    made = materialize(run, PATH, tmp_path / "out")
    record = read_record(made.folder)
    assert record is not None
    assert (record.run_id, record.source_fingerprint) == (run.manifest.run_id, run.manifest.model_fingerprint)
    assert (record.layer_path, record.depth, record.source_depth) == (PATH, 9, 6)
    assert record.digest == made.digest == digest_of(record.files)
    assert changed_files(made.folder, record) == []
    again = materialize(run, PATH, tmp_path / "again")
    assert again.digest == made.digest
    weights = bytearray((made.folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (made.folder / "model.safetensors").write_bytes(weights)
    (made.folder / "tokenizer.json").unlink()
    assert changed_files(made.folder, record) == ["model.safetensors", "tokenizer.json"]


def test_the_card_says_what_it_is_and_that_nothing_is_known_yet(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    made = materialize(run, PATH, tmp_path / "out")
    card = (made.folder / "README.md").read_text()
    assert f"`{PATH}`" in card
    assert "9 layers, the source has 6" in card
    assert run.manifest.model_fingerprint in card
    assert "not measured yet" in card
    assert "neuroscan-farm verify" in card
    strange = materialize(run, LayerPath.parse("5,4,3"), tmp_path / "strange")
    card = (strange.folder / "README.md").read_text()
    assert "nothing is known of its effect" in card
    assert "not used: 0, 1, 2" in card


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_disk_that_fills_and_a_person_who_interrupts_leave_nothing_half(
    error: BaseException, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    before = left_in(tmp_path)

    def fail_halfway(done: int, total: int) -> None:
        if done > total // 2:
            raise error

    expected: Any = StorageError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        materialize(run, PATH, tmp_path / "deep" / "out", on_bytes=fail_halfway)
    assert left_in(tmp_path) - before == {"deep"}
    assert not left_in(tmp_path / "deep")


def test_a_disk_with_too_little_room_is_said_before_anything_is_written(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(StorageError, match=r"the weights take .* GB, and the disk has 0\.000 GB free"):
        materialize(run, PATH, tmp_path / "out")
    assert "out" not in left_in(tmp_path)


def test_an_empty_folder_is_filled_and_one_in_use_is_left_alone(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    (tmp_path / "empty").mkdir()
    assert materialize(run, PATH, tmp_path / "empty").folder == tmp_path / "empty"
    with pytest.raises(
        RequestError, match="the folder is there and not empty"
    ):  # exit code 5, as for other bad input
        materialize(run, PATH, tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RequestError, match="a file is in the way"):
        materialize(run, PATH, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_cannot_be_materialized_is_refused_with_the_mend(tmp_path: Path) -> None:
    model = make_tiny("llama", tmp_path / "model")
    run = run_of(model, tmp_path)

    def refusal(path: str = str(PATH)) -> str:
        with pytest.raises((ModelError, RequestError)) as caught:
            materialize(run, LayerPath.parse(path), tmp_path / "out")
        return str(caught.value)

    assert "this model has 6 layers" in refusal("0..9")
    assert "which a checkpoint cannot say" in refusal("0..4,5:mlp")
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace('"vocab_size"', '"vocab_size" '))
    assert "its content is not that of the run" in refusal()
    (model / "config.json").write_text(config)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "save_pretrained('converted')" in refusal()
    assert "out" not in left_in(tmp_path)


def test_quantisation_that_names_single_layers_is_refused(tmp_path: Path) -> None:
    model = make_tiny("llama", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "modules_to_not_convert": ["model.layers.3.mlp", "lm_head"],
    }
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"names single layers \(model\.layers\.3\.mlp\)"):
        materialize(run_of(model, tmp_path), PATH, tmp_path / "out")


def test_layers_that_only_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    model = make_tiny("llama", tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.6.eh_proj.weight"] = torch.ones(2, 2)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    made = materialize(run_of(model, tmp_path), PATH, tmp_path / "out")
    assert not [name for name in stored_tensors(made.folder) if "eh_proj" in name]
    assert json.loads((made.folder / "config.json").read_text())["num_nextn_predict_layers"] == 0


def test_memory_stays_at_some_chunks_however_large_a_tensor_is(tmp_path: Path) -> None:
    size = 256 << 20
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(size)  # a hole: it takes no room
    stored = StoredTensor("model.layers.0.w", source, 0, size, "F32", (size // 4,))
    (tmp_path / "out").mkdir()
    tracemalloc.start()
    write_weights([NewTensor("w", stored.shape, stored)], tmp_path / "out", most_shard_bytes=1 << 40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as opened:
        assert opened.get_slice("w").get_shape() == [size // 4]


def test_a_source_that_was_cut_short_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    source = tmp_path / "short"
    source.write_bytes(b"\0" * 100)
    stored = StoredTensor("w", source, 0, 200, "U8", (200,))
    with pytest.raises(ModelError, match="ends inside tensor w"):
        write_weights([NewTensor("w", (200,), stored)], tmp_path, most_shard_bytes=1000)


def test_facts_of_the_new_folder_are_those_of_the_path(make_run: MakeRun, tmp_path: Path) -> None:
    run: RunDirectory = make_run()
    made = materialize(run, PATH, tmp_path / "out")
    facts = read_facts(made.folder)
    assert facts.depth == len(PATH)
    assert run.manifest.layer_parameters is not None
    assert facts.layer_parameters == tuple(run.manifest.layer_parameters[k] for k in PATH)


def test_a_model_from_the_hub_is_read_from_the_local_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit, cache = "0a" * 20, tmp_path / "hub"
    snapshot = cache / "models--acme--tiny" / "snapshots" / commit
    blobs = make_tiny("llama", tmp_path / "blobs")
    snapshot.mkdir(parents=True)
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(blob)  # as the cache has it
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    run = run_of(Path("acme/tiny"), tmp_path)
    assert run.manifest.model_fingerprint == f"hub-{commit}"
    made = materialize(run, PATH, tmp_path / "out")
    assert not [path for path in made.folder.iterdir() if path.is_symlink()]
    card = (made.folder / "README.md").read_text()
    assert "base_model:\n- acme/tiny\n" in card
    record = read_record(made.folder)
    assert record is not None
    assert (record.model, record.source_fingerprint) == ("acme/tiny", f"hub-{commit}")
    assert torch.isfinite(own_logits(made.folder)).all()
