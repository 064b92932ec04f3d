"""The card of a checkpoint says what the run found, with all that a reader needs to doubt it."""

from __future__ import annotations

from pathlib import Path

from neuroscan_farm.checkpoints.model_card import model_card
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.report.findings import read_findings
from tests.report.conftest import build_run


def card_of(root: Path, path: str | None = None, **options: object) -> tuple[str, str]:
    """The card of a path, or of the best configuration, and that path."""
    findings = read_findings(build_run(root, n_samples=24, **options))  # type: ignore[arg-type]
    chosen = LayerPath.parse(path) if path is not None else findings.ranked()[0].path
    text = model_card(
        findings, chosen, model="acme/tiny-llama", revision="v2", parameters=1_500, source_parameters=1_000
    )
    return text, str(chosen)


def test_the_best_configuration_comes_with_interval_correction_and_what_chance_would_show(
    tmp_path: Path,
) -> None:
    card, path = card_of(tmp_path / "run", probes=("math", "words"))
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "base_model:\n- acme/tiny-llama\n" in card
    assert "at revision `v2`" in card
    assert f"`{path}`" in card
    assert "1,500 parameters, the source has 1,000" in card
    rows = [line for line in card.splitlines() if line.startswith(("| mean of 2", "| math", "| words"))]
    assert len(rows) == 3
    assert all(len(row.split("|")) == 9 for row in rows)
    assert " to " in rows[0]
    assert rows[0].rstrip().endswith("| 1 |")
    assert "If none of them changed anything" in card
    assert "No samples were held out" in card


def test_a_path_that_was_not_measured_claims_nothing(tmp_path: Path) -> None:
    card, _ = card_of(tmp_path / "run", path="5,4,3,2,1,0")
    assert "nothing is known of its effect" in card
    assert "95 %" not in card


def test_the_untouched_order_is_called_so(tmp_path: Path) -> None:
    card, _ = card_of(tmp_path / "run", path="0..5")
    assert "untouched order of layers" in card


def test_what_the_samples_held_out_say_stands_beside_what_chose(tmp_path: Path) -> None:
    card, _ = card_of(tmp_path / "run", confirm=0.5)
    (line,) = [line for line in card.splitlines() if line.startswith("- on 12 samples held out")]
    assert "on the samples that chose it: " in line
    assert line.endswith((" % of it is gone", " %", "none of the gain is left"))
    assert "No samples were held out" not in card
