"""Tasks and shards: ids are made of content, so that doing a thing twice is doing it once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.domain.paths import Block, LayerPath
from neuroscan_farm.domain.tasks import Shard, Task

paths = st.lists(st.integers(0, 9), min_size=1, max_size=12).map(lambda layers: LayerPath(tuple(layers)))
digests = st.lists(st.text("0123456789abcdef", min_size=16, max_size=16), min_size=1, max_size=4, unique=True)


@given(paths, digests, st.randoms())
def test_the_order_in_which_probes_are_named_does_not_change_a_task(
    path: LayerPath, names: list[str], random
) -> None:  # type: ignore[no-untyped-def]
    shuffled = random.sample(names, len(names))
    assert Task.of(path, probe_digests=names).task_id == Task.of(path, probe_digests=shuffled).task_id


@given(paths, paths, digests)
def test_two_tasks_share_an_id_only_if_they_share_the_path(
    one: LayerPath, other: LayerPath, names: list[str]
) -> None:
    same = Task.of(one, probe_digests=names).task_id == Task.of(other, probe_digests=names).task_id
    assert same == (one == other)


def test_another_probe_makes_another_task() -> None:
    path = LayerPath.identity(4)
    assert Task.of(path, probe_digests=["a"]).task_id != Task.of(path, probe_digests=["b"]).task_id
    assert Task.of(path, probe_digests=["a"]).task_id != Task.of(path, probe_digests=["a", "b"]).task_id


def test_neither_the_stage_nor_the_way_a_path_was_named_changes_its_task() -> None:
    block = Block(1, 3)
    path = LayerPath.duplicating([block], 4)
    named = Task.of(path, probe_digests=["a"], block=block, stage=1)
    assert named.task_id == Task.of(path, probe_digests=["a"]).task_id


def test_a_task_id_is_the_same_on_every_machine_and_in_every_version() -> None:
    task = Task.of(LayerPath.parse("0..4,3..5"), probe_digests=["0123456789abcdef"])
    assert task.task_id == "tdec2713ca815"  # pinned: rows of finished runs are found by it
    assert Shard.of([task]).shard_id == "sb9548fbacb78"


def test_only_the_identity_path_at_full_depth_is_the_baseline() -> None:
    def task(text: str) -> Task:
        return Task.of(LayerPath.parse(text), probe_digests=["a"])

    assert task("0..5").is_baseline(6)
    assert not task("0..4").is_baseline(6)
    assert not task("0..5,5").is_baseline(6)


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert content_digest({"a": 1, "b": [2, "ü"]}) == content_digest({"b": [2, "ü"], "a": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say_has_no_digest(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        content_digest([value])
