"""The systemd units: strict by our own reading everywhere, and by systemd-analyze where that exists."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.test_kubernetes import GRACE
from tests.deploy.units import read_unit
from tests.deploy.words import DEPLOY, text_of

SYSTEMD = DEPLOY / "systemd"
UNITS = sorted([*SYSTEMD.glob("*.service"), *SYSTEMD.glob("*.target")])
SERVICES = [path for path in UNITS if path.suffix == ".service"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_holds_sections_keys_and_values_that_systemd_knows(path: Path) -> None:
    unit = read_unit(path)
    assert unit["Unit"]["Description"]
    assert unit["Install"]["WantedBy"]


def test_our_reading_refuses_what_systemd_would_only_warn_of(tmp_path: Path) -> None:
    text = text_of(SYSTEMD / "neuroscan-coordinator.service")
    for wrong in ("KillMod=mixed", "ProtectHome=maybe", "TimeoutStopSec=soon", "[Servize]", "Restart"):
        path = tmp_path / "wrong.service"
        path.write_text(text.replace("[Install]", f"{wrong}\n\n[Install]"), encoding="utf-8")
        with pytest.raises(AssertionError):
            read_unit(path)


def test_systemd_itself_has_nothing_to_say_against_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:  # no systemd on this machine: the strict reading above is what remains
        return
    for path in UNITS:  # a program that is there, in place of the one that is installed later
        program = "/opt/neuroscan/bin/neuroscan-farm"
        (tmp_path / path.name).write_text(text_of(path).replace(program, sys.executable), encoding="utf-8")
    command = [analyze, "verify", "--man=no", *(str(tmp_path / path.name) for path in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "neuroscan" in line]
    assert done.returncode == 0, done.stdout + done.stderr
    assert not ours


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_service_is_asked_to_leave_in_the_workers_way(path: Path) -> None:
    service = read_unit(path)["Service"]
    assert service["KillMode"] == ["mixed"]
    assert service["KillSignal"] == ["SIGTERM"]
    assert int(service["TimeoutStopSec"][0]) >= GRACE + 10
    assert service["Restart"] == ["on-failure"], "a drained worker ends with 0 and stays away"
    assert read_unit(path)["Unit"]["StartLimitIntervalSec"] == ["0"]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_service_with_a_wrong_setting_is_not_started_again_and_again(path: Path) -> None:
    service = read_unit(path)["Service"]
    _, *command = service["ExecStart"][0].split()
    for setting, value in (("NEUROSCAN_LOG_FORMAT", "xml"), ("NEUROSCAN_ROOTS", "relative")):
        done = subprocess.run(
            [sys.executable, "-m", "neuroscan_farm", *command, "--broker", "redis://127.0.0.1:1/0"],
            env={**os.environ, setting: value},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert str(done.returncode) in service["RestartPreventExitStatus"][0].split(), done.stderr


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_service_is_confined_but_cuda_is_let_work(path: Path) -> None:
    service = read_unit(path)["Service"]
    assert service["User"] != ["root"]
    for key in ("NoNewPrivileges", "PrivateTmp", "RestrictSUIDSGID", "ProtectKernelModules"):
        assert service[key] == ["yes"], key
    assert service["ProtectSystem"] == ["strict"]
    if "worker" in path.name:
        breaks_cuda = {"PrivateDevices", "DevicePolicy", "MemoryDenyWriteExecute", "SystemCallFilter"}
        assert not breaks_cuda & set(service)


def test_an_instance_is_a_gpu() -> None:
    service = read_unit(SYSTEMD / "neuroscan-worker@.service")["Service"]
    assert "CUDA_VISIBLE_DEVICES=%i" in service["Environment"]
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in service["Environment"], "numbered as nvidia-smi does"
    ports = [value.partition("=")[2] for value in service["Environment"] if "METRICS_PORT" in value]
    assert {int(ports[0].replace("%i", str(gpu))) for gpu in range(8)} == set(range(9110, 9118))
    # Settings of one instance come after those of all, and so win.
    assert service["EnvironmentFile"] == ["/etc/neuroscan/farm.env", "-/etc/neuroscan/worker-%i.env"]
