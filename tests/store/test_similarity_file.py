"""`similarity.json`: what is written reads back; what is missing or damaged is said, with the mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuroscan_farm.errors import RunError
from neuroscan_farm.store.places import open_place
from neuroscan_farm.store.similarity_file import SimilarityFile

MATRIX = [[1.0, 0.25, -0.5], [0.25, 1.0, 0.125], [-0.5, 0.125, 1.0]]


@pytest.fixture
def file(tmp_path: Path) -> SimilarityFile:
    return SimilarityFile(open_place(tmp_path), depth=3)


def test_what_is_written_reads_back(file: SimilarityFile, tmp_path: Path) -> None:
    assert not file.is_there()
    file.write(MATRIX, samples=7)
    assert file.is_there()
    assert file.read() == MATRIX
    said = json.loads((tmp_path / "similarity.json").read_text())
    assert said["samples"] == 7
    assert "mean over all samples" in said["meaning"]


def test_a_file_that_is_not_there_is_named_with_the_mend(file: SimilarityFile) -> None:
    with pytest.raises(
        RunError, match=r"similarity\.json: no such file.*start the run anew with another --output"
    ):
        file.read()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "damaged"),
        ("[]", "version None, this program reads 1"),
        ('{"schema_version": 2, "similarity": []}', "version 2, this program reads 1"),
        ('{"schema_version": 1}', "not 3 rows of 3 cosines"),
        ('{"schema_version": 1, "similarity": [[1, 0], [0, 1]]}', "not 3 rows of 3 cosines"),
        ('{"schema_version": 1, "similarity": [[1,0,0],[0,1,0],[0,0,NaN]]}', "not 3 rows of 3 cosines"),
        ('{"schema_version": 1, "similarity": [[1,0,0],[0,1,0],[0,0,true]]}', "not 3 rows of 3 cosines"),
    ],
)
def test_a_damaged_file_is_said(content: str, said: str, file: SimilarityFile, tmp_path: Path) -> None:
    (tmp_path / "similarity.json").write_text(content)
    with pytest.raises(RunError) as caught:
        file.read()
    assert said in str(caught.value)
