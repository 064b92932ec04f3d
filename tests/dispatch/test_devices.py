"""`--gpu-split`: how its text becomes devices, and that every worker gets its own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.dispatch.devices import DeviceSet, available_cores, device_sets, pin
from neuroscan_farm.errors import NeuroscanError, RequestError


def sets(
    *split: str, workers: int | None = None, visible: str | None = None, cores: int = 8
) -> list[DeviceSet]:
    return device_sets(split, workers=workers, visible=visible, cores=cores)


def devices(
    *split: str, workers: int | None = None, visible: str | None = None
) -> list[tuple[str, ...] | None]:
    return [device_set.devices for device_set in sets(*split, workers=workers, visible=visible)]


@pytest.mark.parametrize(
    ("split", "workers", "expected"),
    [
        ([], None, [None]),
        ([], 3, [None, None, None]),
        (["22000"], None, [("0",)]),
        (["22000,22000"], None, [("0", "1")]),
        (["22000;22000"], None, [("0",), ("1",)]),
        (["22000", "22000"], None, [("0",), ("1",)]),
        (["22000,22000;22000,22000"], None, [("0", "1"), ("2", "3")]),
        (["22000"], 4, [("0",), ("1",), ("2",), ("3",)]),
        (["10000,20000"], 2, [("0", "1"), ("2", "3")]),
        (["2:22000,3:22000"], None, [("2", "3")]),
        (["2:22000;0:22000"], None, [("2",), ("0",)]),
        ([" 22000 , 22000 "], None, [("0", "1")]),
    ],
)
def test_the_grammar_of_gpu_split(
    split: list[str], workers: int | None, expected: list[tuple[str, ...] | None]
) -> None:
    assert devices(*split, workers=workers) == expected


def test_each_device_has_its_own_limit_in_the_order_of_the_devices() -> None:
    first, second = sets("10000,20000;2:30000")
    assert (first.memory_mb, second.memory_mb) == ((10000, 20000), (30000,))


def test_a_device_that_one_worker_names_is_not_handed_to_another_that_names_none() -> None:
    assert devices("0:22000;22000") == [("0",), ("1",)]
    assert devices("22000;1:22000;22000") == [("0",), ("1",), ("2",)]


def test_two_workers_may_share_a_device_only_by_naming_it() -> None:
    assert devices("0:10000;0:10000") == [("0",), ("0",)]


@pytest.mark.parametrize("split", ["0:10000,0:10000", "1:5,2:5,1:5"])
def test_one_worker_cannot_have_a_device_twice(split: str) -> None:
    with pytest.raises(RequestError, match="names a device twice"):
        sets(split)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_several_workers_each_have_their_own_devices(sizes: list[int]) -> None:
    split = ";".join(",".join(["1000"] * size) for size in sizes)
    taken = [device for own in devices(split) for device in own or ()]
    assert taken == [str(k) for k in range(sum(sizes))]


def test_devices_are_taken_from_those_that_are_visible() -> None:
    assert devices("1;1", visible="5,7") == [("5",), ("7",)]
    assert devices("1:9000", visible=" 5 , GPU-0a1b ") == [("GPU-0a1b",)]
    assert devices(visible="5,7") == [None], "without a split the environment stays as it is"


@pytest.mark.parametrize(("split", "visible"), [("1,1,1", "0,1"), ("2:1", "0,1"), ("1", ""), ("1;1", "3")])
def test_more_devices_than_are_visible_are_refused(split: str, visible: str) -> None:
    with pytest.raises(
        RequestError, match=f"CUDA_VISIBLE_DEVICES={visible} shows .*use fewer workers or fewer values"
    ):
        sets(split, visible=visible)


@pytest.mark.parametrize(
    "split", ["", "x", "22000,", "22000;", ",", "-1", "0", "1:", ":5", "a:5", "1:2:3", "1e4", "²", "22 000"]
)
def test_a_text_that_is_no_split_is_refused_with_the_form_that_is_accepted(split: str) -> None:
    with pytest.raises(
        RequestError, match="is no number of megabytes; write 22000 or 22000,22000 for one worker"
    ):
        sets(split)


@given(st.text(max_size=12), st.none() | st.integers(-2, 4), st.none() | st.text(max_size=6))
def test_whatever_is_asked_for_is_given_or_refused_in_our_own_words(
    split: str, workers: int | None, visible: str | None
) -> None:
    said = None
    try:
        given_sets = sets(split, workers=workers, visible=visible)
    except NeuroscanError as error:
        said = str(error)
    assert given_sets if said is None else re.search("gpu-split|workers", said)


@pytest.mark.parametrize("workers", [0, -3])
def test_fewer_than_one_worker_is_refused(workers: int) -> None:
    with pytest.raises(RequestError, match=f"workers is {workers}; use 1 or more"):
        sets(workers=workers)


def test_groups_that_do_not_fit_the_number_of_workers_are_refused() -> None:
    with pytest.raises(
        RequestError, match="gpu-split names 2 workers but --workers is 3; give one group or 3"
    ):
        sets("1;1", workers=3)


@given(st.integers(1, 20), st.integers(1, 64))
def test_workers_share_the_cores_and_each_has_at_least_one(workers: int, cores: int) -> None:
    threads = [device_set.threads for device_set in sets(workers=workers, cores=cores)]
    assert min(threads) >= 1
    assert sum(threads) <= max(cores, workers)


def test_a_pinned_worker_sees_its_devices_and_uses_its_share_of_the_cores() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "OMP_NUM_THREADS": "64"}
    pin(DeviceSet(("2", "3"), (1000, 1000), 4), environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "4"
    assert environment["OMP_WAIT_POLICY"] == "passive"


def test_an_unpinned_worker_keeps_the_devices_it_was_given() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "1", "OMP_WAIT_POLICY": "active"}
    pin(DeviceSet(None, (), 1), environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["OMP_WAIT_POLICY"] == "active", "what a person chose stays"


def test_there_is_a_core() -> None:
    assert available_cores() >= 1


def test_every_worker_is_told_its_memory_limit_and_whether_to_stream() -> None:
    for split in ([], ["1000;1000"]):
        both = device_sets(split, workers=2, visible=None, cores=2, memory_limit_mb=700, stream=True)
        assert [(one.memory_limit_mb, one.stream) for one in both] == [(700, True)] * 2
    assert (sets()[0].memory_limit_mb, sets()[0].stream) == (None, False)


def test_streaming_over_several_devices_is_refused() -> None:
    with pytest.raises(
        RequestError, match="gpu-split 1000;1000,1000 splits a model over several devices, and --stream"
    ):
        device_sets(["1000;1000,1000"], workers=None, visible=None, cores=2, stream=True)
