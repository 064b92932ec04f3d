"""What docs/families.md says of every causal family is so."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import transformers

from tests.families.page import PAGE, read_page
from tests.families.survey import CASES, CLASSES, Case, survey

VERSION, WRITTEN = read_page(PAGE.read_text(encoding="utf-8"))


def test_the_page_lists_every_causal_class_of_this_transformers() -> None:
    assert transformers.__version__ == VERSION, "run `make families`"
    assert list(WRITTEN) == [str(case) for case in CASES]
    assert {case.family for case in CASES} == set(CLASSES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_family_is_what_the_page_says(case: Case, tmp_path: Path) -> None:
    written, found = WRITTEN[str(case)], survey(case, tmp_path)
    assert dataclasses.replace(found, difference=0.0) == dataclasses.replace(written, difference=0.0)
    if found.outcome == "exact":
        assert found.difference < 10 * written.difference, "another CPU rounds otherwise, but not so"
    else:
        assert math.isnan(written.difference)
