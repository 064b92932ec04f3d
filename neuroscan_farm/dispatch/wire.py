"""The one message of the farm: run this shard. Versioned JSON; everything else is read from the run directory."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

WIRE_VERSION = 2
# Weights come from a slow disk or the hub in one step, of which nobody hears.
LEAST_LOADING_LIMIT_SECONDS = 1800.0

_MODEL = re.compile(r"[A-Za-z0-9._-]{12,128}")
_QUEUE_CHARACTERS = 12  # of a model's fingerprint, enough to tell the models of a farm apart
_URL = re.compile(r"[a-z][a-z0-9+-]*://[A-Za-z0-9][A-Za-z0-9._-]*(?P<path>(?:/.*)?)")


def check_location(location: str) -> str:
    """Return where a run is, if it is written plainly: an absolute path, or the URL of an object store.

    Nothing is opened, and nothing is resolved: a worker maps and confines it afterwards.

    Raises:
        ValueError: it is relative, a step upwards is in it, or the URL holds more than a bucket and a prefix.
    """
    if len(location) > 4096 or any(ord(character) < 32 or ord(character) == 127 for character in location):
        raise ValueError("a location has at most 4096 characters, none of them a control character")
    path = location
    if "://" in location:
        url = _URL.fullmatch(location)
        if url is None or location.startswith("file:"):
            raise ValueError("a location by URL is SCHEME://BUCKET/PREFIX of an object store")
        path = url["path"]
        if set(path) & set("%?#@\\"):
            raise ValueError("a location by URL holds a bucket and a prefix, and none of % ? # @ \\")
    elif not location.startswith("/"):
        raise ValueError("a location is an absolute path, or the URL of an object store")
    if {".", ".."} & set(path.split("/")):
        raise ValueError("a location has no . or .. in it")
    return location


def model_queue(queue: str, model: str) -> str:
    """The name of the queue for the orders of one model, by its fingerprint.

    Raises:
        ValueError: this is no fingerprint.
    """
    if _MODEL.fullmatch(model) is None:
        raise ValueError(f"model {model!r} is no fingerprint (12 to 128 of A-Z a-z 0-9 . _ -)")
    return f"{queue}.{re.sub(r'[^A-Za-z0-9-]', '-', model[:_QUEUE_CHARACTERS])}"


class ShardOrder(BaseModel):
    """An order to measure one shard. A hint, not a promise: the parts of the run decide whether there is work left."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[2] = 2
    run_id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,120}$")
    location: Annotated[str, AfterValidator(check_location)]  # as the submitter writes it; a worker maps it
    shard_id: str = Field(pattern=r"^s[0-9a-f]{12}$")
    attempt: int = Field(ge=1, le=10**6)
    model: str = Field(pattern=r"^[A-Za-z0-9._-]{12,128}$")  # the fingerprint, as in the manifest
    priority: int = Field(5, ge=0, le=9)  # 9 goes first
    limit_seconds: float = Field(gt=0, le=10**7, allow_inf_nan=False)  # no progress for so long is hung

    def limit_at(self, task_id: str | None) -> float:
        """After how many seconds without progress its worker is hung; None is before the first task."""
        if task_id is None:
            return max(self.limit_seconds, LEAST_LOADING_LIMIT_SECONDS)
        return self.limit_seconds
