"""Which layers of a model an analysis may leave out, and the paths without them."""

from __future__ import annotations

import itertools
from collections.abc import Collection

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.errors import RequestError


def layers_between(*, skip_early: int, skip_late: int, depth: int) -> range:
    """Return the layers that are left when some at the start and at the end are not touched.

    Raises:
        RequestError: no layer is left.
    """
    if skip_early + skip_late >= depth:
        raise RequestError(
            f"skip_early {skip_early} and skip_late {skip_late} leave no layer: this model has {depth} layers; "
            f"their sum must be below {depth}"
        )
    return range(skip_early, depth - skip_late)


def path_without(layers: Collection[int], depth: int) -> LayerPath:
    """Return the model's own order without these layers, of which it has every one, and others besides."""
    gone = [-1, *sorted(set(layers)), depth]
    return LayerPath.of_runs(
        (before + 1, after) for before, after in itertools.pairwise(gone) if after - before > 1
    )
