"""Files are there whole or not at all, and a refusal of the disk is an error that names the place and the mend."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from neuroscan_farm.errors import StorageError
from neuroscan_farm.store.atomic import storage_errors, write_text, written_aside


class Interrupted(BaseException):
    """Whatever ends a process in the middle of a write."""


def test_a_file_that_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "down" / "a.txt", "grüße")
    assert (tmp_path / "deep" / "down" / "a.txt").read_text(encoding="utf-8") == "grüße"
    assert [path.name for path in (tmp_path / "deep" / "down").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, Interrupted, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, error: type[BaseException]
) -> None:
    write_text(tmp_path / "a.txt", "old")

    def write() -> None:
        with written_aside(tmp_path / "a.txt") as aside:
            aside.write_text("half of the new")
            raise error

    with pytest.raises(error):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_what_is_written_aside_is_hidden_from_those_who_list_the_folder(tmp_path: Path) -> None:
    with written_aside(tmp_path / "s.parquet") as aside:
        assert aside.parent == tmp_path
        assert aside.name.startswith(".tmp-")
        aside.write_text("x")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EFBIG, "the disk is full"),
        (errno.EACCES, "not writable"),
        (errno.EROFS, "not writable"),
        (errno.ENOTDIR, "a file is in the way"),
        (errno.EIO, "cannot be written"),
        (errno.ESTALE, "cannot be written"),
        (errno.ENAMETOOLONG, "cannot be written"),
    ],
)
def test_every_refusal_of_the_disk_is_an_error_of_ours_that_names_the_place(number: int, said: str) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(Path("/runs/x/parts")):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith("/runs/x/parts: ")
    assert said in str(caught.value)


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    for path in (tmp_path / "runs" / "a.txt", tmp_path / "runs" / "deep" / "a.txt"):
        with pytest.raises(StorageError, match="a file is in the way"):
            write_text(path, "x")


def test_a_folder_where_a_file_should_be_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt" / "inside").mkdir(parents=True)
    with pytest.raises(StorageError):
        write_text(tmp_path / "a.txt", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
