"""The one message of the farm: run this shard. Versioned JSON; everything else is read from the run directory."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ShardOrder(BaseModel):
    """An order to measure one shard. A hint, not a promise: the part on disk decides whether there is work left."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    run_id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,120}$")
    run_dir: str = Field(pattern=r"^/")
    shard_id: str = Field(pattern=r"^s[0-9a-f]{12}$")
    attempt: int = Field(ge=1)
