"""A model and a probe on paper, and the run of a plan for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paper_models import paper_model, paper_probe


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return paper_model(tmp_path / "tiny")


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    return paper_probe(tmp_path / "sums.json")
