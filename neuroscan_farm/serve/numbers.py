"""Numbers for Prometheus. What nobody knows is left out, and never 0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from neuroscan_farm.serve.state import Server


class ServeNumber(NamedTuple):
    """One line of the reference."""

    name: str
    labels: tuple[str, ...]
    meaning: str


SERVE_NUMBERS = (
    ServeNumber("neuroscan_serve_runs", ("state",), "runs in the server's folder, by state"),
    ServeNumber("neuroscan_serve_runs_unreadable", (), "folders there that cannot be read"),
    ServeNumber(
        "neuroscan_serve_run_tasks", ("run",), "tasks of a run's plan; of runs that are not finished"
    ),
    ServeNumber("neuroscan_serve_run_tasks_finished", ("run",), "tasks whose rows are there; likewise"),
    ServeNumber("neuroscan_serve_run_tasks_failed", ("run",), "tasks with rows that are not ok; likewise"),
    ServeNumber("neuroscan_serve_broker_up", (), "whether the broker answered at the last look"),
    ServeNumber("neuroscan_serve_workers", (), "workers alive; absent while the broker is away"),
    ServeNumber("neuroscan_serve_local_queue", (), "runs that wait for this machine"),
    ServeNumber("neuroscan_serve_local_running", (), "runs that this machine carries out, 0 or 1"),
)
_OVER = {"finished", "cancelled"}


def numbers_text(server: Server) -> str:
    """Return all numbers as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(_Collector(server))
    return generate_latest(registry).decode()


class _Collector:
    def __init__(self, server: Server) -> None:
        self._server = server

    def describe(self) -> Iterable[Metric]:
        """Say nothing beforehand: looking is done when the numbers are asked for."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Look, and tell."""
        samples = _samples(self._server)
        for number in SERVE_NUMBERS:
            family = GaugeMetricFamily(number.name, number.meaning, labels=number.labels)
            for labels, value in samples.get(number.name, []):
                family.add_metric(labels, value)
            yield family


def _samples(server: Server) -> dict[str, list[tuple[list[str], float]]]:
    listing, farm = server.runs.listing(), server.farm.seen
    states = Counter(server.state(run, seen) for run, seen in listing.runs.values())
    going = [
        (run.id, seen.overview) for run, seen in listing.runs.values() if seen.overview.state not in _OVER
    ]
    return {
        "neuroscan_serve_runs": [([state], count) for state, count in sorted(states.items())],
        "neuroscan_serve_runs_unreadable": [([], len(listing.left_out))],
        "neuroscan_serve_run_tasks": [([name], one.tasks) for name, one in going],
        "neuroscan_serve_run_tasks_finished": [([name], one.tasks_finished) for name, one in going],
        "neuroscan_serve_run_tasks_failed": [([name], one.tasks_failed) for name, one in going],
        "neuroscan_serve_broker_up": [([], int(farm.reachable))],
        "neuroscan_serve_workers": [([], len(farm.workers))] if farm.reachable else [],
        "neuroscan_serve_local_queue": [([], len(server.local.queue()))],
        "neuroscan_serve_local_running": [([], int(server.local.running() is not None))],
    }
