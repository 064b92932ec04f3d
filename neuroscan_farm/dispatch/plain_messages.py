"""What a message must look like on the outside before Celery sees it, and the little of it that is kept.

Celery obeys what a message's headers say: callbacks, chains, times of expiry, other tasks. Ours say none of that; and with
headers that make no sense Celery fails in places where the message is never acknowledged, and its worker waits for ever.
So of a message only the order, its name and its queue are kept, and everything else is written anew.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

TASK_NAME = "neuroscan.measure_shard"

_NAME = re.compile(r"[A-Za-z0-9._/-]{1,300}")
_QUEUE = re.compile(r"[A-Za-z0-9._-]{1,300}")


def plain_message(payload: object) -> dict[str, Any]:
    """Return a message with nothing in it but what an order needs.

    Raises:
        ValueError: it is no message with an order in it.
    """
    if not isinstance(payload, Mapping):
        raise ValueError("it is no mapping")
    headers, properties = _mapping(payload, "headers"), _mapping(payload, "properties")
    if headers.get("task") != TASK_NAME:
        raise ValueError(f"it is for another task than {TASK_NAME}")
    if (payload.get("content-type"), payload.get("content-encoding")) != ("application/json", "utf-8"):
        raise ValueError("its content is not JSON in UTF-8")
    name = _text(headers.get("id"), _NAME, "id")
    priority = properties.get("priority")
    if priority not in range(10) or not isinstance(priority, int) or isinstance(priority, bool):
        raise ValueError("its priority is none of 0 to 9")
    queue = _text(_mapping(properties, "delivery_info").get("routing_key"), _QUEUE, "routing key")
    arguments, options = _order(payload.get("body"))
    body = json.dumps([arguments, options, dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))])
    return {
        "body": base64.b64encode(body.encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "lang": "py",
            "task": TASK_NAME,
            "id": name,
            "root_id": name,
            "parent_id": None,
            "group": None,
            "retries": 0,
            "eta": None,
            "expires": None,
            "timelimit": [None, None],
            "argsrepr": "",
            "kwargsrepr": "",
            "ignore_result": True,
        },
        "properties": {
            "correlation_id": name,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue, "priority": priority},
            "priority": priority,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),  # one of our own: it names what is to be acknowledged
        },
    }


def _order(body: object) -> tuple[list[object], dict[str, object]]:
    if not isinstance(body, str):
        raise ValueError("its body is no text")
    inside = json.loads(base64.b64decode(body, validate=True))
    if not isinstance(inside, list) or len(inside) != 3:
        raise ValueError("its body holds no arguments")
    arguments, options, _ = inside
    if not isinstance(arguments, list) or not isinstance(options, dict):
        raise ValueError("its arguments are no list, or its options no mapping")
    return arguments, options


def _mapping(holder: Mapping[Any, Any], name: str) -> Mapping[Any, Any]:
    found = holder.get(name)
    if not isinstance(found, Mapping):
        raise ValueError(f"its {name} are no mapping")
    return found


def _text(value: object, pattern: re.Pattern[str], name: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"its {name} is none of ours")
    return value
