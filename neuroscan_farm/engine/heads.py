"""From a path's end to logits: the model's own final norm and head, in chunks of a fixed shape.

Matrix products of few rows round differently from those of many, so every chunk of a batch has the same number of
rows, filled up with copies; a row then does not depend on how many paths ended together.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import torch

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.engine.anatomy import Anatomy
from neuroscan_farm.engine.lanes.lane import Inputs, samples_of
from neuroscan_farm.engine.micro_batches import is_out_of_memory, release
from neuroscan_farm.engine.replay import last_logits
from neuroscan_farm.engine.sweep import Failure, same_bits

log = logging.getLogger(__name__)

_ROWS = 64  # of a chunk, or those of one unit where it has more


class Heads:
    """Turns the ends of a wave into logits."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._units: dict[torch.Size, int] = {}  # how many ends of a batch fill a chunk, by the units' shape

    def logits(
        self, inputs: Inputs, ends: Mapping[LayerPath, torch.Tensor | Failure]
    ) -> Iterator[tuple[LayerPath, torch.Tensor | Failure]]:
        """Yield the last token's logits [samples, vocabulary] of each path, or why it has none."""
        waiting = []
        for path, end in ends.items():
            if isinstance(end, Failure):
                yield path, end
            else:
                waiting.append((path, end))
        while waiting:
            units = self._chunk_of(inputs, waiting[0][1])
            chunk = waiting[:units]
            rows: Sequence[torch.Tensor | Failure]
            try:
                rows = self._run(inputs, [end for _, end in chunk], units)
            except Exception as error:
                if is_out_of_memory(error) and units > 1:
                    release(inputs.embedded.device)
                    self._units[inputs.embedded.shape] = units // 2
                    continue
                log.warning("the head failed", exc_info=True)
                rows = [Failure(f"{type(error).__name__}: {error}") for _ in chunk]
            yield from zip((path for path, _ in chunk), rows, strict=True)
            waiting = waiting[units:]

    def _chunk_of(self, inputs: Inputs, end: torch.Tensor) -> int:
        """Return how many ends make a chunk; more than one only if a row's place in it does not matter."""
        shape, samples = inputs.embedded.shape, samples_of(inputs)
        if shape not in self._units:
            units = max(1, _ROWS // samples) if end.dim() == 3 and len(end) == samples else 1
            if units > 1:
                first, *_, last = self._run(inputs, [end] * units, units)
                if not same_bits(first, last):
                    log.info("the head's rows depend on their place in a chunk here; one batch at a time")
                    units = 1
            self._units[shape] = units
        return self._units[shape]

    def _run(self, inputs: Inputs, ends: list[torch.Tensor], units: int) -> list[torch.Tensor]:
        filled = ends + [ends[0]] * (units - len(ends))
        whole = (
            inputs.prompts[0]
            if len(inputs.prompts) == 1
            else torch.cat([ids[:, -1:] for ids in inputs.prompts])
        )
        logits = last_logits(self._anatomy, whole.repeat(units, 1), torch.cat(filled))
        return list(logits.chunk(units))[: len(ends)]
