"""Configurations as a report sees them: a task's path, and what it did on each probe and over the probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from neuroscan_farm.domain.costs import Cost
from neuroscan_farm.domain.measurements import Metric, Outcome
from neuroscan_farm.domain.paths import Block, LayerPath
from neuroscan_farm.statistics.effects import Effect

# Columns of the measurements table whose means are reported; the mean of `correct` is the accuracy.
SCORES = ("log_odds", "log_p_correct", "correct", "expected_score", "uncertainty", "coverage", "entropy")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one configuration did on one probe, or its unweighted mean over the probes (`probe` is None)."""

    probe: str | None
    outcomes: Mapping[str, int]  # rows by outcome; empty while nothing is measured
    detail: str | None  # the first failure's, where there is one
    means: Mapping[str, float | None]  # by column of `SCORES`, over the ok samples
    effects: Mapping[Metric, Effect] = field(default_factory=dict)  # the ranking metric's and `correct`'s
    rank: int | None = None  # 1 is the best on the ranking metric
    unranked: str | None = None  # why there is no rank

    @property
    def n_ok(self) -> int:
        """How many samples were measured."""
        return self.outcomes.get(Outcome.OK, 0)

    @property
    def n_failed(self) -> int:
        """How many samples were tried and have no scores."""
        return sum(self.outcomes.values()) - self.n_ok

    @property
    def outcome_text(self) -> str:
        """The outcomes in one phrase, such as `14 ok, 2 non_finite`."""
        if not self.outcomes:
            return "not measured yet"
        ordered = sorted(self.outcomes.items(), key=lambda item: (item[0] != Outcome.OK, item[0]))
        return ", ".join(f"{count} {outcome}" for outcome, count in ordered)


@dataclass(frozen=True, slots=True)
class Configuration:
    """One task of the plan with its results; `results[None]` is the mean over the probes."""

    task_id: str
    path: LayerPath
    block: Block | None  # where the path is one block that runs two or more times
    stage: int
    results: Mapping[str | None, ProbeResult]
    cost: Cost | None = None  # of running it; None where it was not worked out
    without: str | None = None  # a short name of what it leaves out, where leaving out is all that it does

    @property
    def plain_block(self) -> Block | None:
        """The block where the path is one plain (i, j) duplication; what layer-scan's files can say."""
        return self.block if self.block is not None and self.block.times == 2 else None

    @property
    def n_layers_run(self) -> int:
        """How many layers a forward pass visits."""
        return len(self.path)

    @property
    def is_measured(self) -> bool:
        """Whether rows of this task are there on every probe, be they ok or not."""
        return bool(self.results[None].outcomes)

    @property
    def is_begun(self) -> bool:
        """Whether rows of this task are there on some probe: of a run to which a probe was added, not yet on all."""
        return any(result.outcomes for result in self.results.values())

    @property
    def label(self) -> str:
        """The block as people write it, or the path where it is no single block."""
        if self.block is None:
            return self.without or str(self.path)
        times = f" ×{self.block.times}" if self.block.times != 2 else ""
        return f"({self.block.i}, {self.block.j}){times}"


def single_block(path: LayerPath, *, depth: int) -> Block | None:
    """Return the block that `path` repeats, where it is the whole model with one block run two or more times.

    An explicit order is recognised too: `0..15,11..31` is (11, 16) in a model of 32 layers.
    """
    end = path.shared_prefix()
    if not 0 < end < len(path) or path.layers[end] >= end:
        return None
    start = path.layers[end]
    repeats, rest = divmod(len(path) - depth, end - start)
    if rest or repeats < 1 or end > depth:
        return None
    block = Block(start, end, repeats + 1)
    return block if LayerPath.duplicating([block], depth) == path else None
