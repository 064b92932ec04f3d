"""What an analysis is: parameters, how they become tasks, and how rows lead to further tasks. No torch, no queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from neuroscan_farm.domain.requests import Parameters
from neuroscan_farm.domain.tasks import Task


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

    def next_stage(
        self,
        parameters: Parameters,
        *,
        depth: int,
        probe_digests: Sequence[str],
        tasks: Sequence[Task],
        effects: Mapping[str, float],
    ) -> list[Task]:
        """Return the tasks that follow once all of `tasks` are finished; none when the plan is complete.

        `effects` gives the mean effect by task id, on the request's metric; tasks that failed are absent.
        """
        ...
