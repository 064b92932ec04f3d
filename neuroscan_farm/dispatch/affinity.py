"""Which of its queues a worker takes from next: that of the model it holds, as long as nobody starves by it.

Plain Python; the transport asks for an order and says what was taken. Priorities come before it: the transport looks
into all queues for the most urgent messages first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable


class Affinity:
    """Remembers which queue was taken from last, over reconnections too.

    Args:
        own: the queues' names begin with this; others hold no model's orders.
        patience: after so many seconds on one model, orders for others that wait go first, once.
        clock: seconds that only grow.
    """

    def __init__(self, own: str, *, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._own = own
        self._patience = patience
        self._clock = clock
        self._held: str | None = None
        self._since = 0.0

    @property
    def held(self) -> str | None:
        """The model whose orders are taken, as its queue calls it."""
        return None if self._held is None else self._held.removeprefix(self._own)

    def taken(self, queue: str) -> None:
        """Say that a message was taken from a queue."""
        if not queue.startswith(self._own):
            return
        # Whoever took from the held queue although it came last found nothing in the others: nobody waited.
        if queue != self._held or self._is_over():
            self._held, self._since = queue, self._clock()

    def sorted(self, queues: Iterable[str]) -> list[str]:
        """The queues in the order in which to look into them; the others keep theirs."""
        names = list(queues)
        if self._held not in names:
            return names
        others = [name for name in names if name != self._held]
        return [*others, self._held] if self._is_over() else [self._held, *others]

    def _is_over(self) -> bool:
        return self._clock() - self._since > self._patience

    def __call__(self) -> AffinityCycle:
        """A cycle for one channel (kombu's `queue_order_strategy` is called so)."""
        return AffinityCycle(self)


class AffinityCycle:
    """The order of one channel's queues, in the form of kombu.utils.scheduling's cycles."""

    def __init__(self, affinity: Affinity) -> None:
        self._affinity = affinity
        self._queues: list[str] = []  # those taken from lately are at the end

    def update(self, queues: Iterable[str]) -> None:
        """Take other queues; those that stay keep their order."""
        names = list(queues)
        stay = [name for name in self._queues if name in names]
        self._queues = [*(name for name in names if name not in stay), *stay]

    def consume(self, n: int) -> list[str]:
        """The queues in the order in which to look into them."""
        return self._affinity.sorted(self._queues[:n])

    def rotate(self, last_used: str) -> str:
        """Say which queue was taken from."""
        if last_used in self._queues:
            self._queues.remove(last_used)
            self._queues.append(last_used)
        self._affinity.taken(last_used)
        return last_used
