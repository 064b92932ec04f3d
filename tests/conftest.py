"""Fixtures for all tests: a tiny model, a small probe, and settings that touch nothing of the user's."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from neuroscan_farm.analyses import read_request
from neuroscan_farm.coordinator.prepare import make_plan, prepare
from neuroscan_farm.dispatch.devices import DeviceSet, pin
from neuroscan_farm.store.run_directory import RunDirectory

# A law holds or it does not; how long a shared machine took to try it is no part of it.
hypothesis.settings.register_profile(
    "laws", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("laws")

# A job in the background of a shell ignores Ctrl-C, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# This process measures too: like a worker, it says how sums are made before torch is loaded.
pin(DeviceSet(None, (), 1))

pytest_plugins = ["tests.farm_fixtures", "tests.object_store"]


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep cache, user file and runs of a test away from the user's."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("NEUROSCAN_CACHE_DIR", str(home / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "user-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    for name in ("NEUROSCAN_BROKER_URL", "NEUROSCAN_RUNS_DIR", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 6-layer random Llama with the demo model's tokenizer."""
    from tests.tiny_models import make_tiny

    return make_tiny("llama", tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def probe_file(tmp_path: Path) -> Path:
    """Eight samples of three lengths, in the form that layer-scan documents, some with an explicit answer."""
    samples: list[dict[str, Any]] = [
        {"prompt": f"{a}+{b}=", "expected_score": a + b, "metadata": {"kind": "sum"}}
        for a, b in ((1, 2), (4, 3), (2, 2), (5, 4))
    ]
    samples += [{"prompt": f"1{a}-{a}0 is ", "answer": str(a)} for a in (3, 5, 7)]
    samples += [{"prompt": "a=4 k=7 k?", "answer": 7}]
    path = tmp_path / "sums.json"
    path.write_text(
        json.dumps({"name": "sums", "description": "test", "scoring": "digits", "samples": samples})
    )
    return path


MakeRun = Callable[..., RunDirectory]


@pytest.fixture
def make_run(tiny_llama: Path, probe_file: Path, tmp_path: Path) -> MakeRun:
    """Return a function that makes a run of the tiny model; keywords change the request."""

    def make(name: str = "run", *, executor: str = "local", **changes: Any) -> RunDirectory:
        data = {
            "analysis": "duplication",
            "model": str(tiny_llama),
            "probes": [str(probe_file)],
            "shard_size": 4,
        }
        return prepare(
            make_plan(read_request(data | changes, where="test")), tmp_path / name, executor=executor
        )

    return make


@pytest.fixture
def warm(own_settings: Path) -> Any:
    """A holder of a warm model with a cache of its own."""
    from neuroscan_farm.engine.warm import WarmModel

    return WarmModel(threads=1, cache_dir=own_settings / "cache", cache_bytes=10**9)
