"""What to do next, as a pure function of what is seen. No clock, no disk, no network: races are tested here."""

from __future__ import annotations

from dataclasses import dataclass

MAX_DEATHS_WHILE_LOADING = 3


@dataclass(frozen=True, slots=True)
class View:
    """Everything that the coordinator sees of a run at one moment."""

    shards: tuple[str, ...]  # of the plan, in the order in which they are wanted
    finished: frozenset[str]  # shards whose part is whole
    in_flight: frozenset[str]  # shards that are queued or in a worker's hands
    room: int  # how many more orders the dispatcher takes
    plan_complete: bool  # whether no further stage can follow
    wanted: str  # "running" or "cancelled"
    refusal: str | None  # why no worker can work on this run
    deaths_while_loading: int  # workers that died before a first task, since a shard was last finished


@dataclass(frozen=True, slots=True)
class Send:
    """Hand this shard to the dispatcher."""

    shard_id: str


@dataclass(frozen=True, slots=True)
class Expand:
    """Every shard is finished: plan the next stage from the rows, or find that there is none."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The run ends here: "finished", "cancelled" or "refused"."""

    state: str
    reason: str | None = None


Action = Send | Expand | Stop


def decide(view: View) -> list[Action]:
    """Return what to do next; nothing means wait.

    Deciding twice on the same view is harmless: an order for a finished or claimed shard is a no-op at the worker.
    """
    missing = [shard for shard in view.shards if shard not in view.finished]
    if not missing and view.plan_complete:
        return [Stop("finished")]  # whatever was said meanwhile: there is nothing left to cancel or to refuse
    if view.refusal is not None:
        return [Stop("refused", view.refusal)]
    if view.wanted == "cancelled":
        return [Stop("cancelled")]
    if not missing:
        return [Expand()]
    why = cannot_load(view.deaths_while_loading)
    if why is not None:
        return [Stop("refused", why)]
    waiting = [shard for shard in missing if shard not in view.in_flight]
    return [Send(shard) for shard in waiting[: max(view.room, 0)]]


def cannot_load(deaths_while_loading: int) -> str | None:
    """Say why a run ends when so many workers died before a first task; None while that may be chance."""
    if deaths_while_loading < MAX_DEATHS_WHILE_LOADING:
        return None
    return (
        f"{deaths_while_loading} workers died while they loaded the model, before any task; most often the model does "
        "not fit in memory: try a smaller --dtype, another --device or --gpu-split"
    )
