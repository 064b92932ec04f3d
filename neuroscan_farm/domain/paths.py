"""Layer paths: the order in which a forward pass visits layers.

Layer ranges are half-open everywhere inside (`Block(45, 52)` is layers 45..51), as in mergekit's `layer_range`;
the *text* of a path has inclusive ranges (`"0..51,45..79"`), as exllamav3's `layer_map` and people write it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from neuroscan_farm.errors import RequestError

MOST_STEPS = 32_767  # the tables on disk count layers and steps in 16 bits

_RUN = re.compile(r"(\d+)(?:\.\.(\d+))?")
_BLOCK = re.compile(r"\(?\s*(\d+)\s*,\s*(\d+)\s*\)?\s*(?:x\s*(\d+))?")


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


@dataclass(frozen=True, slots=True, order=True)
class LayerPath:
    """A path: the order in which a forward pass visits layers; each visit is a step."""

    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise RequestError("a path needs at least one layer")
        if min(self.layers) < 0:
            raise RequestError(f"path {self}: layers are numbered from 0")
        _check_steps(max(len(self.layers), max(self.layers) + 1))

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[int]:
        return iter(self.layers)

    def __str__(self) -> str:
        return ",".join(f"{a}..{b - 1}" if b - a > 1 else f"{a}" for a, b in self.runs())

    @classmethod
    def identity(cls, depth: int) -> LayerPath:
        """The path of the untouched model: every layer once, in order."""
        return cls(tuple(range(depth)))

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
        layers = list(range(depth))
        for block in blocks:
            if block.j > depth:
                raise RequestError(
                    f"block {block} reaches beyond the model: it has {depth} layers; use j <= {depth}"
                )
            _check_steps(len(layers) + (block.j - block.i) * (block.times - 1))
            after_end = len(layers) - layers[::-1].index(block.j - 1)
            layers[after_end:after_end] = list(range(block.i, block.j)) * (block.times - 1)
        return cls(tuple(layers))

    def runs(self) -> list[tuple[int, int]]:
        """The path as maximal ascending half-open ranges, in order of visit."""
        runs: list[tuple[int, int]] = []
        for layer in self.layers:
            if runs and runs[-1][1] == layer:
                runs[-1] = (runs[-1][0], layer + 1)
            else:
                runs.append((layer, layer + 1))
        return runs

    def shared_prefix(self) -> int:
        """How many first steps equal the untouched model's: the path may start from the baseline's boundary there."""
        return next((k for k, layer in enumerate(self.layers) if layer != k), len(self.layers))

    def evaluations(self) -> int:
        """Layer evaluations of the path, for one sample, when it starts from the baseline's boundary."""
        return len(self.layers) - self.shared_prefix()

    def skipped(self, depth: int) -> tuple[int, ...]:
        """Layers of a `depth`-layer model that the path never visits."""
        visited = set(self.layers)
        return tuple(layer for layer in range(depth) if layer not in visited)

    def check_depth(self, depth: int) -> None:
        """Refuse a layer that the model does not have.

        Raises:
            RequestError: a layer is `depth` or more.
        """
        if max(self.layers) >= depth:
            raise RequestError(
                f"path {self} visits layer {max(self.layers)}, but this model has {depth} layers; use 0 to {depth - 1}"
            )


def _check_steps(steps: int) -> None:
    if steps > MOST_STEPS:
        raise RequestError(
            f"a path of {steps} steps is too long; up to {MOST_STEPS} layers and steps can be recorded"
        )
