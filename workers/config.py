"""What one worker is told at its start; its pool child gets the same through the Celery application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.farm_records import Timings
from neuroscan_farm.dispatch.places_here import PlacesHere
from neuroscan_farm.logs import LogFormat


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One worker: its farm, its name, its devices."""

    broker_url: str
    queue: str
    name: str
    host: str
    devices: tuple[str, ...] | None  # entries of CUDA_VISIBLE_DEVICES; None leaves the environment as it is
    memory_mb: tuple[int, ...]  # most megabytes of weights per device; empty is no limit
    threads: int
    cache_dir: str
    cache_bytes: int
    grace_seconds: float = 20.0  # how long a worker that is asked to leave may go on with its present task
    log_level: str = "WARNING"
    log_format: LogFormat = "text"
    metrics_port: int = 0  # where numbers are shown to Prometheus; 0 is nowhere
    metrics_host: str = "127.0.0.1"
    tally: str | None = None  # the file in which the child counts what it has done
    memory_limit_mb: int | None = None  # most megabytes of this process; None is what the machine has
    stream: bool = False  # stream the layers even of a model that fits
    timings: Timings = field(default_factory=Timings)
    places: PlacesHere = field(default_factory=PlacesHere)

    def to_plain(self) -> dict[str, Any]:
        """The configuration as plain data."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> WorkerConfig:
        """Read `to_plain` back."""
        places = PlacesHere(
            roots=tuple(plain["places"]["roots"]),
            path_map=tuple((before, after) for before, after in plain["places"]["path_map"]),
            runs_dir=plain["places"]["runs_dir"],
        )
        return cls(**{**plain, "timings": Timings(**plain["timings"]), "places": places})

    def broker(self) -> Broker:
        """A broker of this worker's farm."""
        return Broker(self.broker_url, queue=self.queue, timings=self.timings)

    def device_text(self) -> str:
        """The devices in words, for `status`."""
        if self.devices is None:
            return "all visible"
        return "cuda:" + ",".join(self.devices)
