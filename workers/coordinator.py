"""A coordinator: the reconciler without a pool. It needs no GPU and no model, and several at once do no harm."""

from __future__ import annotations

import logging
import signal

from neuroscan_farm.coordinator.overview import look_at, runs_in
from neuroscan_farm.dispatch.broker_url import redacted
from neuroscan_farm.dispatch.celery_queue import make_app
from neuroscan_farm.dispatch.farm_records import RunEntry
from neuroscan_farm.errors import NeuroscanError
from workers.config import WorkerConfig
from workers.logs import log_to_stderr, tell
from workers.metrics import FarmMetrics
from workers.reconciler import Reconciler

log = logging.getLogger(__name__)


def unfinished_runs(runs_dir: str, queue: str) -> dict[str, RunEntry]:
    """The runs below a folder or URL that were given to this farm and are neither finished, cancelled nor refused.

    A broker that was wiped while nobody lived has forgotten them; their directories have not.
    """
    found = {}
    try:
        for run in runs_in(runs_dir):
            farm, manifest = run.farm(), run.manifest
            if farm is None or farm[0] != queue:
                continue
            overview = look_at(run)
            if overview.executor == "celery" and overview.state not in {"finished", "cancelled", "refused"}:
                found[manifest.run_id] = RunEntry(farm[1], manifest.model_fingerprint, manifest.model_name)
    except NeuroscanError as error:
        log.warning("runs that the broker may have forgotten are not looked for: %s", error)
    return found


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
    app = make_app(config.broker_url, config.queue)
    reconciler = Reconciler(
        broker,
        app,
        places=config.places,
        unfinished=lambda: unfinished_runs(config.places.runs_dir, config.queue),
    )

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
