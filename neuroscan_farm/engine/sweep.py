"""One wave: a trie of paths carried through the layers, 0..L-1, all paths at once.

At each layer, the units of every path that visits it are stacked into micro-batches; each layer's weights are touched
once per sweep. What several paths share is run once. A unit that fails takes the paths with it that run through it,
and no others. Memory that runs out halves the micro-batch, and, where it must be, the unit itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from neuroscan_farm.domain.paths import Component, LayerPath
from neuroscan_farm.engine.boundaries import Boundaries
from neuroscan_farm.engine.lanes.lane import Inputs, Lane, samples_of
from neuroscan_farm.engine.micro_batches import MicroBatches, is_out_of_memory, release
from neuroscan_farm.engine.weights.streaming import LayerWeights
from neuroscan_farm.errors import NeuroscanError
from neuroscan_farm.planning.trie import PathTrie

log = logging.getLogger(__name__)

# The prompts' shapes, the layer's kind, whether only its end is wanted, the only component that runs.
_Kind = tuple[tuple[torch.Size, ...], object, bool, Component | None]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a path has no end."""

    detail: str


@dataclass(slots=True)
class Job:
    """One batch in a wave."""

    inputs: Inputs
    boundaries: Boundaries
    ends: dict[LayerPath, torch.Tensor | Failure] = field(default_factory=dict)


@dataclass(slots=True)
class _Place:
    """Where a node's unit lies: in a stack that other nodes may share."""

    stack: torch.Tensor
    copies: int
    position: int

    def unit(self) -> torch.Tensor:
        return self.stack if self.copies == 1 else self.stack.chunk(self.copies)[self.position]


class _Travel:
    """A job on its way: the units of the nodes that others still begin with."""

    def __init__(self, job: Job, waiting: list[int]) -> None:
        self.job = job
        self.places: dict[int | None, _Place | Failure] = {}
        self.waiting = waiting  # how many visits still begin with each node's unit

    def park(self, nodes: Sequence[int], wanted: set[int | None]) -> None:
        """Take units that are not wanted at the next visit out of their stacks, so that these can go."""
        for node in nodes:
            place = self.places.get(node)
            if isinstance(place, _Place) and place.copies > 1 and node not in wanted:
                self.places[node] = _Place(place.unit().clone(), 1, 0)


class Wave:
    """Carries the paths of one trie through the layers, for one or more batches."""

    def __init__(
        self,
        trie: PathTrie,
        jobs: Sequence[Job],
        *,
        lane: Lane,
        kinds: Sequence[object],
        weights: LayerWeights,
        micro: MicroBatches,
    ) -> None:
        """Prepare a wave.

        Args:
            trie: the paths.
            jobs: the batches; each must fit in memory as often as there are paths.
            lane: how a layer is run.
            kinds: of each layer, what it has in common with layers of the same arithmetic.
            weights: where the layers' weights are.
            micro: how many units share a call.
        """
        self._trie = trie
        self._lane = lane
        self._kinds = kinds
        self._weights = weights
        self._micro = micro
        self._ends: dict[int, list[LayerPath]] = {}
        for path, end in trie.ends.items():
            if end is not None:
                self._ends.setdefault(end, []).append(path)
        users = [
            sum(bool(trie.children[child]) + (child in self._ends) for child in children)
            for children in trie.children
        ]
        self._jobs = [_Travel(job, list(users)) for job in jobs]

    def carry_out(self, on_step: Callable[[LayerPath], None]) -> None:
        """Run every node; each job then has an end, or a failure, for each path.

        `on_step` is called before each micro-batch with a path that takes part in it; what it raises ends the wave.
        """
        for travel in self._jobs:
            for path, end in self._trie.ends.items():
                if end is None:
                    travel.job.ends[path] = self._lane.end(
                        travel.job.inputs, travel.job.boundaries[len(path)]
                    )
        some_path = self._some_path_through()
        visits = self._in_order_of_stacks()
        for number, (layer, members) in enumerate(visits):
            following, upcoming = visits[number + 1] if number + 1 < len(visits) else (None, ())
            self._weights.ensure(layer, following)
            # A path's end is always computed as an end, though others may go on from the same node: the lane may
            # round it differently, and a row must not tell what else was in the shard.
            inner = [node for node in members if self._trie.children[node]]
            final = [node for node in members if node in self._ends]
            for travel in self._jobs:
                for nodes, last in ((inner, False), (final, True)):
                    for only, alike in self._by_component(nodes):
                        self._visit(travel, layer, alike, last, only, lambda node: on_step(some_path[node]))
                travel.park(inner, {self._trie.nodes[node].parent for node in upcoming})

    def _by_component(self, nodes: Sequence[int]) -> Iterable[tuple[Component | None, Sequence[int]]]:
        """Group nodes by what of the layer they run: these share no call."""
        groups: dict[Component | None, list[int]] = {}
        for node in nodes:
            groups.setdefault(self._trie.nodes[node].only, []).append(node)
        return groups.items()

    def _in_order_of_stacks(self) -> list[tuple[int, tuple[int, ...]]]:
        """Let nodes follow their parents' order, newcomers last: stacks then travel on as they are, without a copy."""
        ordered: list[tuple[int, tuple[int, ...]]] = []
        place: dict[int | None, int] = {}
        for layer, members in self._trie.visits():
            behind = len(place)
            row = sorted(members, key=lambda node: (place.get(self._trie.nodes[node].parent, behind), node))
            place = {node: position for position, node in enumerate(row)}
            ordered.append((layer, tuple(row)))
        return ordered

    def _some_path_through(self) -> dict[int, LayerPath]:
        found: dict[int, LayerPath] = {}
        for path, end in self._trie.ends.items():
            node = end
            while node is not None and node not in found:
                found[node] = path
                node = self._trie.nodes[node].parent
        return found

    def _visit(
        self,
        travel: _Travel,
        layer: int,
        nodes: Sequence[int],
        last: bool,
        only: Component | None,
        on_step: Callable[[int], None],
    ) -> None:
        """Run one layer, or one component of it, on the units of these nodes, in micro-batches."""
        inputs = travel.job.inputs
        shape = inputs.embedded.shape
        tokens = shape[:-1].numel()
        kind = (tuple(ids.shape for ids in inputs.prompts), self._kinds[layer], last, only)
        alone = not self._lane.stackable(inputs)
        pending = []
        for node in nodes:
            before = travel.places.get(self._trie.nodes[node].parent)
            if isinstance(before, Failure):
                self._keep(travel, node, before, last)
            else:
                pending.append(node)
        while pending:
            copies = 1 if alone else self._micro.copies(shape, tokens, len(pending))
            if self._micro.admitted(kind, copies) is False:
                copies = 1
            group = pending[:copies]
            on_step(group[0])
            try:
                after: torch.Tensor | Failure = self._call(travel, layer, group, kind)
            except (NeuroscanError, OSError):  # weights or boundaries cannot be read: no path's fault
                raise
            except Exception as error:
                if copies > 1:
                    if is_out_of_memory(error):
                        release(inputs.embedded.device)
                        self._micro.ran_out(shape, tokens, copies)
                    else:  # one of them failed, perhaps: each alone, for the rest of this visit
                        alone = True
                    continue
                log.warning("layer %d failed on a path", layer, exc_info=True)
                after = Failure(f"{type(error).__name__}: {error}")
            for position, node in enumerate(group):
                place = after if isinstance(after, Failure) else _Place(after, copies, position)
                self._keep(travel, node, place, last)
            pending = pending[copies:]

    def _gather(self, travel: _Travel, group: Sequence[int]) -> torch.Tensor:
        """Stack the units that these nodes begin with."""
        places = []
        for node in group:
            parent = self._trie.nodes[node].parent
            place = (
                _Place(travel.job.boundaries[self._trie.nodes[node].start], 1, 0)
                if parent is None
                else travel.places[parent]
            )
            assert isinstance(place, _Place)
            places.append(place)
        first = places[0].stack
        as_they_are = places[0].copies == len(group) and all(
            place.stack is first and place.position == position for position, place in enumerate(places)
        )
        return first if as_they_are else torch.cat([place.unit() for place in places])

    def _call(self, travel: _Travel, layer: int, group: Sequence[int], kind: _Kind) -> torch.Tensor:
        inputs, copies, (_, _, last, only) = travel.job.inputs, len(group), kind
        stack = self._gather(travel, group)
        if copies == 1:
            most_tokens = self._micro.most_tokens
            return run_unit(self._lane, inputs, layer, stack, last=last, only=only, most_tokens=most_tokens)
        run = self._lane.run_last if last else self._lane.run
        if self._micro.admitted(kind, copies):
            return run(inputs, layer, stack, copies, only)
        alone = torch.cat([run(inputs, layer, unit, 1, only) for unit in stack.chunk(copies)])
        self._micro.admit(kind, copies, same_bits(run(inputs, layer, stack, copies, only), alone))
        return alone

    def _keep(self, travel: _Travel, node: int, place: _Place | Failure, last: bool) -> None:
        """Keep what a node has come to, and drop its parent's unit when no other visit waits for it."""
        if last:
            end = place if isinstance(place, Failure) else place.unit()
            travel.job.ends.update(dict.fromkeys(self._ends[node], end))
        else:
            travel.places[node] = place
        parent = self._trie.nodes[node].parent
        if parent is not None:
            travel.waiting[parent] -= 1
            if not travel.waiting[parent]:
                del travel.places[parent]


def run_unit(
    lane: Lane,
    inputs: Inputs,
    k: int,
    unit: torch.Tensor,
    *,
    last: bool = False,
    only: Component | None = None,
    most_tokens: int | None = None,
) -> torch.Tensor:
    """Run layer k on one unit, or its end; where that does not fit in memory, half of its samples at a time.

    Args:
        lane: how a layer is run.
        inputs: the batch.
        k: the layer.
        unit: what it is run on.
        last: whether only the end is wanted.
        only: the only component of the layer that runs; None is the whole layer.
        most_tokens: what memory is known to be enough for.

    Raises:
        MemoryError: a single sample does not fit.
    """
    run = lane.run_last if last else lane.run
    tokens = unit.shape[:-1].numel()
    single = samples_of(inputs) == 1
    if single or not lane.stackable(inputs) or tokens <= (most_tokens or tokens):
        try:
            return run(inputs, k, unit, 1, only)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if single:
                raise MemoryError(
                    f"one sample of {tokens} tokens does not fit in layer {k} ({error})"
                ) from error
        release(unit.device)
        log.warning(
            "out of memory with %d samples of one batch; going on with half of them at a time (on a GPU, rows may "
            "differ in their last bits; a smaller --batch-size avoids that)",
            samples_of(inputs),
        )
    halves = [
        run_unit(lane, half, k, part, last=last, only=only, most_tokens=most_tokens)
        for half, part in zip(lane.halves(inputs), lane.split(inputs, unit), strict=True)
    ]
    return lane.join(inputs, halves[0], halves[1])


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal to the last bit; NaN equals NaN."""
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
