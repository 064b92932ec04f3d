"""The balanced score: one number for how well a configuration does on several probes of different scales."""

from __future__ import annotations

import numpy as np

from neuroscan_farm.statistics.sample_matrix import Floats


def balanced_scores(effects: Floats) -> Floats:
    """Return the mean over the probes of each configuration's z-scored effects, [configurations].

    On each probe, z is the effect less the mean over the configurations given, divided by their standard deviation
    (of the population: divided by their number). A probe on which all effects are equal cannot tell configurations
    apart and gives each a z of 0. The scores depend on which configurations are given: they say how one stands
    among them, and are no effects.

    Args:
        effects: [configurations, probes], all finite.

    Raises:
        ValueError: the effects are no table, or one of them is not finite.
    """
    effects = np.asarray(effects, dtype=np.float64)
    if effects.ndim != 2 or effects.shape[1] == 0:
        raise ValueError(f"effects have the shape {effects.shape}; give [configurations, probes]")
    if not np.isfinite(effects).all():
        raise ValueError("effects are not all finite; leave out configurations that lack a probe")
    if not len(effects):
        return np.zeros(0)
    centred = effects - effects.mean(axis=0)
    spread = effects.std(axis=0)
    # Where all are equal, rounding leaves a spread of some units in the last place.
    told_apart = spread > 1e-12 * np.abs(effects).max(axis=0)
    scores: Floats = np.where(told_apart, centred / np.where(told_apart, spread, 1.0), 0.0).mean(axis=1)
    return scores
