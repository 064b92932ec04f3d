"""docs/families.md: what came of every family, one row each. The page is the record that the tests compare to."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import transformers

from tests.families.survey import Case, Verdict

PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
_COLUMNS = ("family", "class", "verdict", "difference", "attention", "checkpoint", "why")
_INTRODUCTION = """\
# Families

Written by `make families`, with transformers {version}: one row for each class that transformers can load as a causal
language model, known by the `model_type` in its config.json, and a few variations of them. A tiny random model of each
was made: 6 layers, weights so large that skipping any layer changes the logits by at least a hundredth of the largest,
masks narrower than the prompts, kinds of layers mixed where the family mixes them. It then went the way of a run on a
CPU in float32: facts, anatomy, gate.

- **exact**: the gate let it through, and paths (a block run twice, layers skipped, the first and the last repeated)
  equal checkpoints that were rebuilt on disk along the path and loaded afresh by transformers, each prompt alone. The
  *difference* is the largest seen anywhere, as a share of the largest logit: it is below the power of ten in the table.
- **refused**: a run stops before it spends time, and says why.
- **not tried**: no such model could be made here.

*Attention* is what transformers chose; "asked for" means that the model's own choice was refused. *Checkpoint* says
whether the family's config can describe every path that was tried. Where it is "not every path", kinds of layers
hang on their number (the first k are dense, every third attends), so that some paths can be measured but not saved.

{counts}

"""


def write_page(verdicts: Sequence[tuple[Case, Verdict]]) -> str:
    """Return the page for these verdicts."""
    outcomes = [verdict.outcome for case, verdict in verdicts if not case.options]
    counts = ", ".join(
        f"{outcomes.count(outcome)} {outcome}" for outcome in ("exact", "refused", "not tried")
    )
    rows = [_row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
    for case, verdict in verdicts:
        cells = [str(case), case.class_name, verdict.outcome, _order(verdict.difference)]
        rows.append(
            _row([*cells, verdict.attention, verdict.checkpoints, verdict.reason.replace("|", "\\|")])
        )
    title = f"Of {len(outcomes)} families: {counts}. Variations are not counted."
    introduction = _INTRODUCTION.format(version=transformers.__version__, counts=title)
    return introduction + "\n".join(rows) + "\n"


def read_page(text: str) -> tuple[str, dict[str, Verdict]]:
    """Return the version of transformers and the verdicts of a page, by the first cell of the row."""
    version = re.search(r"with transformers ([\w.]+):", text)
    assert version is not None
    verdicts = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == len(_COLUMNS) and cells[0].startswith("`"):
            case, _, outcome, order, attention, checkpoint, why = cells
            difference = float(order) if order else math.nan
            verdicts[case] = Verdict(outcome, why.replace("\\|", "|"), difference, attention, checkpoint)
    return version[1], verdicts


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _order(difference: float) -> str:
    """Return the power of ten that a difference is below."""
    if math.isnan(difference):
        return ""
    return f"1e{math.floor(math.log10(max(difference, 1e-7))) + 1:03d}"
