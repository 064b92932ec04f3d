"""What to do next, as a pure function of what is seen. No clock, no disk, no network: races are tested here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MAX_DEATHS_WHILE_LOADING = 3
DEATHS_BEFORE_SPLIT = 2  # of workers in one shard
LOOSE_PARTS = 256  # so many part files are joined while the run goes on: opening them one by one grows slow
LOOSE_PARTS_AT_THE_END = 32  # fewer are read as fast as one


@dataclass(frozen=True, slots=True)
class View:
    """Everything that the coordinator sees of a run at one moment."""

    shards: tuple[str, ...]  # of the plan, in the order in which they are wanted
    finished: frozenset[str]  # shards whose tasks are all done
    in_flight: frozenset[str]  # shards that are queued or in a worker's hands
    room: int  # how many more orders the dispatcher takes
    plan_complete: bool  # whether no further stage can follow
    wanted: str  # "running", "paused" or "cancelled"
    refusal: str | None  # why no worker can work on this run
    deaths_while_loading: tuple[str, ...]  # of workers before a first task, since a shard was last finished
    begun: frozenset[str] = frozenset()  # unfinished shards of which some tasks are done
    deaths: Mapping[str, int] = field(default_factory=dict)  # in shards of several tasks that killed workers
    better_cut: int | None = None  # how many shards the rest should be, by the measured rate; None: as it is
    loose_parts: int = 0  # part files that are not joined yet


@dataclass(frozen=True, slots=True)
class Send:
    """Hand this shard to the dispatcher."""

    shard_id: str


@dataclass(frozen=True, slots=True)
class Narrow:
    """Cut this shard down to its tasks that are not done."""

    shard_id: str


@dataclass(frozen=True, slots=True)
class Split:
    """Give the tasks that workers died on in this shard a shard each, and the others one without them."""

    shard_id: str


@dataclass(frozen=True, slots=True)
class Resize:
    """Cut what is neither done nor on its way anew, into about so many shards."""

    shards: int


@dataclass(frozen=True, slots=True)
class Compact:
    """Join the part files."""


@dataclass(frozen=True, slots=True)
class Expand:
    """Every shard is finished: plan the next stage from the rows, or find that there is none."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The run ends here: "finished", "cancelled" or "refused"."""

    state: str
    reason: str | None = None


Action = Send | Narrow | Split | Resize | Compact | Expand | Stop


def decide(view: View) -> list[Action]:
    """Return what to do next; nothing means wait.

    A change of the cut (`Narrow`, `Split`, `Resize`) is made before anything is sent, and looked at anew. Deciding
    twice on the same view is harmless: an order for a finished or claimed shard is a no-op at the worker.
    """
    missing = [shard for shard in view.shards if shard not in view.finished]
    if not missing and view.plan_complete:
        # Whatever was said meanwhile: there is nothing left to cancel or to refuse.
        joined: list[Action] = [Compact()] if view.loose_parts > LOOSE_PARTS_AT_THE_END else []
        return [*joined, Stop("finished")]
    if view.refusal is not None:
        return [Stop("refused", view.refusal)]
    if view.wanted == "cancelled":
        return [Stop("cancelled")]
    if view.wanted == "paused":
        return []
    if not missing:
        return [Expand()]
    why = cannot_load(view.deaths_while_loading)
    if why is not None:
        return [Stop("refused", why)]
    idle = [shard for shard in missing if shard not in view.in_flight]
    cuts: list[Action] = [Narrow(shard) for shard in idle if shard in view.begun]
    cuts += [Split(shard) for shard in idle if view.deaths.get(shard, 0) >= DEATHS_BEFORE_SPLIT]
    if not cuts and idle and view.better_cut is not None:
        cuts = [Resize(view.better_cut)]
    joined = [Compact()] if view.loose_parts >= LOOSE_PARTS else []
    # Workers first: joining many parts takes a while.
    return [*(cuts or [Send(shard) for shard in idle[: max(view.room, 0)]]), *joined]


def cannot_load(deaths_while_loading: Sequence[str]) -> str | None:
    """Say why a run ends when so many workers died before a first task; None while that may be chance."""
    if len(deaths_while_loading) < MAX_DEATHS_WHILE_LOADING:
        return None
    last = (deaths_while_loading[-1].strip().splitlines() or ["unknown"])[-1]
    return (
        f"{len(deaths_while_loading)} workers died while they loaded the model, before any task; the last of them: "
        f"{last}. Of those that were killed, most often the model does not fit in memory: try a smaller --dtype, "
        "another --device or --gpu-split"
    )
