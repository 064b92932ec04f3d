"""The cache of boundaries: computed once, bounded, and never trusted blindly."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from neuroscan_farm.engine.boundaries import BoundaryCache

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
