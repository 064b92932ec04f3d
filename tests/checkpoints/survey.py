"""Every exact family of docs/families.md: does `materialize` write what the oracle rebuilds, and refuse what it refuses?

python -m tests.checkpoints.survey [FAMILY...]     a line for each family and a summary, some minutes
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from transformers.utils import logging

from neuroscan_farm.checkpoints.materialize import materialize
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.engine.gate import relative_difference
from neuroscan_farm.errors import ModelError
from neuroscan_farm.store.run_directory import RunDirectory
from tests.checkpoints.test_families import TOKENS, own_logits, run_of
from tests.families.oracle import NoCheckpointError, oracle_logits
from tests.families.page import PAGE, read_page
from tests.families.survey import _PATHS, CASES, Case, _write

_MOST_DIFFERENCE = 2e-6


def outcome(
    run: RunDirectory, folder: Path, text: str, target: Path, attention: str | None
) -> tuple[str, float]:
    """Say what became of one path, and how far its logits are from the oracle's."""
    path = LayerPath.parse(text)
    try:
        theirs = oracle_logits(folder, path.layers, TOKENS, attention=attention)
    except NoCheckpointError:
        theirs = None
    try:
        made = materialize(run, path, target)
    except ModelError:
        return ("refused, as the oracle does" if theirs is None else "REFUSED, and the oracle does not"), 0.0
    ours = own_logits(made.folder, attention=attention)
    if theirs is None:
        return "written, which the oracle cannot", 0.0
    difference = relative_difference(ours, theirs)
    return ("equal" if difference <= _MOST_DIFFERENCE else "DIFFERENT"), difference


def survey(case: Case, attention: str | None, work: Path) -> list[tuple[str, float]]:
    """Try all paths of one family."""
    folder = work / "model"
    _write(case, folder)
    run = run_of(folder, work)
    return [outcome(run, folder, text, work / f"out-{k}", attention) for k, text in enumerate(_PATHS)]


def main(families: list[str]) -> int:
    """Try the families, or all; return 1 where one is not as the oracle has it."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    written = read_page(PAGE.read_text(encoding="utf-8"))[1]
    total: Counter[str] = Counter()
    worst, tried = 0.0, 0
    for case in CASES:
        verdict = written[str(case)]
        if verdict.outcome != "exact" or (families and case.family not in families):
            continue
        tried += 1
        attention = "eager" if "asked for" in verdict.attention else None
        with tempfile.TemporaryDirectory() as work:
            found = survey(case, attention, Path(work))
        counts = Counter(what for what, _ in found)
        total += counts
        worst = max(worst, *(difference for _, difference in found))
        print(f"{case}: {', '.join(f'{count} {what}' for what, count in counts.items())}", flush=True)
    print(f"{tried} families: {dict(total)}; largest difference {worst:.1e} of the largest logit")
    return int(any(what.split(",")[0].isupper() for what in total))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
