"""One worker: a Celery worker with one spawned child that measures, and threads that tend the farm."""

from __future__ import annotations

import warnings
from typing import Any

from celery import Celery, signals
from celery.platforms import SecurityWarning
from celery.worker import state

from neuroscan_farm.dispatch.affinity import Affinity
from neuroscan_farm.dispatch.broker_url import redacted
from neuroscan_farm.dispatch.celery_queue import make_app
from workers.config import WorkerConfig
from workers.logs import log_to_stderr, tell
from workers.metrics import WorkerMetrics
from workers.reconciler import Reconciler
from workers.shutdown import Shutdown
from workers.tending import Tending


def worker_app(config: WorkerConfig, affinity: Affinity | None = None) -> Celery:
    """The farm's application as a worker sees it; its child process is built from the same."""
    app = make_app(config.broker_url, config.queue, affinity=affinity)
    app.conf.update(include=["workers.task"], neuroscan_worker=config.to_plain())
    app.set_current()
    return app


def run_worker(config: WorkerConfig) -> int:
    """Work until told to leave; return the exit code.

    Raises:
        BrokerError: the broker is out of reach at the start. Later it is waited for.
    """
    log_to_stderr(config.log_level, config.log_format, worker=config.name)
    broker = config.broker()
    broker.ping()
    metrics = WorkerMetrics(config)
    config = metrics.config
    # Celery warns root about code in messages; ours are JSON and can hold none.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    affinity = Affinity(f"{config.queue}.", patience=config.timings.patience)
    app = worker_app(config, affinity)
    worker: Any = app.Worker(
        hostname=f"{config.name}@{config.host}",
        loglevel="WARNING",  # of what billiard says in a child before our log is set up there
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    reconciler = Reconciler(config.broker(), app, places=config.places)
    tending = Tending(config, broker, worker, affinity)

    def stop() -> None:
        tending.presence.say("leaving")
        state.should_stop = 0

    metrics.start(tending)
    shutdown = Shutdown(config, broker, child_pids=tending.child_pids, stop=stop)

    def ready(**_: object) -> None:
        signals.worker_ready.disconnect(ready)  # it comes again after each lost connection
        shutdown.install()
        tending.start()
        reconciler.start()
        tell(
            f"worker {config.name} is ready: queue {config.queue} on {redacted(config.broker_url)}, "
            f"devices {config.device_text()}",
            config.log_format,
            worker=config.name,
        )

    signals.worker_ready.connect(ready, weak=False)
    worker.start()
    reconciler.stop()
    tending.stop()
    metrics.stop()
    return int(worker.exitcode or 0)
