"""The worker's log: one line on stderr for each thing worth telling, with its ids in the text."""

from __future__ import annotations

import logging


def log_to_stderr(level: str) -> None:
    """Send the log to stderr. Celery's and kombu's own chatter begins at WARNING."""
    line = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(format=line, level=level, force=True)
    for name in ("celery", "kombu", "amqp", "multiprocessing"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    # The death of a child is told by ourselves, in one line; Celery tells it with two tracebacks of its own.
    logging.getLogger("celery.worker.request").setLevel(logging.CRITICAL)
