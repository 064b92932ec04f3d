"""`doctor` says of each thing whether it is right, and what to do where it is not; `workers` says who is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import neuroscan_farm
from neuroscan_farm.cli.farm_checks import check_broker, check_workers, farm_checks
from neuroscan_farm.cli.machine_checks import check_cache, check_devices, check_packages, check_store
from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_health import BrokerExamination
from neuroscan_farm.dispatch.farm_records import Presence, RunEntry, Running
from neuroscan_farm.dispatch.redis_server import RedisServer
from tests.cli.conftest import Command, Said
from tests.paper_models import paper_plan


@pytest.fixture(autouse=True)
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The devices are asked for in tests of their own: importing torch takes seconds each time."""
    monkeypatch.setattr("neuroscan_farm.cli.machine_checks.check_devices", lambda environment: [])


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of this test's own, to be spoiled."""
    with RedisServer() as server:
        yield server


def levels(said: Said) -> dict[str, str]:
    """The level of each line."""
    return {line[6:21].strip(): line[:4].strip() for line in said.stdout.splitlines()}


def line(said: Said, name: str) -> str:
    """The line of one check."""
    [found] = [line for line in said.stdout.splitlines() if line[6:21].strip() == name]
    return found


def test_a_fresh_machine_without_a_broker_is_fine_and_is_left_as_it_was(
    command: Command, tmp_path: Path
) -> None:
    said = command("doctor")
    assert said.code == 0
    assert "fail" not in levels(said).values()
    assert "`run` needs none" in line(said, "broker")
    assert levels(said)["broker"] == "warn"
    assert "is not there yet and can be made" in line(said, "runs")
    assert neuroscan_farm.__version__ in line(said, "python")
    assert list(tmp_path.iterdir()) == []


def test_what_is_found_comes_as_json_too(command: Command) -> None:
    said = command("doctor", "--json")
    data = json.loads(said.stdout)
    assert (said.code, data["schema_version"], data["level"]) == (0, 1, "warn")
    assert {"python", "packages", "runs", "cache", "broker"} <= {check["name"] for check in data["checks"]}
    assert {check["level"] for check in data["checks"]} <= {"ok", "warn", "fail"}


def test_a_broker_that_was_named_and_is_not_there_is_a_failure(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = command("doctor", "--broker", "redis://:opensesame@127.0.0.1:1/0")
    assert said.code == 4
    assert levels(said)["broker"] == "fail"
    assert "opensesame" not in said.stdout + said.stderr
    monkeypatch.setenv("NEUROSCAN_BROKER_URL", "redis://127.0.0.1:1/0")
    assert command("doctor").code == 4


def test_a_wrong_setting_is_a_failure_of_its_own(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROSCAN_PATH_MAP", "nowhere")
    said = command("doctor", "--json")
    [check] = json.loads(said.stdout)["checks"]
    assert (said.code, check["name"], check["level"]) == (5, "settings", "fail")
    assert "path_map" in check["found"]


def test_a_sound_farm(command: Command, server: RedisServer) -> None:
    farm = Broker(server.url)
    farm.show_presence(presence("w1"))
    said = command("doctor", "--broker", server.url)
    farm.close()
    found = levels(said)
    assert said.code == 0
    names = ("broker", "eviction", "broker memory", "persistence", "access", "broker clock", "workers")
    assert {found[name] for name in names} == {"ok"}, said.stdout
    assert {found["worker clocks"], found["registered"]} == {"ok"}
    assert "w1 (ready)" in line(said, "workers")
    assert not {"versions", "timings"} & set(found)


def presence(name: str) -> Presence:
    return Presence(name=name, host="h", pid=1, device="cpu", state="ready", started=time.time())


def test_a_broker_that_may_forget_claims_fails(command: Command, server: RedisServer) -> None:
    configure(server, "maxmemory-policy", "allkeys-lru")
    said = command("doctor", "--broker", server.url)
    assert said.code == 4
    assert "CONFIG SET maxmemory-policy noeviction" in line(said, "eviction")


def test_a_broker_that_is_full_fails(command: Command, server: RedisServer) -> None:
    configure(server, "maxmemory", "1")
    said = command("doctor", "--broker", server.url)
    assert said.code == 4
    assert "maxmemory" in line(said, "broker writes")
    assert levels(said)["broker memory"] == "warn"


def configure(server: RedisServer, name: str, value: str) -> None:
    examination = BrokerExamination(server.url)
    examination._redis.config_set(name, value)
    examination.close()


def test_what_a_broker_across_the_network_should_have(server: RedisServer) -> None:
    examination = BrokerExamination(server.url)
    here = examination.examine()
    examination.close()
    there = replace(here, local=False, snapshots=False, appends=False)
    said = {check.name: check for check in check_broker("b", there)}
    assert said["persistence"].level == "warn"
    assert "appendonly yes" in said["persistence"].mend
    assert "requirepass" in said["access"].mend
    said = {check.name: check for check in check_broker("b", replace(there, password=True))}
    assert "rediss://" in said["access"].mend
    said = {
        check.name: check
        for check in check_broker("b", replace(there, password=True, tls=True, appends=True))
    }
    assert {said["access"].level, said["persistence"].level} == {"ok"}
    old = replace(here, version=(5, 0, 14), clock_ahead_seconds=-90.0)
    said = {check.name: check for check in check_broker("b", old)}
    assert (said["broker"].level, said["broker"].exit_code) == ("fail", 4)
    assert "90.0 s behind" in said["broker clock"].found
    slow = replace(here, latency_seconds=0.4)
    assert "400 ms" in check_broker("b", slow)[0].found


def test_workers_that_do_not_agree_are_named() -> None:
    now = 1000.0
    sound = [
        replace(
            presence(f"w{k}"), version=neuroscan_farm.__version__, timings="a", clock=999.0, heartbeat_age=1.0
        )
        for k in range(3)
    ]
    assert {check.level for check in check_workers(sound, now, queue="q")} == {"ok"}
    odd = [
        replace(sound[0], name="old", version="0.0.1"),
        replace(sound[0], name="hasty", timings="b"),
        replace(sound[0], name="fast", clock=1060.0),
    ]
    said = {check.name: check for check in check_workers([*sound, *odd], now, queue="q")}
    assert "old has 0.0.1" in said["versions"].found
    assert said["timings"].found.endswith("patience: hasty")
    assert "fast on h by +61.0 s" in said["worker clocks"].found
    assert {said[name].level for name in ("versions", "timings", "worker clocks")} == {"warn"}
    [none] = check_workers([], now, queue="q")
    assert "neuroscan-farm worker" in none.mend


def test_a_registered_run_that_nobody_can_drive_is_named(
    broker: Broker, model: Path, probe: Path, tmp_path: Path
) -> None:
    run = prepare(paper_plan(model, probe), tmp_path / "runs" / "one", executor="celery")
    run_id, fingerprint = run.manifest.run_id, run.manifest.model_fingerprint
    broker.register(run_id, RunEntry(str(run.location), fingerprint))
    broker.register("gone", RunEntry(str(tmp_path / "gone"), fingerprint))
    broker.register("another", RunEntry(str(run.location), fingerprint))
    checks = farm_checks(broker.url, broker.queue, asked_for=True, run_location=lambda location: location)
    said = [check for check in checks if check.name == "registered"]
    assert [check.level for check in said] == ["ok", "warn", "warn"]
    assert said[0].found.startswith("1 runs")
    assert f"another: {run.location} holds run {run_id}" in said[1].found
    assert "neuroscan-farm cancel gone" in said[2].mend


def test_the_mend_for_a_run_that_is_gone_takes_it_out_of_the_farms_care(
    command: Command, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROSCAN_QUEUE", broker.queue)
    for run_id in ("gone", "gone-too"):
        broker.register(run_id, RunEntry(str(tmp_path / run_id), "0123456789abcdef"))
    assert command("cancel", "gon", "--broker", broker.url).code == 5
    assert command("cancel", "gone", "--broker", broker.url).code == 0
    assert set(broker.runs()) == {"gone-too"}
    ended = broker.ended("gone")
    assert ended is not None
    assert ended.state == "cancelled"


def test_packages_are_held_against_what_is_needed() -> None:
    assert check_packages().level == "ok"
    check = check_packages(["torch>=99", "nobody-has-this", "numpy", 'never; extra == "dev"'])
    assert check.level == "fail"
    assert "needed is >=99" in check.found
    assert "nobody-has-this is missing" in check.found
    assert "never" not in check.found


def test_torch_is_asked_in_a_process_of_its_own() -> None:
    checks = check_devices(os.environ)
    assert checks[0].name == "torch"
    assert {check.level for check in checks} <= {"ok", "warn"}


def test_a_torch_that_breaks_its_process_is_a_failure_and_no_more() -> None:
    killed = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    [check] = check_devices(os.environ, command=killed)
    assert (check.level, check.found) == ("fail", "cannot be used (signal 11)")
    broken = [sys.executable, "-c", "raise ImportError('libcudart.so is missing')"]
    [check] = check_devices(os.environ, command=broken)
    assert "libcudart.so is missing" in check.found


@pytest.mark.parametrize(
    ("report", "levels", "said"),
    [
        (
            '{"torch": "2", "cuda_build": "13", "devices": [{"name": "H200", "error": null, "free": 9e9, "total": 1e10}]}',
            ["ok", "ok"],
            "H200, 9.0 GB of 10.0 GB free",
        ),
        (
            '{"torch": "2", "cuda_build": "13", "devices": [{"name": "H200", "error": "out of memory"}]}',
            ["ok", "fail"],
            "H200: out of memory",
        ),
        ('{"torch": "2", "cuda_build": "13", "devices": []}', ["ok", "warn"], "CUDA_VISIBLE_DEVICES is '7'"),
    ],
)
def test_what_is_said_of_devices(report: str, levels: list[str], said: str) -> None:
    script = f"import sys; open(sys.argv[1], 'w').write({report!r})"
    checks = check_devices({"CUDA_VISIBLE_DEVICES": "7"}, command=[sys.executable, "-c", script])
    assert [check.level for check in checks] == levels
    assert said in checks[1].found


def test_a_store_that_takes_files_and_one_that_does_not(tmp_path: Path) -> None:
    checks = check_store(tmp_path)
    assert [check.name for check in checks] == ["runs", "store clock", "runs space"]
    assert "ms a file" in checks[0].found
    assert list(tmp_path.iterdir()) == [], "it takes its file away again"
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert check_store(path)[0].level == "fail"
    [check] = check_store("nowhere://bucket/runs")
    assert (check.level, check.exit_code) == ("fail", 5)


def test_a_cache_is_held_against_its_bound(tmp_path: Path) -> None:
    (tmp_path / "cache" / "below").mkdir(parents=True)
    (tmp_path / "cache" / "below" / "one").write_bytes(bytes(5_000_000))
    checks = check_cache(tmp_path / "cache", 0.001)
    assert "holds 5 MB of at most 0.001 GB" in checks[0].found
    assert check_cache(tmp_path / "cache", 1e9)[1].level == "warn"
    (tmp_path / "file").write_text("in the way")
    assert check_cache(tmp_path / "file" / "cache", 1)[0].level == "warn"


def test_workers_are_listed_with_what_they_do(
    command: Command, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = command("workers", "--broker", broker.url)
    assert (said.code, said.stderr) == (0, "")
    assert "start one with: neuroscan-farm worker" in said.stdout
    monkeypatch.setenv("NEUROSCAN_QUEUE", broker.queue)
    broker.register("r", RunEntry("/r", "0123456789abcdef"))
    broker.show_presence(presence("idle"))
    broker.show_presence(replace(presence("busy"), model="tiny", memory_mb=1234))
    token = "x"
    running = Running("s0123456789ab", token, "busy", "h", 7, 1, "t0123456789ab", time.time() - 30)
    assert broker.claim("r", running)
    said = command("workers", "--broker", broker.url)
    busy, idle = said.stdout.splitlines()[1:]
    assert busy.split()[:5] == ["busy", "h", "cpu", "ready", "30"]
    assert "1,234 MB" in busy
    assert busy.endswith("tiny   r s0123456789ab t0123456789ab")
    assert idle.endswith("waits")
    data = json.loads(command("workers", "--broker", broker.url, "--json").stdout)
    assert [worker["name"] for worker in data["workers"]] == ["busy", "idle"]
    assert data["workers"][0]["run_id"] == "r"
    assert data["workers"][1]["timings"] != ""


def test_workers_without_a_broker_is_an_error(command: Command) -> None:
    said = command("workers", "--broker", "redis://127.0.0.1:1/0")
    assert said.code == 4
    assert said.stdout == ""


def test_the_whole_command_runs_as_a_process(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "neuroscan_farm", "doctor"], capture_output=True, text=True, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "torch" in ended.stdout
