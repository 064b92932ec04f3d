"""A run on paper, on a disk and in an object store: planned, and nothing measured yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroscan_farm.coordinator.prepare import Plan, prepare
from neuroscan_farm.store.run_directory import RunDirectory
from tests.paper_models import paper_model, paper_plan, paper_probe


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return paper_plan(paper_model(tmp_path / "tiny"), paper_probe(tmp_path / "sums.json"))


@pytest.fixture
def run(plan: Plan, tmp_path: Path) -> RunDirectory:
    return prepare(plan, tmp_path / "run", executor="local")


@pytest.fixture(params=["disk", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a folder may be made: a path, and the URL of an object store."""
    if request.param == "disk":
        return str(tmp_path / "anywhere")
    return str(request.getfixturevalue("bucket"))


@pytest.fixture
def any_run(plan: Plan, location: str) -> RunDirectory:
    return prepare(plan, location, executor="local")
