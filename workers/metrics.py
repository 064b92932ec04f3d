"""Numbers for Prometheus, from a worker or a coordinator: `GET /metrics` on a port of their own.

Everything is read when it is asked for, from what the process knows by then: an answer never waits for the broker or the
store, so that it also serves as a sign of life. A run that is over leaves no label behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery.worker import state
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import neuroscan_farm
from neuroscan_farm.errors import WorkerError
from neuroscan_farm.store.run_directory import RunDirectory
from workers.config import WorkerConfig
from workers.farm_watch import FarmWatch
from workers.numbers import NUMBERS, Number, Sample, WorkerSeen, numbers_of_farm, numbers_of_worker
from workers.tally import Tally

if TYPE_CHECKING:
    from workers.tending import Tending


class MetricsServer:
    """Answers Prometheus from a thread of its own.

    Args:
        port: where to listen; 0 takes any that is free (`port` says which).
        host: the address to listen on.
        name: who shows the numbers: the worker's name, or the coordinator's.
        machine: this machine's name.
        sources: each gives samples by the names of `NUMBERS`, at once and without failing.

    Raises:
        WorkerError: the port cannot be had.
    """

    def __init__(
        self,
        port: int,
        host: str,
        *,
        name: str,
        machine: str,
        sources: Iterable[Callable[[], Mapping[str, list[Sample]]]],
    ) -> None:
        registry = CollectorRegistry(auto_describe=False)
        info = {"name": name, "host": machine, "version": neuroscan_farm.__version__}
        registry.register(_Sources([lambda: {"neuroscan_info": [(info, 1)]}, *sources]))
        ProcessCollector(registry=registry)
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except (OSError, OverflowError) as error:
            raise WorkerError(
                f"metrics on {host}:{port}: cannot listen there ({error}); give another NEUROSCAN_METRICS_PORT "
                "or NEUROSCAN_METRICS_HOST, or port 0 to do without"
            ) from error
        self.port = int(self._server.server_port)

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Sources(Collector):
    def __init__(self, sources: Iterable[Callable[[], Mapping[str, list[Sample]]]]) -> None:
        self._sources = tuple(sources)

    def collect(self) -> Iterator[Metric]:
        samples: dict[str, list[Sample]] = {}
        for source in self._sources:
            samples |= source()
        for number in NUMBERS:
            if samples.get(number.name):
                yield _family(number, samples[number.name])


def _family(number: Number, samples: Iterable[Sample]) -> Metric:
    kind: Any = CounterMetricFamily if number.kind == "counter" else GaugeMetricFamily
    family: Metric = kind(number.name, number.meaning, labels=number.labels)
    for labels, value in samples:
        family.add_metric([labels[label] for label in number.labels], value)  # type: ignore[attr-defined]
    return family


class FarmMetrics:
    """A process's numbers of its farm, if it was told to show any.

    Args:
        config: the process.
        sources: what else it shows.
    """

    def __init__(
        self, config: WorkerConfig, sources: Iterable[Callable[[], Mapping[str, list[Sample]]]] = ()
    ) -> None:
        self._config = config
        self._sources = tuple(sources)
        self._server: MetricsServer | None = None
        self._watch: FarmWatch | None = None

    def start(self) -> None:
        """Show them from now on.

        Raises:
            WorkerError: the port cannot be had.
        """
        config = self._config
        if not config.metrics_port:
            return
        places = config.places
        self._watch = FarmWatch(
            config.broker(), lambda location: RunDirectory.open(places.run_location(location))
        )
        self._server = MetricsServer(
            config.metrics_port,
            config.metrics_host,
            name=config.name,
            machine=config.host,
            sources=[*self._sources, self._farm],
        )
        self._watch.start()

    def stop(self) -> None:
        """Show them no more."""
        if self._watch is not None:
            self._watch.stop()
        if self._server is not None:
            self._server.close()

    def _farm(self) -> Mapping[str, list[Sample]]:
        seen = self._watch.seen if self._watch is not None else None
        return {} if seen is None else numbers_of_farm(seen)


class WorkerMetrics:
    """A worker's numbers, and those of its farm, if it was told to show any.

    `config` is what it was given, with the file in which the worker's child has to count.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._tally = Tally.create() if config.metrics_port else None
        self.config = config if self._tally is None else replace(config, tally=str(self._tally.path))
        self._farm: FarmMetrics | None = None

    def start(self, tending: Tending) -> None:
        """Show them from now on.

        Raises:
            WorkerError: the port cannot be had.
        """
        tally = self._tally
        if tally is None:
            return

        def worker() -> Mapping[str, list[Sample]]:
            presence = tending.presence
            return numbers_of_worker(
                WorkerSeen(
                    counts=tally.read(),
                    child_deaths=presence.child_deaths,
                    model=presence.presence.model,
                    busy=bool(state.active_requests),
                    said_at=presence.said_at,
                    child_memory_mb=presence.presence.memory_mb,
                )
            )

        self._farm = FarmMetrics(self.config, [worker])
        try:
            self._farm.start()
        except WorkerError:
            tally.remove()
            raise

    def stop(self) -> None:
        """Show them no more."""
        if self._farm is not None:
            self._farm.stop()
        if self._tally is not None:
            self._tally.remove()
