"""Duplication: which block of layers, run twice, helps? `(i, j)` runs `0..j-1`, then `i..L-1`; `0 <= i < j <= L`.

The full grid of blocks and the sparse-first search follow the RYS experiments and layer-scan's ranges.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence

from pydantic import Field, field_validator, model_validator

from neuroscan_farm.analyses.base import Similarity
from neuroscan_farm.analyses.controls import control_blocks
from neuroscan_farm.analyses.layer_choice import layers_between
from neuroscan_farm.domain.paths import Block, LayerPath, parse_blocks
from neuroscan_farm.domain.requests import Parameters
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.errors import NeuroscanError, RequestError


class DuplicationParameters(Parameters):
    """Which blocks to run more than once. Lists of blocks or paths replace the grid."""

    min_block: int = Field(1, ge=1, description="shortest block, in layers")
    max_block: int | None = Field(
        None, ge=1, description="longest block, in layers; none is the model's depth"
    )
    step: int = Field(1, ge=1, description="stride of i and of j")
    skip_early: int = Field(0, ge=0, description="layers at the start that no block touches")
    skip_late: int = Field(0, ge=0, description="layers at the end that no block touches")
    times: int = Field(2, ge=2, description="how often each block of the grid runs in all")
    blocks: tuple[str, ...] = Field((), description="blocks to try, such as 31,34 or 31,34;43,45 or 31,34x3")
    paths: tuple[str, ...] = Field((), description="explicit orders to try, such as 0..15,11..31")
    controls: int = Field(
        0,
        ge=0,
        description="for each of `blocks`, how many random windows of the same length are run as often, to compare with",
    )
    sparse_first: bool = Field(False, description="scan with sparse_step first, then refine around the best")
    sparse_step: int = Field(4, ge=2, description="stride of the coarse stage")
    refine_top: int = Field(3, ge=1, description="how many of the best coarse blocks are refined")

    @field_validator("blocks")
    @classmethod
    def _blocks_parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            _as_value_error(parse_blocks, text)
        return value

    @field_validator("paths")
    @classmethod
    def _paths_parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            _as_value_error(LayerPath.parse, text)
        return value

    @model_validator(mode="after")
    def _controls_are_of_blocks(self) -> DuplicationParameters:
        if self.controls and not self.blocks:
            raise ValueError(
                f"controls is {self.controls}, but no block is named for them to be like; name blocks, or leave it "
                "out: a grid holds every block of a length"
            )
        return self


class Duplication:
    """The duplication analysis: the grid of blocks, or the blocks and paths that were named."""

    name = "duplication"
    summary = "run blocks of layers twice: the full (i, j) grid, named blocks, or any order"
    parameters = DuplicationParameters

    def expand(self, parameters: Parameters, *, depth: int, probe_digests: Sequence[str]) -> list[Task]:
        """Return the baseline and each configuration of stage 0; see `Analysis.expand`."""
        assert isinstance(parameters, DuplicationParameters)
        paths: dict[LayerPath, Block | None] = {LayerPath.identity(depth): None}
        if parameters.blocks or parameters.paths:
            for text in parameters.blocks:
                paths.setdefault(*_path_of_all(parse_blocks(text), depth))
            for text in parameters.paths:
                path = LayerPath.parse(text)
                path.check_depth(depth)
                paths.setdefault(path, None)
            for placed in _controls(parameters, depth):
                paths.setdefault(*_path_of_all(placed, depth))
        else:
            stride = parameters.sparse_step if parameters.sparse_first else parameters.step
            for block in grid(parameters, depth=depth, step=stride):
                paths.setdefault(*_path_of(block, depth))
        return [Task.of(path, probe_digests=probe_digests, block=block) for path, block in paths.items()]

    def has_stages(self, parameters: Parameters) -> bool:
        """Whether the coarse grid will be refined; see `Analysis.has_stages`."""
        assert isinstance(parameters, DuplicationParameters)
        return parameters.sparse_first and not (parameters.blocks or parameters.paths)

    def further(self, parameters: Parameters) -> str:
        """What a further stage measures; see `Analysis.further`."""
        return "a refinement around the best" if self.has_stages(parameters) else ""

    def needs_similarity(self, parameters: Parameters) -> bool:  # noqa: ARG002
        """See `Analysis.needs_similarity`: the grid is refined by effects alone."""
        return False

    def next_stage(
        self,
        parameters: Parameters,
        *,
        depth: int,
        probe_digests: Sequence[str],
        tasks: Sequence[Task],
        effects: Mapping[str, float],
        sizes: Mapping[str, float],  # noqa: ARG002
        similarity: Callable[[], Similarity],  # noqa: ARG002
    ) -> list[Task]:
        """Return the refinement of sparse-first: the neighbours of the best coarse blocks; see `Analysis`."""
        assert isinstance(parameters, DuplicationParameters)
        if not self.has_stages(parameters) or any(task.stage > 0 for task in tasks):
            return []
        coarse = [task for task in tasks if not task.is_baseline(depth)]
        # Ties are broken by the block itself, so that a resumed run refines around the same ones.
        best = heapq.nsmallest(
            parameters.refine_top,
            (task for task in coarse if task.task_id in effects),
            key=lambda task: (-effects[task.task_id], task.path.layers),
        )
        known = {task.path for task in tasks}
        radius = parameters.sparse_step - 1
        allowed = set(grid(parameters, depth=depth, step=1))
        refined: dict[LayerPath, Block | None] = {}
        for task in best:
            centre = _block_of(task, parameters)
            for i in range(centre.i - radius, centre.i + radius + 1, parameters.step):
                for j in range(centre.j - radius, centre.j + radius + 1, parameters.step):
                    if 0 <= i < j and (block := Block(i, j, parameters.times)) in allowed:
                        path, plain = _path_of(block, depth)
                        if path not in known:
                            refined.setdefault(path, plain)
        return [
            Task.of(path, probe_digests=probe_digests, block=block, stage=1)
            for path, block in refined.items()
        ]


def grid(parameters: DuplicationParameters, *, depth: int, step: int) -> Iterable[Block]:
    """Every block of the grid, in order of i, then j.

    Raises:
        RequestError: the parameters leave no block in a model of `depth` layers.
    """
    layers = layers_between(skip_early=parameters.skip_early, skip_late=parameters.skip_late, depth=depth)
    end, room = layers.stop, len(layers)
    if parameters.min_block > room:
        raise RequestError(
            f"min_block is {parameters.min_block} but this model has {depth} layers, of which {room} "
            f"may be in a block; use 1 to {room}"
        )
    longest = min(parameters.max_block or depth, room)
    if longest < parameters.min_block:
        raise RequestError(
            f"max_block is {parameters.max_block} and min_block {parameters.min_block}; max_block must not be smaller"
        )
    return [
        Block(i, j, parameters.times)
        for i in range(parameters.skip_early, end, step)
        for j in range(i + parameters.min_block, end + 1, step)
        if j - i <= longest
    ]


def _controls(parameters: DuplicationParameters, depth: int) -> Iterable[tuple[Block, ...]]:
    """Windows of the same lengths as the named blocks, none of them twice, and none of them named."""
    known = [parse_blocks(text) for text in parameters.blocks]
    if not parameters.controls:
        return
    room = layers_between(skip_early=parameters.skip_early, skip_late=parameters.skip_late, depth=depth)
    for blocks in list(known):
        found = control_blocks(
            blocks, count=parameters.controls, first=room.start, end=room.stop, taken=known
        )
        known += found
        yield from found


def _path_of_all(blocks: Sequence[Block], depth: int) -> tuple[LayerPath, Block | None]:
    plain = blocks[0] if len(blocks) == 1 and blocks[0].times == 2 else None
    return LayerPath.duplicating(blocks, depth), plain


def _path_of(block: Block, depth: int) -> tuple[LayerPath, Block | None]:
    return LayerPath.duplicating([block], depth), block if block.times == 2 else None


def _block_of(task: Task, parameters: DuplicationParameters) -> Block:
    if task.block is not None:
        return task.block
    start = task.path.shared_prefix()  # a block that runs three times or more: 0..j-1, i..j-1, ...
    return Block(task.path.layers[start] if start < len(task.path) else 0, start, parameters.times)


def _as_value_error(parse: Callable[[str], object], text: str) -> None:
    try:
        parse(text)
    except NeuroscanError as error:
        raise ValueError(str(error)) from None
