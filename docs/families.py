"""Writes docs/families.md: the verdict on every causal family of transformers. `make families` runs it; tests compare."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers.utils import logging as transformers_logging

from tests.families.page import PAGE, write_page
from tests.families.survey import CASES, Case, Verdict, survey


def main() -> None:
    """Survey every case and write the page."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    verdicts: list[tuple[Case, Verdict]] = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            verdicts.append((case, survey(case, Path(folder))))
        sys.stderr.write(f"{verdicts[-1][1].outcome:9} {case}\n")
    PAGE.write_text(write_page(verdicts), encoding="utf-8")


if __name__ == "__main__":
    main()
