"""The local executor's children: what they say, how they die, and what is done about one that is hung."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuroscan_farm.dispatch.base import Event, Refused, ShardDone, TaskStarted, WorkerDied
from neuroscan_farm.dispatch.devices import DeviceSet
from neuroscan_farm.dispatch.local import LocalExecutor
from neuroscan_farm.dispatch.local_child import hear, say
from neuroscan_farm.dispatch.places_here import PlacesHere
from tests.conftest import MakeRun
from tests.farm_fixtures import order_of, wait_for


@pytest.fixture
def executor(own_settings: Path) -> Iterator[LocalExecutor]:
    executor = LocalExecutor([DeviceSet(None, (), 1)], cache_dir=own_settings / "cache", cache_bytes=10**9)
    yield executor
    executor.close()


def only_pid(executor: LocalExecutor) -> int:
    (pid,) = executor.process_ids().values()
    assert pid is not None
    return pid


def first(executor: LocalExecutor, kind: type[Event] | tuple[type[Event], ...]) -> Event:
    seen: list[Event] = []

    def look() -> list[Event]:
        seen.extend(executor.poll(0.05))
        return [event for event in seen if isinstance(event, kind)]

    return wait_for(look, str(kind))[0]


def test_a_child_that_says_nothing_for_too_long_is_killed_and_replaced(
    executor: LocalExecutor, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuroscan_farm.dispatch.wire.LEAST_LOADING_LIMIT_SECONDS", 0.5)
    run = make_run()
    hung = only_pid(executor)
    os.kill(hung, signal.SIGSTOP)
    executor.send(order_of(run, limit_seconds=0.5))
    died = first(executor, WorkerDied)
    assert isinstance(died, WorkerDied)
    assert (died.shard_id, died.error) == (order_of(run).shard_id, "hung: no progress for 0.5 s")
    assert only_pid(executor) != hung
    monkeypatch.undo()
    executor.send(order_of(run, attempt=2))
    assert first(executor, ShardDone) == ShardDone(order_of(run).shard_id, "local-0")


def test_a_child_that_goes_on_is_not_taken_for_hung(executor: LocalExecutor, make_run: MakeRun) -> None:
    run = make_run()
    executor.send(order_of(run))
    first(executor, ShardDone)  # the model is loaded now
    pid = only_pid(executor)
    executor.send(order_of(run, 1, limit_seconds=30.0))
    assert first(executor, ShardDone)
    assert only_pid(executor) == pid


def test_a_killed_child_is_noticed_and_its_shard_goes_to_another(
    executor: LocalExecutor, make_run: MakeRun, long_probe: Path
) -> None:
    run = make_run(probes=[str(long_probe)], engine={"batch_size": 4, "lane": "general"})
    executor.send(order_of(run))
    started = first(executor, TaskStarted)
    assert isinstance(started, TaskStarted)
    os.kill(only_pid(executor), signal.SIGKILL)
    died = first(executor, WorkerDied)
    assert isinstance(died, WorkerDied)
    assert died.error == "killed by signal 9"
    assert died.task_id is not None
    assert executor.room() == 1


def test_a_model_of_another_machine_is_found_by_the_path_map(
    make_run: MakeRun, tiny_llama: Path, own_settings: Path, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(tiny_llama, tmp_path / "theirs" / "tiny-llama")
    run = make_run(model=str(elsewhere))
    (tmp_path / "theirs").rename(tmp_path / "ours")
    places = PlacesHere(path_map=((str(tmp_path / "theirs"), str(tmp_path / "ours")),))
    executor = LocalExecutor(
        [DeviceSet(None, (), 1)], cache_dir=own_settings / "cache", cache_bytes=10**9, places=places
    )
    try:
        executor.send(order_of(run))
        assert first(executor, (ShardDone, Refused)) == ShardDone(order_of(run).shard_id, "local-0")
    finally:
        executor.close()


def test_what_goes_through_a_pipe_is_json_and_nothing_else_is_taken() -> None:
    ours, theirs = multiprocessing.Pipe()
    say(theirs, "refused", "no such model", "5")
    assert json.loads(ours.recv_bytes()) == ["refused", "no such model", "5"]
    theirs.send_bytes(b'["task", "t1"]')
    assert hear(ours) == ["task", "t1"]
    for message in (b"{}", b"[1]", b"no json", b"\x80\x04N.", b"\xff"):
        theirs.send_bytes(message)
        with pytest.raises(ValueError, match=r"."):
            hear(ours)
    theirs.close()
    with pytest.raises(EOFError):
        hear(ours)


def test_no_pickle_is_read_from_our_own_pipes() -> None:
    package = Path(__file__).parents[2]
    for path in [*(package / "neuroscan_farm").rglob("*.py"), *(package / "workers").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert ".recv()" not in text, path
        assert "import pickle" not in text, path
