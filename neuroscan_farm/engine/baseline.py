"""The baseline's units before every layer: run once per machine, then read from its cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.engine.boundaries import Boundaries, BoundaryCache
from neuroscan_farm.engine.lanes.lane import Inputs, Lane
from neuroscan_farm.engine.sweep import run_unit
from neuroscan_farm.engine.weights.streaming import LayerWeights


class Baseline:
    """Runs the untouched model layer by layer, by the same lane as every other path."""

    def __init__(
        self,
        lane: Lane,
        *,
        depth: int,
        weights: LayerWeights,
        cache: BoundaryCache,
        key: Mapping[str, Any],
        most_tokens: int | None,
        on_layer: Callable[[], None] = lambda: None,
    ) -> None:
        """Bind the baseline to a model.

        Args:
            lane: how one layer is run.
            depth: how many layers there are.
            weights: where the layers' weights are.
            cache: the machine's cache.
            key: everything but the prompts that the numbers depend on.
            most_tokens: what memory is known to be enough for in one call of a layer; None is no bound.
            on_layer: called after each layer, and while another worker computes them: slow is not hung.
        """
        self._lane = lane
        self._depth = depth
        self._weights = weights
        self._cache = cache
        self._key = dict(key)
        self._most_tokens = most_tokens
        self._on_layer = on_layer

    def boundaries(self, batches: Sequence[Inputs]) -> list[Boundaries]:
        """Return the boundaries of each batch, from the machine's cache or by running what is missing.

        What is missing is run together, so that the layers' weights are touched once for all batches.
        """
        keys = [
            content_digest(
                {**self._key, "tokens": [token_ids.tolist() for token_ids in inputs.prompts]}, length=32
            )
            for inputs in batches
        ]
        found = {
            key: self._cache.find(key, count=self._depth + 1, device=inputs.prompts[0].device)
            for key, inputs in zip(keys, batches, strict=True)
        }
        missing = {key: inputs for key, inputs in zip(keys, batches, strict=True) if found[key] is None}
        with contextlib.ExitStack() as stack:
            writers = {
                key: stack.enter_context(
                    self._cache.writer(
                        key,
                        count=self._depth + 1,
                        shape=missing[key].embedded.shape,
                        dtype=missing[key].embedded.dtype,
                        device=missing[key].prompts[0].device,
                        on_wait=self._on_layer,
                    )
                )
                for key in sorted(missing)  # in this order, lest two workers wait for each other
            }
            units = {key: missing[key].embedded for key, writer in writers.items() if writer.wanted}
            for key, unit in units.items():
                writers[key].append(unit)
            for k in range(self._depth if units else 0):
                self._weights.ensure(k, k + 1 if k + 1 < self._depth else None)
                for key in units:
                    units[key] = run_unit(
                        self._lane, missing[key], k, units[key], most_tokens=self._most_tokens
                    )
                    writers[key].append(units[key])
                self._on_layer()
        found.update({key: writer.boundaries for key, writer in writers.items()})
        return [boundaries for key in keys if (boundaries := found[key]) is not None]
