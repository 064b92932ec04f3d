"""Of a message, the order is kept and nothing else: headers of strangers never reach Celery."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import redis

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_orders import lists_of
from neuroscan_farm.dispatch.broker_url import client_url
from neuroscan_farm.dispatch.celery_queue import make_app, send_order
from neuroscan_farm.dispatch.plain_messages import TASK_NAME, plain_message
from neuroscan_farm.dispatch.wire import ShardOrder, model_queue

ORDER = ShardOrder(
    run_id="r",
    location="/runs/r",
    shard_id="s0123456789ab",
    attempt=2,
    model="0123456789abcdef",
    limit_seconds=60,
)


@pytest.fixture
def sent(broker: Broker) -> dict[str, Any]:
    """An order as Celery puts it into a real queue."""
    send_order(make_app(broker.url, broker.queue), broker.queue, ORDER)
    queue = model_queue(broker.queue, ORDER.model)
    with redis.Redis.from_url(client_url(broker.url)) as client:
        [text] = [text for name in lists_of(queue) for text in client.lrange(name, 0, -1)]
    return dict(json.loads(text))


def body_of(message: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(message["body"]))


def test_what_celery_sends_arrives_with_its_order_its_name_and_its_queue(sent: dict[str, Any]) -> None:
    kept = plain_message(sent)
    assert ShardOrder.model_validate(body_of(kept)[0][0]) == ORDER
    assert kept["headers"]["id"] == sent["headers"]["id"] == "r/s0123456789ab/2"
    assert kept["properties"]["priority"] == sent["properties"]["priority"]
    before = sent["properties"]["delivery_info"]
    assert kept["properties"]["delivery_info"]["routing_key"] == before["routing_key"]
    assert plain_message(kept)["headers"] == kept["headers"], "one that is put back can be read again"


def test_what_celery_would_obey_is_taken_out(sent: dict[str, Any]) -> None:
    chain = [{"task": "neuroscan.measure_shard", "args": [], "kwargs": {}, "options": {}}]
    order, options, _ = body_of(sent)
    body = json.dumps(
        [order, options, {"callbacks": chain, "errbacks": chain, "chain": chain, "chord": chain[0]}]
    )
    sent["body"] = base64.b64encode(body.encode()).decode()
    sent["headers"] |= {
        "expires": 10**40,
        "eta": "never",
        "timelimit": [0.001, 0.001],
        "retries": -1,
        "group": "g",
    }
    sent["headers"] |= {"shadow": "another", "stamps": {"a": 1}, "replaced_task_nesting": 10**9}
    sent["properties"] |= {"reply_to": "somebody", "delivery_tag": "somebody's"}
    kept = plain_message(sent)
    assert set(body_of(kept)[2].values()) == {None}
    said = {name for name, value in kept["headers"].items() if value not in (None, 0, "", True, [None, None])}
    assert said == {"lang", "task", "id", "root_id"}
    assert kept["properties"]["reply_to"] == ""
    assert kept["properties"]["delivery_tag"] != "somebody's"


@pytest.mark.parametrize(
    "change",
    [
        {"headers": None},
        {"headers": {}},
        {"headers": {"task": "celery.backend_cleanup", "id": "x"}},
        {"headers": {"task": TASK_NAME, "id": ["x"]}},
        {"headers": {"task": TASK_NAME, "id": "a b"}},
        {"properties": []},
        {"properties": {"priority": 3}},
        {"properties": {"priority": "3", "delivery_info": {"routing_key": "q"}}},
        {"properties": {"priority": True, "delivery_info": {"routing_key": "q"}}},
        {"properties": {"priority": 3, "delivery_info": {"routing_key": "a\x06b"}}},
        {"content-type": "application/x-python-serialize"},
        {"content-encoding": "binary"},
        {"body": None},
        {"body": "*"},
        {"body": base64.b64encode(b"[]").decode()},
        {"body": base64.b64encode(b"[{}, {}, {}]").decode()},
        {"body": base64.b64encode(b"[[], [], {}]").decode()},
        {"body": base64.b64encode(b"\xff").decode()},
    ],
)
def test_what_is_no_message_of_ours_is_refused(sent: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong, the transport drops it with this as its line
        plain_message(sent | change)
    for no_message in (None, [], "x", 3):
        with pytest.raises(ValueError, match="no mapping"):
            plain_message(no_message)
