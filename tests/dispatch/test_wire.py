"""The wire: one message, its fields pinned by version, and nothing that is not exactly it is taken for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from neuroscan_farm.dispatch.wire import WIRE_VERSION, ShardOrder, check_location, model_queue

FIELDS_BY_VERSION = {
    1: ["version", "run_id", "run_dir", "shard_id", "attempt"],
    2: ["version", "run_id", "location", "shard_id", "attempt", "model", "priority", "limit_seconds"],
}
GOOD = {
    "version": 2,
    "run_id": "duplication-demo-0123456789",
    "location": "/runs/a",
    "shard_id": "s0123456789ab",
    "attempt": 1,
    "model": "0123456789abcdef0123456789abcdef",
    "priority": 5,
    "limit_seconds": 600.0,
}


def refused(message: str | bytes) -> None:
    with pytest.raises(ValidationError):
        ShardOrder.model_validate_json(message)


def test_the_fields_on_the_wire_are_those_of_their_version() -> None:
    sent = json.loads(ShardOrder.model_validate(GOOD).model_dump_json())
    assert list(sent) == FIELDS_BY_VERSION[sent["version"]]
    assert sent["version"] == WIRE_VERSION == max(FIELDS_BY_VERSION)


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._ -]{0,10}", fullmatch=True).filter(
    lambda name: name not in (".", "..")
)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
orders = st.builds(
    ShardOrder,
    run_id=st.from_regex(r"[A-Za-z0-9._-]{1,120}", fullmatch=True),
    location=paths.map(lambda path: f"/{path}") | paths.map(lambda path: f"s3://bucket/{path}"),
    shard_id=st.from_regex(r"s[0-9a-f]{12}", fullmatch=True),
    attempt=st.integers(1, 10**6),
    model=st.from_regex(r"[0-9a-f]{32}|hub-[0-9a-f]{40}", fullmatch=True),
    priority=st.integers(0, 9),
    limit_seconds=st.floats(0.001, 10**7),
)


@given(orders)
def test_an_order_arrives_as_it_was_sent(order: ShardOrder) -> None:
    assert ShardOrder.model_validate_json(order.model_dump_json()) == order
    assert ShardOrder.model_validate(json.loads(order.model_dump_json())) == order


@pytest.mark.parametrize("field", [name for name in GOOD if name not in ("version", "priority")])
def test_an_order_that_lacks_a_field_is_refused(field: str) -> None:
    refused(json.dumps({name: value for name, value in GOOD.items() if name != field}))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"version": 3},
        {"version": "2"},
        {"version": None},
        {"run_dir": "/runs/a"},
        {"run_id": ""},
        {"run_id": "../../etc"},
        {"run_id": "a b"},
        {"run_id": "a\n"},
        {"run_id": "x" * 121},
        {"location": "runs/a"},
        {"location": ""},
        {"location": "/runs/../etc"},
        {"location": "/runs/a/.."},
        {"location": "/runs/./a"},
        {"location": "/runs/a\n"},
        {"location": "/runs/a\x00"},
        {"location": "/" + "a" * 4096},
        {"location": "file:///etc"},
        {"location": "s3://"},
        {"location": "s3:///a"},
        {"location": "s3://bucket/../other/a"},
        {"location": "s3://bucket/%2e%2e/a"},
        {"location": "s3://key:secret@bucket/a"},
        {"location": "s3://bucket/a?endpoint_override=evil"},
        {"location": "S3://bucket/a"},
        {"location": 7},
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
        {"model": ""},
        {"model": "unacked"},
        {"model": "0123456789ab\n"},
        {"model": "../0123456789ab"},
        {"model": "m" * 129},
        {"priority": -1},
        {"priority": 10},
        {"priority": "5"},
        {"priority": 5.5},
        {"limit_seconds": 0},
        {"limit_seconds": -1.0},
        {"limit_seconds": 1e9},
        {"limit_seconds": "600"},
        {"limit_seconds": None},
    ],
)
def test_an_order_with_anything_else_in_a_field_is_refused(change: dict[str, Any]) -> None:
    refused(json.dumps(GOOD | change))


@pytest.mark.parametrize("limit", ["NaN", "Infinity", "-Infinity"])
def test_a_limit_that_is_no_number_is_refused(limit: str) -> None:
    refused(json.dumps(GOOD).replace("600.0", limit))
    with pytest.raises(ValidationError):
        ShardOrder.model_validate(GOOD | {"limit_seconds": float(limit)})


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


@given(st.text(max_size=40))
def test_a_location_is_taken_as_it_is_or_refused_by_a_value_error(text: str) -> None:
    try:
        location = check_location(text)
    except ValueError:
        return
    assert location == text
    assert ".." not in location.split("/")
    assert location.startswith("/") or "://" in location


def test_an_order_cannot_be_changed_on_its_way() -> None:
    order = ShardOrder.model_validate(GOOD)
    with pytest.raises(ValidationError):
        order.attempt = 2  # type: ignore[misc]


def test_each_model_has_a_queue_and_no_other_keys_name_is_among_them() -> None:
    assert model_queue("farm", "0123456789abcdef") == "farm.0123456789ab"
    assert model_queue("farm", "hub-0123456789abcdef") == "farm.hub-01234567"
    assert model_queue("farm", "unacked_index") == "farm.unacked-inde"
    for model in ("unacked", "", "a:b" * 6, "0123456789ab\x06\x16"):
        with pytest.raises(ValueError, match="fingerprint"):
            model_queue("farm", model)
