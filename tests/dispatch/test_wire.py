"""The wire: one message, its fields pinned by version, and nothing that is not exactly it is taken for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from neuroscan_farm.dispatch.wire import ShardOrder

FIELDS_BY_VERSION = {1: ["version", "run_id", "run_dir", "shard_id", "attempt"]}
GOOD = {
    "version": 1,
    "run_id": "duplication-demo-0123456789",
    "run_dir": "/runs/a",
    "shard_id": "s0123456789ab",
    "attempt": 1,
}


def refused(message: str | bytes) -> None:
    with pytest.raises(ValidationError):
        ShardOrder.model_validate_json(message)


def test_the_fields_on_the_wire_are_those_of_their_version() -> None:
    sent = json.loads(ShardOrder.model_validate(GOOD).model_dump_json())
    assert list(sent) == FIELDS_BY_VERSION[sent["version"]]


orders = st.builds(
    ShardOrder,
    run_id=st.from_regex(r"[A-Za-z0-9._-]{1,120}", fullmatch=True),
    run_dir=st.text(max_size=40).map(lambda text: "/" + text),
    shard_id=st.from_regex(r"s[0-9a-f]{12}", fullmatch=True),
    attempt=st.integers(1, 10**6),
)


@given(orders)
def test_an_order_arrives_as_it_was_sent(order: ShardOrder) -> None:
    assert ShardOrder.model_validate_json(order.model_dump_json()) == order
    assert ShardOrder.model_validate(json.loads(order.model_dump_json())) == order


@pytest.mark.parametrize("field", [name for name in GOOD if name != "version"])
def test_an_order_that_lacks_a_field_is_refused(field: str) -> None:
    refused(json.dumps({name: value for name, value in GOOD.items() if name != field}))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": "1"},
        {"version": None},
        {"priority": 3},
        {"run_id": ""},
        {"run_id": "../../etc"},
        {"run_id": "a b"},
        {"run_id": "a\n"},
        {"run_id": "x" * 121},
        {"run_dir": "runs/a"},
        {"run_dir": ""},
        {"shard_id": "s0123456789AB"},
        {"shard_id": "t0123456789ab"},
        {"shard_id": "s0123456789ab\n"},
        {"shard_id": "s0123456789abc"},
        {"shard_id": "../s0123456789"},
        {"attempt": 0},
        {"attempt": -1},
        {"attempt": "1"},
        {"attempt": 1.5},
        {"attempt": True},
    ],
)
def test_an_order_with_anything_else_in_a_field_is_refused(change: dict[str, Any]) -> None:
    refused(json.dumps(GOOD | change))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_order_are_refused(message: bytes) -> None:
    refused(message)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(list(GOOD)) | st.text(max_size=4), values, max_size=6))
def test_json_that_is_no_order_is_refused_by_a_validation_error_and_by_nothing_else(
    change: dict[str, Any],
) -> None:
    message = GOOD | change
    try:
        order = ShardOrder.model_validate_json(json.dumps(message))
    except ValidationError:
        return
    assert order.model_dump() == message


def test_an_order_cannot_be_changed_on_its_way() -> None:
    order = ShardOrder.model_validate(GOOD)
    with pytest.raises(ValidationError):
        order.attempt = 2  # type: ignore[misc]
