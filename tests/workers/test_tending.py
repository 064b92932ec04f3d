"""What a worker says of its child while Celery's pool comes up and goes down."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.prefork import TaskPool

from workers.tending import Tending


@pytest.mark.parametrize("pool", [None, TaskPool(1)], ids=["no pool", "a pool that is not up"])
def test_a_pool_that_is_not_up_has_no_processes(pool: Any) -> None:
    tending = Tending.__new__(Tending)
    tending._worker = SimpleNamespace(pool=pool)
    assert tending.child_pids() == []


def test_the_processes_of_a_pool_that_is_up() -> None:
    tending = Tending.__new__(Tending)
    tending._worker = SimpleNamespace(pool=SimpleNamespace(info={"processes": [4711]}))
    assert tending.child_pids() == [4711]
