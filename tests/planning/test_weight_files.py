"""What the headers of safetensors files say, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.weight_files import stored_tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(
        {
            "a.0.w": torch.ones(2, 3),
            "b": torch.ones(5, dtype=torch.bfloat16),
            "c": torch.ones((), dtype=torch.int64),
        },
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    return tmp_path


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["b"] |= changes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_every_tensor_is_found_where_it_is(folder: Path) -> None:
    tensors = stored_tensors(folder)
    assert set(tensors) == {"a.0.w", "b", "c"}
    assert (tensors["a.0.w"].shape, tensors["a.0.w"].dtype, tensors["a.0.w"].size_bytes) == (
        (2, 3),
        "F32",
        24,
    )
    assert (tensors["b"].is_float, tensors["c"].is_float, tensors["c"].numel) == (True, False, 1)
    whole = (folder / "model.safetensors").read_bytes()
    stored = tensors["a.0.w"]
    assert whole[stored.offset : stored.offset + 24] == torch.ones(2, 3).numpy().tobytes()


@pytest.mark.parametrize(
    "content", [b"", b"\x10garbage", b"\xff" * 64, (2).to_bytes(8, "little") + b"[]" + b"0" * 9]
)
def test_a_file_without_a_header_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors: .*header.*fetch the model again"):
        stored_tensors(folder)


def test_a_file_that_is_cut_short_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="cut short: tensor"):
        stored_tensors(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": [6]}, r"tensor b \[6\] of BF16 has 10 bytes, not 12"),
        ({"data_offsets": [-4, 6]}, "cut short"),
        ({"data_offsets": "x"}, "the entry of b cannot be read"),
        ({"shape": None}, "the entry of b cannot be read"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    folder: Path, changes: dict[str, object], said: str
) -> None:
    rewrite(folder, **changes)
    with pytest.raises(ModelError, match=said):
        stored_tensors(folder)


def test_an_index_must_be_whole(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    index = folder / "model.safetensors.index.json"
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor"):
        stored_tensors(folder)
    index.write_text(json.dumps({"weight_map": {"b": "part-1.safetensors"}}))
    assert set(stored_tensors(folder)) == {"a.0.w", "b", "c"}
    index.write_text(json.dumps({"weight_map": {"b": "part-1.safetensors", "d": "part-2.safetensors"}}))
    with pytest.raises(ModelError, match=r"1 of its 2 files are missing, such as part-2\.safetensors"):
        stored_tensors(folder)
    index.write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        stored_tensors(folder)


def test_a_tensor_that_is_in_two_files_is_refused(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    for name in ("x", "y"):
        (folder / f"{name}.safetensors").write_bytes(content)
    index = {"weight_map": {"b": "x.safetensors", "c": "y.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"y\.safetensors: tensor .* is also in x\.safetensors"):
        stored_tensors(folder)
