"""Circuits: which pairs of layers do together what neither does alone, or do the same thing twice?

Single layers are left out, then pairs of them. The interaction of a pair is what is lost with both gone, beyond the sum
of what is lost with each gone alone. Which pairs are tried (the best layers, their neighbours, layers whose residual
streams are alike, or all of them) follows neuro-scan, but for what makes a layer one of the best: the root mean square of
its changes and not the size of their mean, because the pairs are tested on the same samples (`Analysis.next_stage`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field, field_validator

from neuroscan_farm.analyses.base import Similarity
from neuroscan_farm.analyses.layer_choice import layers_between, path_without
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.domain.requests import Parameters
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.errors import RequestError

Pair = tuple[int, int]  # the earlier layer first

_PAIR = re.compile(r"\s*(\d{1,18})\s*,\s*(\d{1,18})\s*")
_FEWEST_LAYERS = 3  # with two of two layers gone, there is no model


class CircuitsParameters(Parameters):
    """Which pairs of layers to leave out together."""

    strategy: Literal["fast", "thorough", "exhaustive"] = Field(
        "fast",
        description="fast tries pairs of the top layers, and these with their neighbours; thorough, similar layers too; "
        "exhaustive, all pairs",
    )
    top_layers: int = Field(
        10,
        ge=0,
        description="how many layers count as the top: those whose absence moves a sample's score most, either way",
    )
    similarity: float = Field(
        0.95, ge=-1, le=1, description="cosine above which thorough takes two layers for similar"
    )
    pairs: tuple[str, ...] = Field((), description="further pairs to try, such as 3,7")
    skip_early: int = Field(0, ge=0, description="layers at the start that are never left out")
    skip_late: int = Field(0, ge=0, description="layers at the end that are never left out")

    @field_validator("pairs")
    @classmethod
    def _pairs_parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                parse_pair(text)
            except RequestError as error:
                raise ValueError(str(error)) from None
        return value


def parse_pair(text: str) -> Pair:
    """Read two layers, such as `"3,7"`; the earlier one comes first in what is returned.

    Raises:
        RequestError: the text is not of that form, or it names one layer twice.
    """
    match = _PAIR.fullmatch(text)
    if match is None:
        raise RequestError(f"pair {text!r}: write two layers, as in 3,7")
    a, b = sorted((int(match[1]), int(match[2])))
    if a == b:
        raise RequestError(
            f"pair {text!r} names layer {a} twice: a layer does not interact with itself; name two layers"
        )
    return a, b


class Circuits:
    """The circuits analysis: every layer left out, then pairs of layers."""

    name = "circuits"
    summary = "leave out pairs of layers: which do together what neither does alone, and which do the same?"
    parameters = CircuitsParameters

    def expand(self, parameters: Parameters, *, depth: int, probe_digests: Sequence[str]) -> list[Task]:
        """Return the baseline, every single layer, and the pairs that are known from the start; see `Analysis`."""
        assert isinstance(parameters, CircuitsParameters)
        if depth < _FEWEST_LAYERS:
            raise RequestError(
                f"circuits leaves out two layers at once, and this model has {depth}; it needs {_FEWEST_LAYERS} or more"
            )
        layers = layers_between(skip_early=parameters.skip_early, skip_late=parameters.skip_late, depth=depth)
        pairs = [parse_pair(text) for text in parameters.pairs]
        for text, (_, later) in zip(parameters.pairs, pairs, strict=True):
            if later >= depth:
                raise RequestError(
                    f"pair {text!r} names layer {later}, but this model has {depth} layers; use 0 to {depth - 1}"
                )
        if parameters.strategy == "exhaustive":
            pairs += itertools.combinations(layers, 2)
        singles = sorted({*layers, *itertools.chain.from_iterable(pairs)})
        paths = [LayerPath.identity(depth), *(path_without([layer], depth) for layer in singles)]
        paths += (path_without(pair, depth) for pair in sorted(set(pairs)))
        return [Task.of(path, probe_digests=probe_digests) for path in paths]

    def has_stages(self, parameters: Parameters) -> bool:
        """Whether pairs are chosen by what the single layers show; see `Analysis.has_stages`."""
        assert isinstance(parameters, CircuitsParameters)
        return parameters.strategy == "thorough" or (
            parameters.strategy == "fast" and parameters.top_layers > 0
        )

    def further(self, parameters: Parameters) -> str:
        """What a further stage measures; see `Analysis.further`."""
        assert isinstance(parameters, CircuitsParameters)
        if not self.has_stages(parameters):
            return ""
        around_top = "pairs around the layers whose absence moves scores most"
        chosen = [around_top] if parameters.top_layers else []
        chosen += ["pairs of layers that are alike"] if self.needs_similarity(parameters) else []
        return " and ".join(chosen)

    def needs_similarity(self, parameters: Parameters) -> bool:
        """Whether pairs are chosen by how alike layers are; see `Analysis.needs_similarity`."""
        assert isinstance(parameters, CircuitsParameters)
        return parameters.strategy == "thorough"

    def next_stage(
        self,
        parameters: Parameters,
        *,
        depth: int,
        probe_digests: Sequence[str],
        tasks: Sequence[Task],
        effects: Mapping[str, float],  # noqa: ARG002
        sizes: Mapping[str, float],
        similarity: Callable[[], Similarity],
    ) -> list[Task]:
        """Return the pairs that the single layers, and their similarity, point at; see `Analysis.next_stage`."""
        assert isinstance(parameters, CircuitsParameters)
        if not self.has_stages(parameters) or any(task.stage > 0 for task in tasks):
            return []
        layers = layers_between(skip_early=parameters.skip_early, skip_late=parameters.skip_late, depth=depth)
        by_path = {task.path: task.task_id for task in tasks}
        found = {
            layer: sizes[task_id]
            for layer in layers
            if (task_id := by_path.get(path_without([layer], depth))) in sizes and task_id is not None
        }
        # Ties are broken by the layer, so that a resumed run goes on with the same pairs.
        top = sorted(found, key=lambda layer: (-found[layer], layer))[: parameters.top_layers]
        pairs = around(top, layers)
        if found and self.needs_similarity(parameters):  # without a baseline nothing is found, nor alike
            pairs |= alike(similarity(), layers, parameters.similarity)
        paths = (path_without(pair, depth) for pair in sorted(pairs))
        return [Task.of(path, probe_digests=probe_digests, stage=1) for path in paths if path not in by_path]


def around(top: Iterable[int], layers: Collection[int]) -> set[Pair]:
    """Return the pairs among the top layers, and of each with its neighbours among `layers`."""
    chosen = sorted(top)
    pairs = set(itertools.combinations(chosen, 2))
    for layer in chosen:
        pairs |= {
            (min(layer, other), max(layer, other)) for other in (layer - 1, layer + 1) if other in layers
        }
    return pairs


def alike(similarity: Similarity, layers: Iterable[int], threshold: float) -> set[Pair]:
    """Return the pairs among `layers` whose similarity is above the threshold."""
    return {(a, b) for a, b in itertools.combinations(layers, 2) if similarity[a][b] > threshold}
