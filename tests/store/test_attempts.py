"""Attempts: what failed is kept once, counted for quarantine, and refusals are settled when the user tries again."""

from __future__ import annotations

from pathlib import Path

from neuroscan_farm.store.attempts import Attempt, Attempts

SHARD = "s0123456789ab"


def attempt(number: int = 1, kind: str = "died", task_id: str | None = "t1", shard: str = SHARD) -> Attempt:
    return Attempt(shard, number, kind, task_id, "w", "killed by signal 9", "2026-11-20T04:00:00+00:00")


def test_two_observers_of_one_death_write_it_once(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "attempts")
    attempts.record(attempt())
    attempts.record(attempt())
    assert attempts.all() == [attempt()]
    assert attempts.deaths() == {"t1": 1}


def test_deaths_are_counted_by_task_and_only_where_a_task_was_running(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "attempts")
    attempts.record(attempt(1))
    attempts.record(attempt(2))
    attempts.record(attempt(3, task_id="t2"))
    attempts.record(attempt(4, task_id=None))
    attempts.record(attempt(5, kind="refused", task_id=None))
    assert attempts.deaths() == {"t1": 2, "t2": 1}


def test_without_a_folder_nothing_has_failed(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "none")
    assert attempts.all() == []
    assert attempts.deaths() == {}
    attempts.settle()


def test_a_file_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    attempts.record(attempt())
    (tmp_path / "s-broken.json").write_text("{")
    (tmp_path / "s-other.json").write_text('{"shard": 1}')
    assert attempts.all() == [attempt()]


def test_trying_again_settles_refusals_and_deaths_while_loading_and_keeps_the_deaths_of_tasks(
    tmp_path: Path,
) -> None:
    attempts = Attempts(tmp_path)
    attempts.record(attempt(1, kind="refused", task_id=None))
    attempts.record(attempt(2, task_id=None))
    attempts.record(attempt(3))
    attempts.settle()
    assert attempts.all() == [attempt(3)]
    assert attempts.deaths() == {"t1": 1}


def test_the_next_attempt_is_later_than_every_one_before_also_than_those_that_were_settled(
    tmp_path: Path,
) -> None:
    attempts = Attempts(tmp_path)
    assert attempts.next_number(SHARD) == 1
    attempts.record(attempt(1, kind="refused", task_id=None))
    attempts.record(attempt(2))
    assert attempts.next_number(SHARD) == 3
    assert attempts.next_number("sffffffffffff") == 1
    attempts.settle()
    assert attempts.next_number(SHARD) == 3, "a death under the number of another would take its place"
