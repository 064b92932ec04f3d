"""A coordinator: the reconciler without a pool. It needs no GPU and no model, and several at once do no harm."""

from __future__ import annotations

import signal

from neuroscan_farm.dispatch.broker_url import redacted
from neuroscan_farm.dispatch.celery_queue import make_app
from workers.config import WorkerConfig
from workers.logs import log_to_stderr, tell
from workers.metrics import FarmMetrics
from workers.reconciler import Reconciler


def run_coordinator(config: WorkerConfig) -> int:
    """Reconcile until told to leave; return the exit code.

    Raises:
        BrokerError: the broker is out of reach at the start. Later it is waited for.
    """
    log_to_stderr(config.log_level, config.log_format, worker=config.name)
    broker = config.broker()
    broker.ping()
    metrics = FarmMetrics(config)
    metrics.start()
    reconciler = Reconciler(broker, make_app(config.broker_url, config.queue), places=config.places)

    def leave(signum: int, _: object) -> None:
        signal.signal(signum, signal.SIG_DFL)  # a second one is immediate; nothing is lost by it
        reconciler.stop_soon()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, leave)
    tell(
        f"coordinator {config.name} is ready: queue {config.queue} on {redacted(config.broker_url)}",
        config.log_format,
        worker=config.name,
    )
    reconciler.run()
    metrics.stop()
    broker.close()
    return 0
