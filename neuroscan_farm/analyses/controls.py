"""Matched-compute controls: windows of the same lengths as named blocks, at random places.

They cost what the named blocks cost. Where they help as much, it is the compute that helps, and not the layers.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Sequence

from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.domain.paths import Block

_ALL_AT_ONCE = 1_000  # places are written out up to so many, else drawn until enough of them differ


def control_blocks(
    blocks: Sequence[Block], *, count: int, first: int, end: int, taken: Iterable[tuple[Block, ...]] = ()
) -> list[tuple[Block, ...]]:
    """Return up to `count` random placements of windows as long as `blocks`, in their order, without overlap.

    All placements are equally likely. What is drawn depends on the arguments alone, so the same request has the same
    controls on every machine.

    Args:
        blocks: blocks that act together.
        count: how many placements; fewer are returned where there are no more.
        first: the first layer that a window may begin at.
        end: where the last window must have ended; half-open.
        taken: placements that are not drawn, beside the blocks' own.
    """
    ordered = sorted(blocks)
    lengths = [block.j - block.i for block in ordered]
    # Windows without overlap are choices of their starts among so many places, each window shrunk to one.
    places = end - first - sum(lengths) + len(lengths)
    if places < len(lengths):
        return []
    taken = {tuple(ordered), *(tuple(sorted(one)) for one in taken)}
    generator = random.Random(
        content_digest([str(block) for block in ordered] + [count, first, end], length=32)
    )

    def at(chosen: Iterable[int]) -> tuple[Block, ...]:
        start, placed = first, []
        for k, (place, block, length) in enumerate(zip(sorted(chosen), ordered, lengths, strict=True)):
            i = start + place - k
            placed.append(Block(i, i + length, block.times))
            start += length
        return tuple(placed)

    if math.comb(places, len(lengths)) <= max(_ALL_AT_ONCE, 2 * (count + len(taken))):
        everywhere = [at(chosen) for chosen in itertools.combinations(range(places), len(lengths))]
        free = [placed for placed in everywhere if placed not in taken]
        return [placed for _, placed in sorted((generator.random(), placed) for placed in free)][:count]
    drawn: list[tuple[Block, ...]] = []
    while len(drawn) < count:
        chosen = {int(generator.random() * places) for _ in lengths}
        if len(chosen) == len(lengths) and (placed := at(chosen)) not in taken:
            taken.add(placed)
            drawn.append(placed)
    return drawn
