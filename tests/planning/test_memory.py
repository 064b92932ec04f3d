"""Whether a model fits: the choice, its reasons, and what is foretold from the weight files' headers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.errors import RequestError, WorkerError
from neuroscan_farm.planning.facts import read_facts
from neuroscan_farm.planning.memory import (
    LEAST_WORK_BYTES,
    PROGRAM_BYTES,
    ModelSizes,
    choose,
    gigabytes,
    parse_megabytes,
    plan_memory,
    sizes_by_name,
)

MB = 10**6
MODEL = ModelSizes(layers=24, layer_bytes=115 * MB, layers_bytes=2700 * MB, rest_bytes=100 * MB)


def test_a_model_that_fits_stays_in_memory() -> None:
    choice = choose(MODEL, room_bytes=4000 * MB, program_bytes=400 * MB)
    assert not choice.streamed
    assert choice.why == "weights 2.8 GB fit in 4.0 GB beside 0.40 GB of the program"


def test_a_model_that_does_not_fit_is_streamed_and_the_reason_is_said() -> None:
    choice = choose(MODEL, room_bytes=900 * MB, program_bytes=0)
    assert choice.streamed
    assert choice.why == (
        "weights 2.8 GB do not fit in 0.90 GB: layers are streamed (2 of 24 at a time, 0.23 GB), "
        "embedding and head stay (0.10 GB)"
    )


def test_streaming_can_be_asked_for() -> None:
    choice = choose(MODEL, room_bytes=None, program_bytes=0, forced=True)
    assert choice.streamed
    assert choice.why.startswith("weights 2.8 GB, and --stream is given: layers are streamed")


def test_what_streaming_cannot_help_is_refused_with_the_smallest_limit_that_will_do() -> None:
    with pytest.raises(WorkerError, match=r"does not fit in 0\.50 GB even with streamed layers") as caught:
        choose(MODEL, room_bytes=500 * MB, program_bytes=400 * MB)
    least = int(str(caught.value).rpartition("--memory-limit ")[2])
    assert choose(MODEL, room_bytes=least * MB, program_bytes=400 * MB).streamed
    with pytest.raises(WorkerError):
        choose(MODEL, room_bytes=(least - 1) * MB, program_bytes=400 * MB)


@given(
    st.integers(1, 100),
    st.integers(1, 10**10),
    st.integers(0, 10**10),
    st.integers(0, 10**10),
    st.integers(0, 10**9),
    st.integers(1, 10**12),
)
def test_what_is_chosen_keeps_within_the_room(
    layers: int, layer: int, rest: int, conversion: int, program: int, room: int
) -> None:
    sizes = ModelSizes(layers, layer, layers * layer, rest, conversion)
    try:
        choice = choose(sizes, room_bytes=room, program_bytes=program)
    except WorkerError:
        return
    there = sizes.rest_bytes + sizes.slots_bytes + conversion if choice.streamed else sizes.weight_bytes
    assert program + there + LEAST_WORK_BYTES <= room
    assert choice.least_bytes is not None
    assert choice.least_bytes <= room


def test_the_sizes_are_read_from_the_headers(tiny_llama: Path) -> None:
    sizes = sizes_by_name(tiny_llama, depth=6, element_bytes=4)
    layer = (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48 + 2 * 32) * 4
    assert (sizes.layers, sizes.layer_bytes, sizes.layers_bytes) == (6, layer, 6 * layer)
    assert sizes.weight_bytes == sizes_by_name(tiny_llama, depth=6, element_bytes=2).weight_bytes * 2
    assert sizes_by_name(tiny_llama, depth=7, element_bytes=4).layers == 0


@pytest.mark.parametrize(
    ("options", "keywords", "streamed", "said"),
    [
        (EngineOptions(), {}, False, "fit in 2.0 GB beside"),
        (EngineOptions(), {"memory_limit_mb": 1200}, False, "fit in 1.2 GB beside"),
        (EngineOptions(), {"stream": True}, True, "--stream is given"),
        (EngineOptions(), {"workers": 2}, False, "fit in 1.0 GB beside"),
        (EngineOptions(device="cuda"), {}, None, "the worker decides"),
        (EngineOptions(device="cuda"), {"stream": True}, True, "--stream is given"),
        (EngineOptions(), {"gpu_memory_mb": (300,)}, False, "fit in 0.30 GB"),
        (EngineOptions(device="cpu"), {"gpu_memory_mb": (300,)}, False, "fit in 2.0 GB beside"),
        (EngineOptions(), {"gpu_memory_mb": (1, 1)}, False, "split over 2 devices"),
    ],
)
def test_a_plan_foretells_what_the_workers_will_choose(
    tiny_llama: Path,
    tmp_path: Path,
    options: EngineOptions,
    keywords: dict[str, object],
    streamed: bool | None,
    said: str,
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable:  1953125 kB\n")  # 2.0 GB
    choice = plan_memory(read_facts(tiny_llama), options, root=tmp_path, **keywords)  # type: ignore[arg-type]
    assert choice.streamed is streamed
    assert said in choice.why
    json.dumps(choice.to_json_dict())


def test_a_plan_knows_nothing_of_weights_that_are_not_there(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny_llama, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    choice = plan_memory(read_facts(folder), EngineOptions())
    assert choice.streamed is None
    assert choice.to_json_dict()["streaming_why"] == "not known before the weights are fetched"


def test_a_plan_that_does_not_fit_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(WorkerError, match=f"--memory-limit {(PROGRAM_BYTES + LEAST_WORK_BYTES) // MB + 1}$"):
        plan_memory(read_facts(tiny_llama), EngineOptions(), memory_limit_mb=100)


@pytest.mark.parametrize(
    ("text", "megabytes"),
    [
        ("700", 700),
        ("700MB", 700),
        ("1.5GB", 1500),
        (" 2 gb ", 2000),
        ("1500KB", 1),
        ("1GiB", 1073),
        ("1024MiB", 1073),
    ],
)
def test_a_size_may_have_a_unit(text: str, megabytes: int) -> None:
    assert parse_megabytes(text, name="memory-limit") == megabytes


@pytest.mark.parametrize("text", ["", "-5", "7x", "GB", "1e3", "١٠٠٠x"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(
        RequestError, match=r"memory-limit .* is no size; write megabytes, or a unit: 700, 700MB"
    ):
        parse_megabytes(text, name="memory-limit")


@pytest.mark.parametrize("text", ["0", "0.1", "60KB", "0.08MB", "900 KiB", "999kb"])
def test_less_than_a_megabyte_is_refused_with_the_least(text: str) -> None:
    with pytest.raises(RequestError, match=f"shard-size '{text}' is less than a megabyte; the least is 1MB"):
        parse_megabytes(text, name="shard-size")


def test_sizes_are_said_with_the_digits_that_matter() -> None:
    said = [gigabytes(int(size * 1e9)) for size in (0.0571, 0.234, 2.84, 141.2)]
    assert said == ["0.057 GB", "0.23 GB", "2.8 GB", "141 GB"]
