"""Layer paths: the order in which a forward pass visits layers.

Layer ranges are half-open everywhere inside (`Block(45, 52)` is layers 45..51), as in mergekit's `layer_range`;
the *text* of a path has inclusive ranges (`"0..51,45..79"`), as exllamav3's `layer_map` and people write it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from neuroscan_farm.errors import RequestError

MOST_STEPS = 32_767  # the tables on disk count layers and steps in 16 bits

# Paths are made of slices of this, and compared with slices of it: a hundred thousand paths of hundreds of steps share
# their integers, and are searched at the speed of a memory comparison.
_NUMBERS = tuple(range(MOST_STEPS))

_RUN = re.compile(r"(\d{1,18})(?:\.\.(\d{1,18}))?")
_BLOCK = re.compile(r"\(?\s*(\d{1,18})\s*,\s*(\d{1,18})\s*\)?\s*(?:x\s*(\d{1,18}))?")


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

    _runs: tuple[tuple[int, int], ...]

    def __init__(self, layers: Iterable[int]) -> None:
        """Make the path of these layers.

        Raises:
            RequestError: there is none, one is negative, or the path is too long.
        """
        steps = tuple(layers)
        if not steps:
            raise RequestError("a path needs at least one layer")
        if min(steps) < 0:
            raise RequestError(f"path {','.join(map(str, steps))}: layers are numbered from 0")
        _check_steps(max(len(steps), max(steps) + 1))
        object.__setattr__(self, "_runs", tuple(_runs(steps)))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers in the order of their visits; written out anew whenever it is asked for."""
        first, *others = self._runs
        layers = _NUMBERS[slice(*first)]
        for start, end in others:
            layers += _NUMBERS[start:end]
        return layers

    def __len__(self) -> int:
        return sum(end - first for first, end in self._runs)

    def __iter__(self) -> Iterator[int]:
        return iter(self.layers)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, LayerPath):
            return NotImplemented
        return self.layers < other.layers

    def __repr__(self) -> str:
        return f"LayerPath({self})"

    def __str__(self) -> str:
        return ",".join(f"{a}..{b - 1}" if b - a > 1 else f"{a}" for a, b in self._runs)

    @classmethod
    def identity(cls, depth: int) -> LayerPath:
        """The path of the untouched model: every layer once, in order."""
        return cls.of_runs([(0, depth)])

    @classmethod
    def of_runs(cls, runs: Iterable[tuple[int, int]]) -> LayerPath:
        """Make the path of half-open ranges, as `runs` returns them. The fast way to make one.

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
            _check_steps(max(steps, end))
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
        """Read inclusive ranges and single layers: `"0..15,11..31"`, `"0..3,5..11"`.

        Raises:
            RequestError: the text is not of that form or a range runs backwards.
        """
        layers: list[int] = []
        for piece in text.split(","):
            match = _RUN.fullmatch(piece.strip())
            if match is None:
                raise RequestError(
                    f"path {text!r}: {piece.strip()!r} is neither a layer nor a range such as 11..31"
                )
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise RequestError(
                    f"path {text!r}: {piece.strip()!r} runs backwards; list the layers one by one"
                )
            _check_steps(max(len(layers) + last + 1 - first, last + 1))  # before they are written out
            layers.extend(range(first, last + 1))
        return cls(tuple(layers))

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
        """The path as maximal ascending half-open ranges, in order of visit."""
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

    def check_depth(self, depth: int) -> None:
        """Refuse a layer that the model does not have.

        Raises:
            RequestError: a layer is `depth` or more.
        """
        last = max(end for _, end in self._runs) - 1
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


def _check_steps(steps: int) -> None:
    if steps > MOST_STEPS:
        raise RequestError(
            f"a path of {steps} steps is too long; up to {MOST_STEPS} layers and steps can be recorded"
        )
