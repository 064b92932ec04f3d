"""How large a shard should be, by the rate that was measured: one to three minutes of one worker's work.

Shorter shards spend their time on messages and files; longer ones lose more when a worker dies, and keep others
waiting. Before anything is measured, shards are small.
"""

from __future__ import annotations

import math

FIRST_SHARD_TASKS = 16  # where the request does not say; also what the rows' shard_id goes by
SHORTEST_SECONDS, WANTED_SECONDS, LONGEST_SECONDS = 60.0, 90.0, 180.0
MOST_ROWS = 100_000  # of one part: they are held in memory until it is written

_SHARDS_PER_SLOT = 3  # so that workers finish together
_WORTH_IT = 2.0  # smaller changes are noise
_HUNG_AFTER = 5.0  # times what was expected
_LEAST_LIMIT_SECONDS, _UNKNOWN_LIMIT_SECONDS = 600.0, 1800.0


def better_cut(*, seconds: float, evaluations: int, tasks: int, shards: int, slots: int) -> int | None:
    """Return into how many shards the rest should be cut, or None where the present cut will do.

    Args:
        seconds: of one layer evaluation, as measured.
        evaluations: of what is neither done nor on its way.
        tasks: in it.
        shards: that it is cut into now.
        slots: orders that workers can have at a time; each should get several shards before the end.
    """
    whole = seconds * evaluations
    if shards == 0 or whole <= 0 or SHORTEST_SECONDS <= whole / shards <= LONGEST_SECONDS:
        return None
    wanted = math.ceil(whole / WANTED_SECONDS)
    if wanted < shards:  # longer ones, but not so long that some workers wait for the last shards of others
        wanted = min(max(wanted, _SHARDS_PER_SLOT * slots), shards)
    wanted = min(wanted, tasks)
    return wanted if wanted * _WORTH_IT <= shards or wanted >= _WORTH_IT * shards else None


def most_tasks(samples: int) -> int:
    """Return the most tasks of one shard, where each has a row for every one of `samples`."""
    return max(1, MOST_ROWS // max(samples, 1))


def limit_seconds(seconds: float | None, evaluations: int) -> float:
    """Return after how long without any progress a shard's worker counts as hung."""
    if seconds is None:
        return _UNKNOWN_LIMIT_SECONDS
    return max(_LEAST_LIMIT_SECONDS, _HUNG_AFTER * seconds * evaluations)
