"""What a path leaves out of the model, where leaving out is all that it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuroscan_farm.domain.paths import Component, LayerPath, component_of, layer_of

# What may be left out, in the order of the figures.
COMPONENTS = ("layer", *(part.value for part in Component))
_MOST_NAMED = 6


@dataclass(frozen=True, slots=True, order=True)
class LeftOut:
    """One thing that a path leaves out: a whole layer, or the attention or the feed-forward part of one."""

    layer: int
    component: str  # of `COMPONENTS`

    def __str__(self) -> str:
        return (
            f"layer {self.layer}" if self.component == "layer" else f"{self.component} of layer {self.layer}"
        )


def left_out_by(path: LayerPath, depth: int) -> tuple[LeftOut, ...] | None:
    """Return what `path` leaves out of a model of `depth` layers, in order; None where it is no ablation.

    An ablation visits layers in their own order, none twice, and leaves out at least one, or a part of one.
    """
    if len(path) > depth:
        return None
    found: list[LeftOut] = []
    expected = 0
    for (
        start,
        end,
    ) in path.runs():  # not the steps: figures ask this of thousands of long paths, again and again
        first, last, only = layer_of(start), layer_of(end - 1), component_of(start)
        if first < expected or last >= depth:
            return None
        found += [LeftOut(skipped, "layer") for skipped in range(expected, first)]
        if only is not None:
            found += [LeftOut(layer, only.other.value) for layer in range(first, last + 1)]
        expected = last + 1
    found += [LeftOut(skipped, "layer") for skipped in range(expected, depth)]
    return tuple(found) or None


def without_text(gone: Sequence[LeftOut] | None) -> str | None:
    """Return a short name such as `without 3 and 7`; None where nothing, or too much, is left out."""
    if not gone or len(gone) > _MOST_NAMED:
        return None
    names = [
        str(one.layer) if one.component == "layer" else f"{one.component} of {one.layer}" for one in gone
    ]
    return f"without {' and '.join([', '.join(names[:-1]), names[-1]] if len(names) > 1 else names)}"
