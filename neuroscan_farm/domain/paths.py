"""Layer paths: the order in which a forward pass visits layers.

Layer ranges are half-open everywhere inside (`Block(45, 52)` is layers 45..51), as in mergekit's `layer_range`;
the *text* of a path has inclusive ranges (`"0..51,45..79"`), as exllamav3's `layer_map` and people write it.

A step is a number: the layer where all of it runs, and 10,000 or 20,000 more where only its attention or only its mlp
runs. In a text, these are `5:attention` and `5..7:mlp`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from neuroscan_farm.errors import RequestError

MOST_STEPS = 32_767  # the tables on disk count layers and steps in 16 bits
MOST_LAYERS = 9_999  # so that a layer's number, and what runs of it, fit those bits too
_PER_COMPONENT = 10_000

# Paths are made of slices of this, and compared with slices of it: a hundred thousand paths of hundreds of steps share
# their integers, and are searched at the speed of a memory comparison.
_NUMBERS = tuple(range(MOST_STEPS))

_RUN = re.compile(r"(\d{1,18})(?:\.\.(\d{1,18}))?(?::(\w+))?")
_BLOCK = re.compile(r"\(?\s*(\d{1,18})\s*,\s*(\d{1,18})\s*\)?\s*(?:x\s*(\d{1,18}))?")


class Component(StrEnum):
    """What a layer is made of, beside its norms and the residual stream that both parts add to."""

    ATTENTION = "attention"
    MLP = "mlp"

    @property
    def other(self) -> Component:
        """The other one of the two."""
        return Component.MLP if self is Component.ATTENTION else Component.ATTENTION


_COMPONENTS = (None, Component.ATTENTION, Component.MLP)  # by how often 10,000 goes into a step


def step_of(layer: int, only: Component | None = None) -> int:
    """Return the step that runs a layer, or `only` one component of it."""
    return layer + _PER_COMPONENT * _COMPONENTS.index(only)


def layer_of(step: int) -> int:
    """Return the layer that a step visits."""
    return step % _PER_COMPONENT


def component_of(step: int) -> Component | None:
    """Return the only component that a step runs; None where it runs the whole layer."""
    return _COMPONENTS[step // _PER_COMPONENT]


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """Layers `i..j-1`, run `times` times in all; 2 is the plain duplication of the RYS notation `(i, j)`."""

    i: int
    j: int
    times: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.i < self.j:
            raise RequestError(f"block {self}: need 0 <= i < j, because (i, j) means layers i..j-1")
        if self.times < 2:
            raise RequestError(
                f"block {self}: x{self.times} repeats nothing; x2 runs the block twice, x3 three times"
            )

    def __str__(self) -> str:
        return f"{self.i},{self.j}" + (f"x{self.times}" if self.times != 2 else "")


def parse_blocks(text: str) -> tuple[Block, ...]:
    """Read blocks that act together, such as `"31,34;43,45"` or `"31,34x3"`.

    Raises:
        RequestError: the text is not of that form, or a block is empty.
    """
    blocks = []
    for piece in text.split(";"):
        match = _BLOCK.fullmatch(piece.strip())
        if match is None:
            raise RequestError(
                f"block {piece.strip()!r} (in {text!r}): write I,J for layers I..J-1, as in 31,34; "
                "several at once with ';' (31,34;43,45); n runs in all with xN (31,34x3)"
            )
        blocks.append(Block(int(match[1]), int(match[2]), int(match[3] or 2)))
    return tuple(blocks)


@functools.total_ordering
@dataclass(frozen=True, slots=True, init=False, repr=False)
class LayerPath:
    """A path: the order in which a forward pass visits layers; each visit is a step.

    It is kept as its runs, which are few: a run of a hundred thousand configurations has tens of millions of steps.
    """

    _runs: tuple[tuple[int, int], ...]  # of steps

    def __init__(self, steps: Iterable[int]) -> None:
        """Make the path of these steps; see `step_of`.

        Raises:
            RequestError: there is none, one is no step, or the path is too long.
        """
        steps = tuple(steps)
        if not steps:
            raise RequestError("a path needs at least one layer")
        if min(steps) < 0:
            raise RequestError(f"path {','.join(map(str, steps))}: layers are numbered from 0")
        _check_steps(len(steps))
        runs = tuple(_runs(steps))
        for first, end in runs:
            _check_run(first, end)
        object.__setattr__(self, "_runs", runs)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps in the order of their visits; written out anew whenever it is asked for."""
        first, *others = self._runs
        steps = _NUMBERS[slice(*first)]
        for start, end in others:
            steps += _NUMBERS[start:end]
        return steps

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers in the order of their visits, whatever runs of them; written out anew like `steps`."""
        return self.steps if self.whole else tuple(map(layer_of, self.steps))

    @property
    def whole(self) -> bool:
        """Whether every step runs all of its layer: only then can the path be a checkpoint's list of layers."""
        return all(end <= _PER_COMPONENT for _, end in self._runs)

    def __len__(self) -> int:
        return sum(end - first for first, end in self._runs)

    def __iter__(self) -> Iterator[int]:
        """Go through the steps."""
        return iter(self.steps)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, LayerPath):
            return NotImplemented
        return self.steps < other.steps

    def __repr__(self) -> str:
        return f"LayerPath({self})"

    def __str__(self) -> str:
        return ",".join(map(_text_of_run, self._runs))

    @classmethod
    def identity(cls, depth: int) -> LayerPath:
        """The path of the untouched model: every layer once, in order."""
        return cls.of_runs([(0, depth)])

    @classmethod
    def of_runs(cls, runs: Iterable[tuple[int, int]]) -> LayerPath:
        """Make the path of half-open ranges of steps, as `runs` returns them. The fast way to make one.

        Raises:
            RequestError: there is none, a range is empty, or the path is too long.
        """
        ranges: list[tuple[int, int]] = []
        steps = 0
        for first, end in runs:
            if not 0 <= first < end:
                raise RequestError(
                    f"a path has no range of layers {first}..{end - 1}; layers are numbered from 0"
                )
            steps += end - first
            _check_steps(steps)
            _check_run(first, end)
            if ranges and ranges[-1][1] == first:
                ranges[-1] = (ranges[-1][0], end)
            else:
                ranges.append((first, end))
        if not ranges:
            raise RequestError("a path needs at least one layer")
        path = object.__new__(cls)
        object.__setattr__(path, "_runs", tuple(ranges))
        return path

    @classmethod
    def parse(cls, text: str) -> LayerPath:
        """Read inclusive ranges and single layers: `"0..15,11..31"`, `"0..3,5:mlp,6..11"`.

        Raises:
            RequestError: the text is not of that form or a range runs backwards.
        """
        runs: list[tuple[int, int]] = []
        for piece in text.split(","):
            match = _RUN.fullmatch(piece.strip())
            if match is None:
                raise RequestError(
                    f"path {text!r}: {piece.strip()!r} is neither a layer nor a range such as 11..31"
                )
            if match[3] is not None and match[3] not in list(Component):
                raise RequestError(
                    f"path {text!r}: {piece.strip()!r}: a layer has no component {match[3]!r}; "
                    f"there are: {', '.join(Component)}"
                )
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise RequestError(
                    f"path {text!r}: {piece.strip()!r} runs backwards; list the layers one by one"
                )
            _check_steps(last + 1 - first)
            _check_layer(last)
            base = step_of(0, None if match[3] is None else Component(match[3]))
            runs.append((base + first, base + last + 1))
        return cls.of_runs(runs)

    @classmethod
    def duplicating(cls, blocks: Iterable[Block], depth: int) -> LayerPath:
        """Insert further runs of each block after the last visit of its end, one block after the other.

        One block `(i, j)` gives `0..j-1` and then `i..depth-1`.

        Raises:
            RequestError: a block reaches beyond `depth`.
        """
        todo = list(blocks)
        for block in todo:
            if block.j > depth:
                raise RequestError(
                    f"block {block} reaches beyond the model: it has {depth} layers; use j <= {depth}"
                )
        if len(todo) == 1:
            (block,) = todo
            _check_steps(depth + (block.j - block.i) * (block.times - 1))
            return cls.of_runs([(0, block.j), *[(block.i, block.j)] * (block.times - 2), (block.i, depth)])
        _check_steps(depth)
        layers = _NUMBERS[:depth]
        for block in todo:
            _check_steps(len(layers) + (block.j - block.i) * (block.times - 1))
            after_end = len(layers) - layers[::-1].index(block.j - 1)
            again = _NUMBERS[block.i : block.j] * (block.times - 1)
            layers = layers[:after_end] + again + layers[after_end:]
        return cls.of_runs(_runs(layers))

    def runs(self) -> list[tuple[int, int]]:
        """The path as maximal ascending half-open ranges of steps, in order of visit; of layers where it is `whole`."""
        return list(self._runs)

    def shared_prefix(self) -> int:
        """How many first steps equal the untouched model's: the path may start from the baseline's boundary there."""
        first, end = self._runs[0]
        return end if first == 0 else 0

    def evaluations(self) -> int:
        """Layer evaluations of the path, for one sample, when it starts from the baseline's boundary."""
        return len(self) - self.shared_prefix()

    def skipped(self, depth: int) -> tuple[int, ...]:
        """Layers of a `depth`-layer model that the path never visits."""
        visited = set(self.layers)
        return tuple(layer for layer in range(depth) if layer not in visited)

    def require_whole(self, what: str) -> None:
        """Refuse a path that runs layers in part, for `what` can list layers alone.

        Raises:
            RequestError: a step runs one component of its layer.
        """
        if not self.whole:
            raise RequestError(
                f"path {self} runs one component of a layer alone, which {what} cannot say; name a path of whole layers"
            )

    def check_depth(self, depth: int) -> None:
        """Refuse a layer that the model does not have.

        Raises:
            RequestError: a layer is `depth` or more.
        """
        last = max(layer_of(end - 1) for _, end in self._runs)
        if last >= depth:
            raise RequestError(
                f"path {self} visits layer {last}, but this model has {depth} layers; use 0 to {depth - 1}"
            )


def _runs(layers: tuple[int, ...]) -> list[tuple[int, int]]:
    runs = []
    at = 0
    while at < len(layers):
        end = _run_end(layers, at)
        runs.append((layers[at], layers[at] + end - at))
        at = end
    return runs


def _run_end(layers: tuple[int, ...], at: int) -> int:
    """Return where the ascending run that begins at step `at` ends: everything before is compared once, in halves."""
    shift = layers[at] - at
    known, beyond = at + 1, len(layers)  # the run goes to `known` at least
    if layers[known:] == _NUMBERS[known + shift : beyond + shift]:
        return beyond
    while beyond - known > 1:
        middle = (known + beyond) // 2
        if layers[known:middle] == _NUMBERS[known + shift : middle + shift]:
            known = middle
        else:
            beyond = middle
    return known


def _text_of_run(run: tuple[int, int]) -> str:
    first, last = layer_of(run[0]), layer_of(run[1] - 1)
    only = component_of(run[0])
    return (f"{first}..{last}" if last > first else f"{first}") + (f":{only}" if only else "")


def _check_steps(steps: int) -> None:
    if steps > MOST_STEPS:
        raise RequestError(f"a path of {steps} steps is too long; up to {MOST_STEPS} steps can be recorded")


def _check_layer(layer: int) -> None:
    if layer >= MOST_LAYERS:
        raise RequestError(f"layer {layer}: a path can name layers 0 to {MOST_LAYERS - 1}")


def _check_run(first: int, end: int) -> None:
    """Refuse steps that are of no layer; numbers of steps have a gap before each component."""
    last = end - 1
    if last >= len(_COMPONENTS) * _PER_COMPONENT:
        raise RequestError(f"step {last} is of no layer; a path can name layers 0 to {MOST_LAYERS - 1}")
    if first // _PER_COMPONENT != last // _PER_COMPONENT:
        last = MOST_LAYERS  # the run goes over a gap
    _check_layer(layer_of(last))
