"""A run on paper: planned, and nothing measured yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroscan_farm.coordinator.prepare import prepare
from neuroscan_farm.store.run_directory import RunDirectory
from tests.paper_models import paper_model, paper_plan, paper_probe


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    plan = paper_plan(paper_model(tmp_path / "tiny"), paper_probe(tmp_path / "sums.json"))
    return prepare(plan, tmp_path / "run", executor="local")
