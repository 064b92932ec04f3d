"""Plain data as JSON has it: what of a value JSON cannot say, and how a value is shown in a message."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

_MAX_SHOWN = 60


def unlike_json(value: object, *, path: str) -> str | None:
    """Return what in `value` JSON cannot say, or None."""
    if value is None or isinstance(value, bool | int):
        return None
    if isinstance(value, str):
        return (
            None if is_unicode(value) else f"{path} holds half of a surrogate pair; write the whole character"
        )
    if isinstance(value, float):
        if math.isfinite(value):
            return None
        return f"{path} is {show(value)}; accepted: finite numbers; write null or a text"
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                return f"{path} has the key {show(key)}; accepted: text; put it in quotes"
            found = unlike_json(key, path=path) or unlike_json(inner, path=f"{path}.{key}")
            if found:
                return found
        return None
    if isinstance(value, list):
        found_each = (unlike_json(inner, path=f"{path}[{index}]") for index, inner in enumerate(value))
        return next((found for found in found_each if found), None)
    return f"{path} is a {type(value).__name__}; accepted: what JSON can say; put it in quotes"


def is_unicode(text: str) -> bool:
    """Whether `text` can be encoded; half of a surrogate pair cannot, and tokenizers fail on it."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def show(value: object) -> str:
    """Return `value` as JSON would write it, cut to one short line."""
    try:
        shown = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        shown = f"{value!r}" if isinstance(value, int | float | str) else f"a {type(value).__name__}"
    shown = shown.encode("utf-8", "backslashreplace").decode("utf-8")
    return shown if len(shown) <= _MAX_SHOWN else shown[: _MAX_SHOWN - 3] + "..."
