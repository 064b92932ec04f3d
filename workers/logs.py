"""The worker's log: one line on stderr for each thing worth telling, and for what nobody caught."""

from __future__ import annotations

import logging
import sys

from neuroscan_farm.logs import LogFormat, LogFormatter, log_bugs, set_up_logs


def log_to_stderr(level: str, form: LogFormat = "text", *, worker: str | None = None) -> None:
    """Send this process's log to stderr; see `set_up_logs`."""
    set_up_logs(level, form, worker=worker)
    log_bugs()


def tell(
    text: str, form: LogFormat = "text", *, worker: str | None = None, level: int = logging.INFO
) -> None:
    """Write a line that no level of the log hides: plain as text, a line like the others as JSON."""
    if form == "json":
        record = logging.LogRecord("workers", level, __file__, 0, text, None, None)
        text = LogFormatter(form, worker=worker).format(record)
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
