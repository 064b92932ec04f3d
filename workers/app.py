"""One worker: a Celery worker with one spawned child that measures, and threads that tend the farm."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from celery import Celery, signals
from celery.platforms import SecurityWarning
from celery.worker import state

from neuroscan_farm.dispatch.broker_url import redacted
from neuroscan_farm.dispatch.celery_queue import make_app
from workers.config import WorkerConfig
from workers.presence import PresenceThread, new_presence
from workers.reconciler import Reconciler
from workers.shutdown import Shutdown


def worker_app(config: WorkerConfig) -> Celery:
    """The farm's application as a worker sees it; its child process is built from the same."""
    app = make_app(config.broker_url, config.queue)
    app.conf.update(include=["workers.task"], neuroscan_worker=config.to_plain())
    app.set_current()
    return app


def run_worker(config: WorkerConfig) -> int:
    """Work until told to leave; return the exit code.

    Raises:
        BrokerError: the broker is out of reach at the start. Later it is waited for.
    """
    broker = config.broker()
    broker.ping()
    # Celery warns root about code in messages; ours are JSON and can hold none.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app = worker_app(config)
    worker: Any = app.Worker(
        hostname=f"{config.name}@{config.host}",
        loglevel=config.log_level,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    presence = PresenceThread(
        broker, new_presence(name=config.name, host=config.host, device=config.device_text())
    )
    reconciler = Reconciler(config.broker(), app)

    def stop() -> None:
        presence.leaving()
        state.should_stop = 0

    shutdown = Shutdown(config, broker, child_pids=lambda: list(worker.pool.info["processes"]), stop=stop)

    def ready(**_: object) -> None:
        signals.worker_ready.disconnect(ready)  # it comes again after each lost connection
        shutdown.install()
        presence.start()
        reconciler.start()
        sys.stderr.write(
            f"worker {config.name} is ready: queue {config.queue} on {redacted(config.broker_url)}, "
            f"devices {config.device_text()}\n"
        )
        sys.stderr.flush()

    signals.worker_ready.connect(ready, weak=False)
    worker.start()
    reconciler.stop()
    presence.stop()
    return int(worker.exitcode or 0)
