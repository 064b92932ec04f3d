"""Micro-batches: measured once for a model on a machine, powers of two, smaller where memory ran out."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from neuroscan_farm.engine.micro_batches import Calibration, MicroBatches

CPU = torch.device("cpu")
UNIT = torch.Size([4, 25, 8])


def made_up(best: int) -> tuple[list[int], object]:
    """Return a list of the sizes that were tried, and a call whose time for a token is least at `best` copies."""
    tried: list[int] = []

    def run(copies: int) -> None:
        tried.append(copies)
        time.sleep(copies * 0.001 * (1 + abs(best - copies) / best))

    return tried, run


def test_the_best_size_is_measured_once_and_kept_with_the_machine(tmp_path: Path) -> None:
    tried, run = made_up(best=4)
    calibration = Calibration(tmp_path, {"model": "m", "device": "d"})
    assert calibration.tokens is None
    calibration.measure(run, 1_000, CPU)  # type: ignore[arg-type]
    assert calibration.tokens == 4_000
    assert set(tried) == {1, 2, 4, 8}
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["of"] == {"model": "m", "device": "d"}
    assert Calibration(tmp_path, {"model": "m", "device": "d"}).tokens == 4_000
    assert Calibration(tmp_path, {"model": "m", "device": "other"}).tokens is None


def test_sizes_are_powers_of_two_within_the_measured_tokens(tmp_path: Path) -> None:
    calibration = Calibration(None, {})
    micro = MicroBatches(calibration)
    assert micro.copies(UNIT, 100, 13) == 1  # not measured yet
    calibration.shrink(1_000)
    assert [micro.copies(UNIT, 100, pending) for pending in (1, 2, 3, 7, 8, 13, 100)] == [1, 2, 2, 4, 8, 8, 8]
    assert micro.copies(UNIT, 5_000, 13) == 1


def test_memory_that_ran_out_is_remembered_here_and_for_the_next_worker(tmp_path: Path) -> None:
    calibration = Calibration(tmp_path, {"model": "m"})
    calibration.shrink(1_600)
    micro = MicroBatches(calibration)
    assert micro.copies(UNIT, 100, 16) == 16
    micro.ran_out(UNIT, 100, 16)
    assert micro.copies(UNIT, 100, 16) == 8
    assert Calibration(tmp_path, {"model": "m"}).tokens == 800


def test_memory_that_runs_out_while_measuring_ends_the_measuring(tmp_path: Path) -> None:
    def run(copies: int) -> None:
        if copies > 2:
            raise torch.OutOfMemoryError("made up")
        time.sleep(0.001)

    calibration = Calibration(tmp_path, {})
    calibration.measure(run, 100, CPU)
    assert calibration.tokens in (100, 200)


def test_a_size_whose_bits_differ_is_not_admitted() -> None:
    micro = MicroBatches(Calibration(None, {}))
    assert micro.admitted("kind", 1) is True
    assert micro.admitted("kind", 4) is None
    micro.admit("kind", 4, equal=False)
    micro.admit("kind", 2, equal=True)
    assert micro.admitted("kind", 4) is False
    assert micro.admitted("kind", 2) is True
    assert micro.admitted("another kind", 2) is None


def test_a_damaged_file_is_measured_again(tmp_path: Path) -> None:
    calibration = Calibration(tmp_path, {})
    calibration.shrink(100)
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert Calibration(tmp_path, {}).tokens is None
