"""The cache of boundaries: computed once, bounded, and never trusted blindly."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neuroscan_farm.engine.boundaries import Boundaries, BoundaryCache

CPU = torch.device("cpu")


def _tensors(seed: int) -> list[torch.Tensor]:
    return [torch.full((2, 3, 4), float(seed + k)) for k in range(5)]


def test_a_batch_is_computed_once_and_read_back_exactly(tmp_path: Path) -> None:
    cache = BoundaryCache(tmp_path, most_bytes=10**6)
    calls = []

    def compute() -> list[torch.Tensor]:
        calls.append(1)
        return _tensors(1)

    first = cache.get("a", count=5, device=CPU, compute=compute)
    second = cache.get("a", count=5, device=CPU, compute=compute)
    assert len(calls) == 1
    assert all(torch.equal(first[k], second[k]) for k in range(5))


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    cache = BoundaryCache(tmp_path, most_bytes=10**6)
    cache.get("a", count=5, device=CPU, compute=lambda: _tensors(1))
    (tmp_path / "a.safetensors").write_bytes(b"\x10garbage")
    again = cache.get("a", count=5, device=CPU, compute=lambda: _tensors(1))
    assert torch.equal(again[4], _tensors(1)[4])
    assert torch.equal(cache.get("a", count=5, device=CPU, compute=list)[0], _tensors(1)[0])


def test_the_oldest_files_go_when_the_bound_is_reached(tmp_path: Path) -> None:
    cache = BoundaryCache(tmp_path, most_bytes=2000)  # a file holds 480 bytes of tensors and its header
    for age, name in enumerate("abc"):
        cache.get(name, count=5, device=CPU, compute=lambda: _tensors(0))
        os.utime(tmp_path / f"{name}.safetensors", (age, age))
    cache.get("d", count=5, device=CPU, compute=lambda: _tensors(0))
    left = {path.stem for path in tmp_path.glob("*.safetensors")}
    assert "d" in left
    assert "a" not in left
    assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) <= 2500


def test_what_is_larger_than_the_bound_is_kept_in_memory(tmp_path: Path) -> None:
    cache = BoundaryCache(tmp_path, most_bytes=10)
    boundaries = cache.get("a", count=5, device=CPU, compute=lambda: _tensors(7))
    assert torch.equal(boundaries[3], _tensors(7)[3])
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_cache_that_cannot_be_written_costs_speed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = BoundaryCache(tmp_path / "file", most_bytes=10**6)
    boundaries = cache.get("a", count=5, device=CPU, compute=lambda: _tensors(7))
    assert torch.equal(boundaries[0], _tensors(7)[0])


def _write(cache: BoundaryCache, key: str, units: list[torch.Tensor]) -> Boundaries:
    first = units[0]
    with cache.writer(key, count=len(units), shape=first.shape, dtype=first.dtype, device=CPU) as writer:
        assert writer.wanted
        for unit in units:
            writer.append(unit)
    assert writer.boundaries is not None
    return writer.boundaries


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3, 4), (7,), (2, 2, 3, 5)])
def test_boundaries_written_one_by_one_are_read_back_exactly(
    tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    with torch.inference_mode():
        units = [torch.randn(shape).to(dtype) for _ in range(4)]
    cache = BoundaryCache(tmp_path, most_bytes=10**6)
    assert cache.find("a", count=4, device=CPU) is None
    written = _write(cache, "a", units)
    found = cache.find("a", count=4, device=CPU)
    assert found is not None
    assert not found.in_memory
    assert all(torch.equal(written[k], units[k]) and torch.equal(found[k], units[k]) for k in range(4))
    assert set(load_file(tmp_path / "a.safetensors")) == {"0", "1", "2", "3"}  # an ordinary safetensors file


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = BoundaryCache(tmp_path, most_bytes=10**6)

    def half() -> None:
        with cache.writer("a", count=2, shape=torch.Size([3]), dtype=torch.float32, device=CPU) as writer:
            writer.append(torch.zeros(3))
            raise KeyError("stop")

    with pytest.raises(KeyError):
        half()
    assert cache.find("a", count=2, device=CPU) is None
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_boundaries_of_the_wrong_shape_or_number_are_refused(tmp_path: Path) -> None:
    cache = BoundaryCache(tmp_path, most_bytes=10**6)
    with (
        pytest.raises(ValueError, match=r"boundary 0 of 2 is \[4\]"),
        cache.writer("a", count=2, shape=torch.Size([3]), dtype=torch.float32, device=CPU) as writer,
    ):
        writer.append(torch.zeros(4))
    with (
        pytest.raises(ValueError, match="0 of 2 boundaries were appended"),
        cache.writer("a", count=2, shape=torch.Size([3]), dtype=torch.float32, device=CPU),
    ):
        pass


def test_another_worker_waits_and_then_finds_what_it_wanted(tmp_path: Path) -> None:
    seen: list[bool] = []

    def other() -> None:
        cache = BoundaryCache(tmp_path, most_bytes=10**6)
        with cache.writer("a", count=1, shape=torch.Size([3]), dtype=torch.float32, device=CPU) as writer:
            seen.append(writer.wanted)
        assert writer.boundaries is not None
        seen.append(torch.equal(writer.boundaries[0], torch.ones(3)))

    cache = BoundaryCache(tmp_path, most_bytes=10**6)
    with cache.writer("a", count=1, shape=torch.Size([3]), dtype=torch.float32, device=CPU) as writer:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        assert not seen
        writer.append(torch.ones(3))
    thread.join(20)
    assert seen == [False, True]


def test_boundaries_stay_readable_when_the_cache_gives_their_file_away(tmp_path: Path) -> None:
    cache = BoundaryCache(tmp_path, most_bytes=2000)
    first = cache.get("a", count=5, device=CPU, compute=lambda: _tensors(3))
    for name in "bcde":
        cache.get(name, count=5, device=CPU, compute=lambda: _tensors(0))
    assert not (tmp_path / "a.safetensors").exists()
    assert torch.equal(first[4], _tensors(3)[4])


def test_what_a_dead_worker_was_writing_goes_and_what_a_living_one_writes_counts(tmp_path: Path) -> None:
    (tmp_path / ".tmp-dead").write_bytes(b"x" * 1900)
    cache = BoundaryCache(tmp_path, most_bytes=2000)  # a file of five boundaries has about 850 bytes
    cache.get("a", count=5, device=CPU, compute=lambda: _tensors(0))
    assert not (tmp_path / ".tmp-dead").exists()
    with cache.writer("b", count=5, shape=torch.Size([2, 3, 4]), dtype=torch.float32, device=CPU) as writer:
        cache.get("c", count=5, device=CPU, compute=lambda: _tensors(0))
        assert not (tmp_path / "a.safetensors").exists()
        for unit in _tensors(5):
            writer.append(unit)
    assert cache.find("b", count=5, device=CPU) is not None


def test_a_disk_that_fills_up_in_the_middle_costs_memory_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BoundaryCache(tmp_path, most_bytes=10**6)
    real, calls = os.write, []

    def full(descriptor: int, content: bytes) -> int:
        calls.append(1)
        if len(calls) > 3:  # the header, and two boundaries
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content)

    monkeypatch.setattr("neuroscan_farm.engine.boundaries.os.write", full)
    boundaries = _write(cache, "a", _tensors(2))
    monkeypatch.undo()
    assert boundaries.in_memory
    assert all(torch.equal(boundaries[k], _tensors(2)[k]) for k in range(5))
    assert not list(tmp_path.glob(".tmp-*"))
