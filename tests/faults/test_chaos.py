"""Random faults, the short version; `make chaos` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.chaos import chaos


@pytest.mark.parametrize("local", [True, False], ids=["local", "farm"])
def test_a_sweep_under_random_faults_has_the_table_of_an_undisturbed_one(
    local: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = chaos(tmp_path, tasks=160, samples=40, faults=10, seed=4, local=local, pause=0.5)
    assert result.unharmed, result
    assert result.tasks == 160
    assert result.rows == 160 * 40
    assert sum(result.faults.values()) > 3
