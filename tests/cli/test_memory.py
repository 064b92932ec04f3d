"""`--memory-limit` and `--stream` on their way from the command line to a worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neuroscan_farm.cli import memory
from neuroscan_farm.cli.farm_commands import _command
from neuroscan_farm.cli.main import app
from neuroscan_farm.cli.memory import shared_out
from neuroscan_farm.dispatch.devices import DeviceSet
from neuroscan_farm.errors import RequestError
from neuroscan_farm.planning.memory import MemoryChoice, ModelSizes
from tests.conftest import MakeRun
from workers.__main__ import _device_sets, _parser
from workers.config import WorkerConfig

ALONE = DeviceSet(None, (), 1)


def planned(tiny_llama: Path, probe_file: Path, *options: str) -> dict[str, object]:
    words = ["plan", "duplication", "-m", str(tiny_llama), "-p", str(probe_file), "--device", "cpu", "--json"]
    result = CliRunner().invoke(app, [*words, *options])
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_a_plan_says_whether_layers_are_streamed_and_why(tiny_llama: Path, probe_file: Path) -> None:
    assert planned(tiny_llama, probe_file)["streaming"] is False
    asked = planned(tiny_llama, probe_file, "--stream")
    assert asked["streaming"] is True
    assert "--stream is given: layers are streamed (2 of 6 at a time" in str(asked["streaming_why"])
    small = planned(tiny_llama, probe_file, "--memory-limit", "0.1GB")
    assert small["streaming"] is None
    assert "the smallest that will do is --memory-limit" in str(small["streaming_why"])


def test_what_is_no_size_is_refused_before_a_worker_starts() -> None:
    with pytest.raises(RequestError, match="memory-limit 'much' is no size"):
        _command(None, None, "much", stream=False)


def test_a_worker_is_told_what_the_command_line_said() -> None:
    command = _command(["1000;1000"], 2, "1.5GB", stream=True)
    from neuroscan_farm.settings import load_settings

    sets = _device_sets(_parser(load_settings()).parse_args(command[4:]))
    assert [(one.memory_limit_mb, one.stream, one.memory_mb) for one in sets] == [(1500, True, (1000,))] * 2


def test_a_supervised_worker_keeps_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from neuroscan_farm.settings import load_settings
    from workers import __main__ as entry

    started: list[list[str]] = []
    monkeypatch.setattr(entry, "keep_alive", lambda jobs: started.extend(job.command for job in jobs) or 0)
    assert entry.main(["--workers", "2", "--memory-limit", "900", "--stream"]) == 0
    for command in started:
        options = _parser(load_settings()).parse_args(command[command.index("workers") + 1 :])
        (one,) = _device_sets(options)
        assert (one.memory_limit_mb, one.stream) == (900, True)


def test_a_worker_configuration_survives_its_way_into_the_pool() -> None:
    config = WorkerConfig("redis://x", "q", "w", "h", None, (), 1, "/c", 1, memory_limit_mb=700, stream=True)
    assert WorkerConfig.from_plain(json.loads(json.dumps(config.to_plain()))).memory_limit_mb == 700


@pytest.mark.parametrize(
    ("sets", "streamed", "limits"),
    [
        ([ALONE], True, [None]),
        ([ALONE, ALONE], False, [None, None]),
        ([ALONE, ALONE], True, [800, 800]),
        ([DeviceSet(None, (), 1, 500)] * 2, True, [500, 500]),
    ],
)
def test_workers_that_could_not_all_hold_the_model_share_the_memory(
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    sets: list[DeviceSet],
    streamed: bool,
    limits: list[int | None],
) -> None:
    choice = MemoryChoice(streamed, "", ModelSizes(1, 1, 1, 1), 800 * 10**6, 1)
    monkeypatch.setattr(memory, "memory_of", lambda *_: choice)
    assert [one.memory_limit_mb for one in shared_out(sets, make_run())] == limits
