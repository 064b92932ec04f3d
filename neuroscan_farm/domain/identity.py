"""Ids made of content: the same thing has the same id on every machine and in every attempt."""

from __future__ import annotations

import hashlib
import json


def content_digest(content: object, *, length: int = 12) -> str:
    """Return the first `length` hex digits of the BLAKE2b digest of `content` as canonical JSON.

    Raises:
        ValueError: `content` holds NaN or infinity, which JSON cannot say.
        TypeError: `content` is not made of JSON's own types.
    """
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(canonical.encode("ascii")).hexdigest()[:length]
