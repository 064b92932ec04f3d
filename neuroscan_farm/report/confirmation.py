"""What the best configurations did on the samples that had no part in choosing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.statistics.confirm_split import HeldOut
from neuroscan_farm.statistics.effects import Effect, assess
from neuroscan_farm.statistics.sample_matrix import SampleMatrix

MOST_CONFIRMED = 3  # of the best: with each more, the adjusted p-values of all grow


@dataclass(frozen=True, slots=True)
class Confirmed:
    """One of the best configurations, by the samples that chose it and by those that were held out."""

    task_id: str
    probe: str | None  # on which it is one of the best; None for the mean over the probes
    rank: int
    chosen: Effect  # on the samples that chose it; too good by the choice itself
    # on the samples held out; `p_adjusted` and `q` over those confirmed on this probe alone
    confirmed: Effect | None
    # share of the effect that went: 0 none, 1 all, above 1 it turned; None without an effect
    shrinkage: float | None
    reason: str | None  # why there is no effect on the samples held out


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The locked split of a run, and what it confirms."""

    share: float  # of the samples, held out
    chosen_by: Mapping[str, int]  # samples by probe, as planned
    held_out: Mapping[str, int]
    best: tuple[Confirmed, ...]  # by probe in the order of the views, then by rank

    def on(self, probe: str | None) -> tuple[Confirmed, ...]:
        """Return those that are among the best on a probe, or over the probes, which of one probe is that probe."""
        if probe is None and len(self.held_out) == 1:
            (probe,) = self.held_out
        return tuple(one for one in self.best if one.probe == probe)


def confirm(
    configurations: Sequence[Configuration],
    matrices: Mapping[str, SampleMatrix],
    *,
    share: float,
    held_out: HeldOut,
    n_samples: Mapping[str, int],
    baseline_id: str | None,
    metric: Metric,
) -> Confirmation:
    """Return what the best three say on the samples held out, on each probe and over the probes.

    Args:
        configurations: with the ranks that the other samples gave them.
        matrices: by probe, of all samples.
        share: of the samples, as the request has it.
        held_out: the samples' ids by probe.
        n_samples: of each probe.
        baseline_id: the task of the untouched model, where the plan has one.
        metric: what was ranked by.
    """
    views: tuple[str | None, ...] = tuple(n_samples) if len(n_samples) == 1 else (None, *n_samples)
    here = {probe: matrix.only(held_out[probe]) for probe, matrix in matrices.items()}
    best = []
    for view in views:
        ranked = [(rank, c) for c in configurations if (rank := c.results[view].rank) is not None]
        ranked = sorted(ranked, key=lambda pair: pair[0])[:MOST_CONFIRMED]
        assessment = assess(
            here if view is None else {view: here[view]} if view in here else {},
            metric=metric,
            baseline_id=baseline_id or "",
            probes=tuple(n_samples) if view is None else (view,),
            tasks=[c.task_id for _, c in ranked],
        )
        for rank, c in ranked:
            chosen = c.results[view].effects[metric]
            found = assessment.effects.get((c.task_id, view))
            gone = 1 - found.mean / chosen.mean if found is not None and chosen.mean > 0 else None
            why = None if found is not None else "no sample held out is ok here and in the baseline"
            best.append(Confirmed(c.task_id, view, rank, chosen, found, gone, why))
    return Confirmation(
        share,
        chosen_by={probe: n - len(held_out[probe]) for probe, n in n_samples.items()},
        held_out={probe: len(held_out[probe]) for probe in n_samples},
        best=tuple(best),
    )
