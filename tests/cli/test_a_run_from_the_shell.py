"""The command line as a user has it: real processes, real signals, a real Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest

from neuroscan_farm.coordinator.overview import look_at
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.store.run_directory import RunDirectory
from tests.farm_fixtures import StartWorker, lasting, wait_for
from tests.paper_models import paper_probe
from tests.tiny_models import make_overflowing

COMMAND = [sys.executable, "-m", "neuroscan_farm"]


def shell(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=240, env=os.environ | (env or {})
    )


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, so that signals to its group do not reach the tests."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def long_scan(tiny_llama: Path, long_probe: Path) -> list[str]:
    """A request that takes a good while: 22 tasks of 200 samples, one task a shard."""
    return [
        *("duplication", "-m", str(tiny_llama), "-p", str(long_probe)),
        *("--batch-size", "4", "--shard-size", "1", "--max-block", "2", "--set", "engine.lane=general"),
    ]


def first_part(root: Path) -> None:
    wait_for(lambda: any((root / "parts").glob("s*.parquet")), "a first part")  # .tmp-* are not there yet


def test_a_run_prints_its_summary_and_writes_its_report_and_the_same_command_resumes(
    tiny_llama: Path, probe_file: Path, tmp_path: Path
) -> None:
    command = ["run", "duplication", "-m", str(tiny_llama), "-p", str(probe_file), "-o", str(tmp_path / "r")]
    first = shell(*command)
    assert first.returncode == 0, first.stderr
    assert "ranked by log_odds" in first.stdout
    assert (tmp_path / "r" / "report" / "index.html").is_file()
    again = shell(*command, "--json")
    assert again.returncode == 0, again.stderr
    assert "resuming: 22 of 22 tasks are finished" in again.stderr
    assert json.loads(again.stdout)["tasks_finished"] == 22
    assert pd.read_parquet(tmp_path / "r" / "parts")["task_id"].nunique() == 22


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_keeps_what_is_finished_and_leaves_no_process(
    long_scan: list[str], tmp_path: Path, signum: int, code: int
) -> None:
    root = tmp_path / "r"
    with started("run", *long_scan, "-o", str(root)) as process:
        first_part(root)
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signum)  # as a terminal does
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in stderr
    assert "resume" in stderr
    psutil.wait_procs(children, timeout=30)
    assert not [child for child in children if child.is_running()]
    overview = look_at(RunDirectory.open(root))
    assert overview.state == "stopped"
    assert overview.tasks_finished > 0
    resumed = shell("resume", str(root))
    assert resumed.returncode == 0, resumed.stderr
    assert look_at(RunDirectory.open(root)).state == "finished"


def test_a_run_whose_parent_and_children_were_killed_ends_with_the_table_of_an_undisturbed_one(
    long_scan: list[str], tmp_path: Path
) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert shell("run", *long_scan, "-o", str(undisturbed)).returncode == 0
    with started("run", *long_scan, "-o", str(killed), "--workers", "2") as process:
        first_part(killed)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
    psutil.wait_procs(children, timeout=30)
    assert not [child for child in children if child.is_running()]
    assert shell("run", *long_scan, "-o", str(killed)).returncode == 0
    left, right = lasting(RunDirectory.open(killed)), lasting(RunDirectory.open(undisturbed))
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_a_run_is_driven_by_one_process_and_can_be_cancelled_by_another(
    long_scan: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "r"
    with started("run", *long_scan, "-o", str(root)) as process:
        first_part(root)
        children = psutil.Process(process.pid).children(recursive=True)
        for child in children:
            child.suspend()  # so that the run is not over before it was looked at
        second = shell("run", *long_scan, "-o", str(root))
        assert second.returncode == 5
        assert "another process" in second.stderr
        assert json.loads(shell("status", str(root), "--json").stdout)["state"] == "running"
        assert shell("watch", str(root), "--timeout", "0").returncode == 6
        assert shell("cancel", str(root)).returncode == 0
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.resume()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cancelled" in stderr
    assert json.loads(shell("status", str(root), "--json").stdout)["state"] == "cancelled"
    assert shell("watch", str(root)).returncode == 1
    half = shell("report", str(root))
    assert half.returncode == 0, half.stderr


def test_a_run_with_failed_tasks_finishes_with_exit_code_3(probe_file: Path, tmp_path: Path) -> None:
    model, root = make_overflowing(tmp_path / "m"), str(tmp_path / "r")
    command = ["run", "duplication", "-m", str(model), "-p", str(probe_file), "-o", root]
    result = shell(*command, "--max-block", "1", "--dtype", "float16")
    assert result.returncode == 3, result.stderr
    assert "1 tasks failed" in result.stderr
    status = shell("status", root, "--json")
    assert status.returncode == 3
    assert json.loads(status.stdout)["outcomes"] == {"ok": 6 * 8, "non_finite": 8}


def test_results_come_out_in_every_format(tiny_llama: Path, probe_file: Path, tmp_path: Path) -> None:
    root = str(tmp_path / "r")
    command = [
        "run",
        "duplication",
        "-m",
        str(tiny_llama),
        "-p",
        str(probe_file),
        "-o",
        root,
        "--block",
        "2,4",
    ]
    assert shell(*command, "--path", "0..3,1..5").returncode == 0
    merge = shell("export", root, "--format", "mergekit", "--block", "2,4")
    assert merge.returncode == 0, merge.stderr
    assert "merge_method: passthrough" in merge.stdout
    layer_map = shell("export", root, "--format", "exl3-layer-map", "--path", "0..3,1..5")
    assert layer_map.stdout == "0..3,1..5\n"
    assert len(json.loads(shell("export", root, "--format", "json").stdout)) > 0
    assert shell("export", root, "--format", "csv", "-o", str(tmp_path / "t.csv")).stdout == ""
    assert (tmp_path / "t.csv").read_text().count("\n") > 2
    outside = shell("export", root, "--format", "mergekit", "--block", "2,9")
    assert outside.returncode == 5
    assert "6 layers" in outside.stderr


def test_a_request_goes_to_the_farm_and_comes_back_measured(
    tiny_llama: Path, probe_file: Path, tmp_path: Path, broker: Broker, start_worker: StartWorker
) -> None:
    env = {"NEUROSCAN_BROKER_URL": broker.url, "NEUROSCAN_QUEUE": broker.queue}
    env["NEUROSCAN_RUNS_DIR"] = str(tmp_path / "runs")
    submitted = shell("submit", "duplication", "-m", str(tiny_llama), "-p", str(probe_file), env=env)
    assert submitted.returncode == 0, submitted.stderr
    run_id = submitted.stdout.strip()
    assert "\n" not in run_id
    assert "no worker is on this broker yet" in submitted.stderr
    assert json.loads(shell("status", run_id, "--json", env=env).stdout)["state"] == "queued"
    start_worker()
    watched = shell("watch", run_id, env=env)
    assert watched.returncode == 0, watched.stderr
    assert json.loads(shell("ls", "--json", env=env).stdout)["runs"][0]["state"] == "finished"
    assert shell("report", run_id, env=env).returncode == 0
    more = paper_probe(tmp_path / "differences.json", name="differences", samples=4)
    added = shell("extend", run_id, "-p", str(more), env=env)
    assert added.returncode == 0, added.stderr
    assert added.stdout.strip() != run_id
    watched = shell("watch", added.stdout.strip(), env=env)
    assert watched.returncode == 0, watched.stderr
    said = shell("report", run_id, env=env)
    assert "differences (4 samples)" in said.stdout
    assert "all 22 planned tasks are measured" in said.stdout


def test_probes_are_added_to_a_finished_run_and_a_stopped_addition_goes_on(
    tiny_llama: Path, probe_file: Path, long_probe: Path, tmp_path: Path
) -> None:
    root = tmp_path / "r"
    scan = ["run", "duplication", "-m", str(tiny_llama), "-p", str(probe_file), "-o", str(root)]
    options = ["--batch-size", "4", "--set", "engine.lane=general", "--shard-size", "1", "--max-block", "1"]
    assert shell(*scan, *options).returncode == 0
    rows = pd.read_parquet(root / "parts")
    with started("extend", str(root), "-p", str(long_probe)) as process:
        wait_for(lambda: any((root / "additions").glob("*/parts/s*.parquet")), "a first part of the addition")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    status = shell("status", str(root))
    assert "added" in status.stdout
    again = shell("resume", str(root))
    assert again.returncode == 0, again.stderr
    (addition,) = (root / "additions").iterdir()
    assert f"report: {root / 'report' / 'index.html'}" in again.stderr
    added = pd.read_parquet(addition / "parts")
    assert added["task_id"].nunique() == rows["task_id"].nunique()
    assert set(added["probe"]) == {"long"}
    pd.testing.assert_frame_equal(pd.read_parquet(root / "parts"), rows)
    assert json.loads((root / "report" / "summary.json").read_text())["probes"].keys() == {"sums", "long"}
