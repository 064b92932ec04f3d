"""The Slurm jobs: clean to shellcheck, and run here as Slurm runs them, with its signals and with the real programs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.redis_server import RedisServer
from tests.deploy.test_kubernetes import GRACE
from tests.deploy.test_redis import free_port
from tests.deploy.words import DEPLOY, ROOT, text_of
from tests.farm_fixtures import wait_for

SLURM = DEPLOY / "slurm"
JOBS = sorted(SLURM.glob("*.sbatch"))
BIN = Path(sys.executable).parent

# What sbatch(1) knows of, as far as our jobs use it.
OPTIONS = {
    "job-name": r"[a-z-]+",
    "array": r"\d+-\d+",
    "ntasks": r"1",
    "gres": r"gpu:\d+",
    "cpus-per-task": r"\d+",
    "mem": r"\d+G",
    "time": r"(\d+-)?\d\d:\d\d:\d\d",
    "signal": r"B:USR1@\d+",
    "requeue": None,
    "open-mode": r"append",
    "output": r"[a-z-]+-%[jA](_%a)?\.log",
}
jobs = pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
Start = Callable[..., "subprocess.Popen[str]"]


def options(job: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for text in re.findall(r"^#SBATCH (.*)$", text_of(job), re.M):
        match = re.fullmatch(r"--([a-z-]+)(?:=(\S+))?", text)
        assert match, text
        assert match[1] not in found, text
        found[match[1]] = match[2]
    return found


@jobs
def test_shellcheck_finds_nothing(job: Path) -> None:
    done = subprocess.run([str(BIN / "shellcheck"), str(job)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_shellcheck_finds_nothing_in_the_other_script() -> None:
    subprocess.run([str(BIN / "shellcheck"), str(DEPLOY / "compose" / "start-redis.sh")], check=True)


@jobs
def test_options_of_a_job_are_those_of_sbatch_and_stand_before_the_first_command(job: Path) -> None:
    for name, value in options(job).items():
        assert name in OPTIONS, f"{job.name}: {name}"
        pattern = OPTIONS[name]
        assert (value is None) if pattern is None else re.fullmatch(pattern, value or ""), (
            f"{job.name}: {name}"
        )
    lines = text_of(job).splitlines()
    assert lines[0] == "#!/bin/bash"
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[:last]), (
        "sbatch reads no options after the first command"
    )


@jobs
def test_a_job_hears_of_its_end_in_time_and_comes_back(job: Path) -> None:
    found = options(job)
    assert "requeue" in found
    assert found["open-mode"] == "append", "the log of the time before stays"
    warning = int(str(found["signal"]).rpartition("@")[2])
    assert warning - 60 >= GRACE + 10, "Slurm's signal may come a minute late"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that runs a job's script as Slurm would; `scontrol` notes what it is asked."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\nkill -TERM $PPID\n')
    (programs / "neuroscan-farm").write_text(f'#!/bin/sh\nexec {sys.executable} -m neuroscan_farm "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    started: list[subprocess.Popen[str]] = []

    def run(job: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        given = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
            "SLURM_JOB_ID": "4712",
            "POLL_SECONDS": "0.2",
            "FARM_ENV": str(tmp_path / "farm.env"),
        }
        with (tmp_path / f"{job}.log").open("a") as output:
            process = subprocess.Popen(
                ["bash", str(SLURM / f"{job}.sbatch"), *arguments],
                env=given | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                cwd=tmp_path,
            )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def says(path: Path, text: str) -> None:
    wait_for(lambda: path.exists() and text in path.read_text(), f"{path.name}: {text}", seconds=60)


def write_farm_env(path: Path, url: str) -> None:
    path.with_suffix(".new").write_text(f"NEUROSCAN_BROKER_URL={url}\n")
    path.with_suffix(".new").chmod(0o600)
    path.with_suffix(".new").rename(path)


def test_a_worker_job_follows_its_broker_and_waits_for_a_new_allocation_at_the_end_of_its_time(
    start: Start, redis_server: RedisServer, tmp_path: Path
) -> None:
    log = tmp_path / "neuroscan-worker.log"
    array = {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "3"}
    job = start("neuroscan-worker", **array)  # before there is a broker
    write_farm_env(tmp_path / "farm.env", redis_server.url)
    says(log, "worker slurm-4711_3 is ready")
    with RedisServer() as other:
        write_farm_env(tmp_path / "farm.env", other.url)
        says(log, "has changed")
        broker = Broker(other.url, queue="neuroscan")
        wait_for(lambda: [one for one in broker.workers() if one.name == "slurm-4711_3"], "the worker moves")
        broker.close()
        job.send_signal(signal.SIGUSR1)
        job.wait(60)
    assert (tmp_path / "asked").read_text() == "requeue 4711_3\n"
    assert "handed back" in log.read_text()


def test_a_worker_job_that_is_cancelled_ends_well_and_stays_away(
    start: Start, redis_server: RedisServer, tmp_path: Path
) -> None:
    write_farm_env(tmp_path / "farm.env", redis_server.url)
    job = start("neuroscan-worker")
    says(tmp_path / "neuroscan-worker.log", "is ready")
    os.killpg(job.pid, signal.SIGTERM)  # scancel and pre-emption: to every process of the job
    assert job.wait(60) == 0
    assert not (tmp_path / "asked").exists()


def test_a_worker_job_wants_the_file_with_the_password_to_be_private(start: Start, tmp_path: Path) -> None:
    (tmp_path / "farm.env").write_text("NEUROSCAN_BROKER_URL=redis://:PASSWORD@127.0.0.1:1/0\n")
    (tmp_path / "farm.env").chmod(0o640)
    assert start("neuroscan-worker").wait(60) == 2
    assert "chmod 600" in (tmp_path / "neuroscan-worker.log").read_text()


def test_the_broker_job_brings_a_farm_up_and_tells_the_workers(start: Start, tmp_path: Path) -> None:
    farm_env = tmp_path / "farm.env"
    farm_env.write_text(f"NEUROSCAN_RUNS_DIR={tmp_path}/runs\n")
    port = str(free_port())
    job = start("neuroscan-broker", BROKER_PORT=port, BROKER_HOST="127.0.0.1")
    says(farm_env, "NEUROSCAN_BROKER_URL=redis://:")
    lines = farm_env.read_text().splitlines()
    assert lines[0] == f"NEUROSCAN_RUNS_DIR={tmp_path}/runs", "what else it says is kept"
    assert farm_env.stat().st_mode & 0o077 == 0
    broker = Broker(lines[1].partition("=")[2], queue="neuroscan")
    assert broker.workers() == []
    password = lines[1].split(":")[3].partition("@")[0]
    for name in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert password.encode() not in name.read_bytes(), "the password is in the list of processes"
        except OSError:
            continue  # it has ended meanwhile
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 0
    broker.close()
    assert password not in (tmp_path / "neuroscan-broker.log").read_text()


def test_a_broker_job_whose_redis_dies_says_so_and_fails(start: Start, tmp_path: Path) -> None:
    job = start("neuroscan-broker", BROKER_PORT=str(free_port()), BROKER_HOST="127.0.0.1")
    says(tmp_path / "neuroscan-broker.log", "is ready")
    (server,) = (
        path.name
        for path in (Path("/proc") / pid for pid in children(job.pid))
        if b"redis" in (path / "cmdline").read_bytes()
    )
    os.kill(int(server), signal.SIGKILL)
    assert job.wait(60) == 1
    assert "Redis has ended by itself" in (tmp_path / "neuroscan-broker.log").read_text()


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_run_job_waits_for_a_new_allocation_at_the_end_of_its_time(
    start: Start, tiny_llama: Path, long_probe: Path, tmp_path: Path
) -> None:
    request = tmp_path / "long.yaml"
    request.write_text(f"analysis: duplication\nmodel: {tiny_llama}\nprobes: [{long_probe}]\nshard_size: 1\n")
    job = start("neuroscan-run", str(request), str(tmp_path / "run"))
    wait_for(lambda: list((tmp_path / "run").glob("parts/*.parquet")), "the first part")
    job.send_signal(signal.SIGUSR1)
    job.wait(60)
    assert (tmp_path / "asked").read_text() == "requeue 4712\n"


def test_a_run_job_ends_with_the_code_of_its_run(start: Start, tmp_path: Path) -> None:
    assert start("neuroscan-run", str(tmp_path / "none.yaml")).wait(60) == 2, "it wants two arguments"
    (tmp_path / "wrong.yaml").write_text("analysis: duplication\nmodel: /nowhere\nprobes: [math]\n")
    assert start("neuroscan-run", str(tmp_path / "wrong.yaml"), str(tmp_path / "run")).wait(60) == 5
    assert not (tmp_path / "asked").exists()
