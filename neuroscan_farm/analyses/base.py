"""What an analysis is: parameters, how they become tasks, and how rows lead to further tasks. No torch, no queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from neuroscan_farm.domain.requests import Parameters
from neuroscan_farm.domain.tasks import Task

# [depth][depth]: how alike the baseline's residual streams after two layers are, -1 to 1.
Similarity = Sequence[Sequence[float]]


class Analysis(Protocol):
    """One kind of request. Pure: the same parameters and rows give the same tasks on every machine."""

    name: str
    summary: str

    @property
    def parameters(self) -> type[Parameters]:
        """The pydantic model of this analysis' parameters."""
        ...

    def expand(self, parameters: Parameters, *, depth: int, probe_digests: Sequence[str]) -> list[Task]:
        """Return the tasks of stage 0, the baseline first, no path twice.

        Raises:
            RequestError: the parameters do not fit a model of `depth` layers.
        """
        ...

    def has_stages(self, parameters: Parameters) -> bool:
        """Whether a further stage may follow the first."""
        ...

    def further(self, parameters: Parameters) -> str:
        """What a further stage measures, for people; empty where `has_stages` says that there is none."""
        ...

    def needs_similarity(self, parameters: Parameters) -> bool:
        """Whether a further stage looks at the similarity of layers; then the baseline's worker measures it."""
        ...

    def next_stage(
        self,
        parameters: Parameters,
        *,
        depth: int,
        probe_digests: Sequence[str],
        tasks: Sequence[Task],
        effects: Mapping[str, float],
        sizes: Mapping[str, float],
        similarity: Callable[[], Similarity],
    ) -> list[Task]:
        """Return the tasks that follow once all of `tasks` are finished; none when the plan is complete.

        Args:
            parameters: this analysis' parameters.
            depth: layers of the model.
            probe_digests: of the run's probes.
            tasks: what the plan holds so far, of all stages.
            effects: the mean effect by task id, on the request's metric; tasks that failed are absent.
            sizes: how far each task moves a sample's score, either way, on that metric. What is to be tested on the same
                samples must be chosen by these, not by `effects`: they do not favour what stands out by chance.
            similarity: reads the similarity of layers; called only by an analysis whose `needs_similarity` holds. What
                it raises is passed on.
        """
        ...
