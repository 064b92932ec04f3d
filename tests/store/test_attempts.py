"""Attempts: what failed is kept once, and refusals are settled when the user tries again."""

from __future__ import annotations

import json
from dataclasses import asdict

from neuroscan_farm.store.attempts import Attempt, Attempts
from neuroscan_farm.store.places import open_place

SHARD = "s0123456789ab"


def attempt(number: int = 1, kind: str = "died", task_id: str | None = "t1", shard: str = SHARD) -> Attempt:
    return Attempt(shard, number, kind, task_id, "w", "killed by signal 9", "2026-11-20T04:00:00+00:00")


def attempts_in(location: str) -> Attempts:
    return Attempts(open_place(location))


def test_two_observers_of_one_death_write_it_once(location: str) -> None:
    attempts = attempts_in(location)
    attempts.record(attempt())
    attempts.record(attempt())
    assert attempts.all() == [attempt()]


def test_without_a_folder_nothing_has_failed(location: str) -> None:
    attempts = attempts_in(location)
    assert attempts.all() == []
    attempts.settle()


def test_a_file_that_cannot_be_read_hides_no_other(location: str) -> None:
    attempts = attempts_in(location)
    attempts.record(attempt())
    place = open_place(location)
    place.write("s-broken.json", b"{")
    place.write("s-binary.json", bytes(range(256)))
    place.write("s-other.json", b'{"shard": 1}')
    place.write("s-odd.json", json.dumps(asdict(attempt()) | {"attempt": "first"}).encode())
    place.write("s-timeless.json", json.dumps(asdict(attempt()) | {"ended": "soon"}).encode())
    assert attempts.all() == [attempt()]


def test_trying_again_settles_refusals_and_deaths_while_loading_and_keeps_the_deaths_of_tasks(
    location: str,
) -> None:
    attempts = attempts_in(location)
    attempts.record(attempt(1, kind="refused", task_id=None))
    attempts.record(attempt(2, task_id=None))
    attempts.record(attempt(3))
    attempts.settle()
    assert attempts.all() == [attempt(3)]


def test_the_next_attempt_is_later_than_every_one_before_also_than_those_that_were_settled(
    location: str,
) -> None:
    attempts = attempts_in(location)
    assert attempts.next_number(SHARD) == 1
    attempts.record(attempt(1, kind="refused", task_id=None))
    attempts.record(attempt(2))
    assert attempts.next_number(SHARD) == 3
    assert attempts.next_number("sffffffffffff") == 1
    attempts.settle()
    assert attempts.next_number(SHARD) == 3, "a death under the number of another would take its place"


def test_the_deaths_of_tasks_that_are_tried_again_are_settled_and_those_of_others_stay(location: str) -> None:
    attempts = attempts_in(location)
    attempts.record(attempt(1))
    attempts.record(attempt(2))
    attempts.record(attempt(3, task_id="t2"))
    attempts.record(attempt(4, kind="refused", task_id=None))
    attempts.settle_tasks(["t1", "t7"])
    assert attempts.all() == [attempt(3, task_id="t2"), attempt(4, kind="refused", task_id=None)]
    assert attempts.next_number(SHARD) == 5
    attempts.settle_tasks([])


def test_what_others_record_and_settle_is_seen(location: str) -> None:
    here, there = attempts_in(location), attempts_in(location)
    for number in (1, 2, 3):
        there.record(attempt(number))
        assert here.all() == [attempt(k) for k in range(1, number + 1)]
    there.settle_tasks({"t1"})
    assert here.all() == []
    here.settle_tasks({"t1"})
