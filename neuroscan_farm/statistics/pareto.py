"""Pareto fronts: what cannot be improved in one respect without loss in another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from neuroscan_farm.statistics.sample_matrix import Floats


def pareto_front(values: Floats) -> npt.NDArray[np.bool_]:
    """Return which points no other point dominates.

    A point dominates another where it is at least as large everywhere and larger somewhere; so equal points stay
    or go together.

    Args:
        values: [points, respects], larger is better; turn the sign of what should be small.

    Raises:
        ValueError: the values are no table, or one of them is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"values have the shape {values.shape}; give [points, respects]")
    if not np.isfinite(values).all():
        raise ValueError("values are not all finite; leave out points that lack a respect")
    count = len(values)
    front = np.zeros(count, dtype=bool)
    kept: list[int] = []
    # Largest first: whatever dominates a point comes before it, so that the front so far is all that need be asked.
    for index in sorted(range(count), key=lambda k: tuple(-values[k])):
        best = values[kept]
        beaten = (best >= values[index]).all(axis=1) & (best > values[index]).any(axis=1)
        if not beaten.any():
            front[index] = True
            kept.append(index)
    return front
