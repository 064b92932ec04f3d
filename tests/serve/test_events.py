"""Server-sent events: what a listener is told, and when."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuroscan_farm.serve.events import Event, _events, of_a_run, of_all_runs, of_the_workers
from tests.report.conftest import build_run
from tests.serve.api import Api


@pytest.fixture
def api(tmp_path: Path) -> Api:
    return Api(tmp_path / "runs", poll_seconds=0.01, beat_seconds=0.1)


def told(
    api: Api, look: Callable[[], Event | None], *, until: Callable[[list[bytes]], bool], between: Any = None
) -> list[bytes]:
    """Listen until enough was told; `between` happens after the first event."""

    async def listen() -> list[bytes]:
        heard: list[bytes] = []
        async for piece in _events(api.server, look):
            heard.append(piece)
            if between is not None and len(heard) == 2:
                between()
            if until(heard):
                break
        return heard

    return asyncio.run(asyncio.wait_for(listen(), timeout=30))


def data_of(piece: bytes) -> dict[str, Any]:
    fields = dict(line.partition(": ")[::2] for line in piece.decode().splitlines() if line)
    assert fields["id"]
    found: dict[str, Any] = json.loads(fields["data"])
    return found


def test_a_listener_hears_how_a_run_stands_at_once_and_then_of_changes_alone(
    api: Api, tmp_path: Path
) -> None:
    run = build_run(tmp_path / "runs" / "one", depth=5, share=0.5, shard_size=2)
    api.get("/runs/one")
    api.rest()  # its best is known now, which would be a change too
    look = of_a_run(api.server, api.server.runs.find("one"))
    heard = told(api, look, until=lambda heard: len(heard) == 3, between=lambda: run.set_wanted("paused"))
    assert heard[0].startswith(b"retry: ")
    first, second = map(data_of, heard[1:])
    assert first["state"] == "stopped"
    assert second["state"] == "paused"
    now = api.get("/runs/one")
    assert second == {name: now[name] for name in second}  # what is read says the same


def test_a_silent_stream_says_that_it_lives(api: Api, tmp_path: Path) -> None:
    build_run(tmp_path / "runs" / "one", depth=5)
    look = of_a_run(api.server, api.server.runs.find("one"))
    heard = told(api, look, until=lambda heard: sum(piece.startswith(b":") for piece in heard) == 2)
    assert all(b"event" not in piece for piece in heard if piece.startswith(b":"))


def test_rows_that_arrive_are_told(api: Api, tmp_path: Path) -> None:
    build_run(tmp_path / "runs" / "one", depth=6, share=0.3, shard_size=3)
    done = build_run(tmp_path / "all", depth=6, shard_size=3)

    def arrive() -> None:
        for part in (done.root / "parts").iterdir():
            shutil.copy(part, tmp_path / "runs" / "one" / "parts")

    look = of_a_run(api.server, api.server.runs.find("one"))
    heard = told(
        api, look, until=lambda heard: any(b'"state": "finished"' in piece for piece in heard), between=arrive
    )
    before, after = data_of(heard[1]), data_of(heard[-1])
    assert before["rows_stamp"] != after["rows_stamp"]
    assert after["share"] == 1


def test_a_run_that_is_taken_away_ends_the_stream(api: Api, tmp_path: Path) -> None:
    build_run(tmp_path / "runs" / "one", depth=5)
    look = of_a_run(api.server, api.server.runs.find("one"))
    heard = told(api, look, until=lambda _: False, between=lambda: shutil.rmtree(tmp_path / "runs" / "one"))
    assert heard[-1].startswith(b"event: gone")


def test_a_plan_that_cannot_be_read_for_a_moment_does_not(api: Api, tmp_path: Path) -> None:
    build_run(tmp_path / "runs" / "one", depth=5)
    look = of_a_run(api.server, api.server.runs.find("one"))
    assert look() is not None
    plan = tmp_path / "runs" / "one" / "plan.parquet"
    plan.rename(plan.with_suffix(".aside"))
    assert look() is None
    plan.with_suffix(".aside").rename(plan)
    assert look() is not None


def test_a_run_that_cannot_be_read_any_more_is_told_with_the_reason_and_again_when_it_can(
    api: Api, tmp_path: Path
) -> None:
    manifest = build_run(tmp_path / "runs" / "one", depth=5).root / "manifest.json"
    whole = manifest.read_text()
    look = of_a_run(api.server, api.server.runs.find("one"))
    heard = told(
        api,
        look,
        until=lambda heard: any(piece.startswith(b"event: trouble") for piece in heard),
        between=lambda: manifest.write_text("{"),
    )
    said = data_of(heard[-1])
    assert said["id"] == "one"
    assert "manifest.json: damaged" in said["error"]
    assert api.get("/runs/one", status=409)["error"] == said["error"]
    assert "damaged" in api.get("/runs")["left_out"][0]["error"]
    manifest.write_text(whole)
    event = look()
    assert event is not None
    assert event.name == "run"


def test_the_list_tells_which_runs_changed_and_which_are_gone(api: Api, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("one", "two"):
        build_run(runs / name, depth=5, share=0.5, shard_size=2)
    look = of_all_runs(api.server)
    first = look()
    assert first is not None
    assert first.data["total"] == 2
    assert first.data["changed"] == []
    api.rest()
    look()
    api.server.runs.find("two").directory.set_wanted("paused")
    shutil.rmtree(runs / "one")
    build_run(runs / "three", depth=5)
    api.server.runs.changed()
    event = look()
    assert event is not None
    assert set(event.data["changed"]) == {"two", "three"}
    assert event.data["removed"] == ["one"]
    assert {one["id"]: one["state"] for one in event.data["runs"]}["two"] == "paused"
    assert look() is None


def test_each_listener_of_the_list_has_a_memory_of_its_own(api: Api, tmp_path: Path) -> None:
    build_run(tmp_path / "runs" / "one", depth=5)
    one, other = of_all_runs(api.server), of_all_runs(api.server)
    assert one() is not None
    assert other() is not None


def test_workers_are_told_of_when_something_of_them_changes(api: Api) -> None:
    look = of_the_workers(api.server)
    first, second = look(), look()
    assert first is not None
    assert second is not None
    assert first.stamp == second.stamp
    assert first.data["broker"] == "away"


def test_a_server_that_stops_lets_its_listeners_go(api: Api, tmp_path: Path) -> None:
    build_run(tmp_path / "runs" / "one", depth=5)
    look = of_a_run(api.server, api.server.runs.find("one"))
    api.server.stopping = lambda: True
    assert told(api, look, until=lambda _: False) == [b"retry: 1000\n\n"]
