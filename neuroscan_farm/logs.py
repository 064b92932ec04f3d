"""What a line of the log says, in every process of ours: when, where, what, the ids of the work at hand; never a secret.

A process sets its log up once (`set_up_logs`). Whoever takes a shard up says so (`log_context`), and every line that is
written meanwhile, by whatever code, carries the ids.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

LogFormat = Literal["text", "json"]

IDS = ("run", "shard", "task", "worker", "attempt")  # what a line may carry, in this order

# The mapping itself is changed by `log_ids`, so that a thread that was given a copy of the context sees the new task.
_CONTEXT: ContextVar[dict[str, object] | None] = ContextVar("neuroscan_log_context", default=None)

# A URL's password ends at the last @ before a space: it may hold any other character.
_IN_URL = re.compile(
    r"(?P<head>\b[A-Za-z][A-Za-z0-9+.-]*://[^\s:@/]*):(?!PASSWORD@)[^\s]*@"
)  # but for our own hints
_BY_NAME = re.compile(
    r"(?P<head>\b(?:[A-Za-z_]+_)?(?:password|passwd|secret|secret_key|secret_access_key|api_key|"
    r"access_token|auth_token|hf_token)"
    r"""["']?\s*[=:]\s*)(?:"[^"]*"|'[^']*'|[^\s,;&)}"']+)""",
    re.IGNORECASE,
)
_CHATTER = ("celery", "kombu", "amqp", "multiprocessing")

log = logging.getLogger(__name__)


@contextlib.contextmanager
def log_context(**ids: object) -> Iterator[None]:
    """Put ids (of `IDS`) on every line that is written inside; ids from outside stay, None takes one away.

    A thread that is started inside has them if it is run by `contextvars.copy_context()`.
    """
    before = _CONTEXT.set({**(_CONTEXT.get() or {}), **_known(ids)})
    try:
        yield
    finally:
        _CONTEXT.reset(before)


def log_ids(**ids: object) -> None:
    """Change ids of the context at hand, such as the task that has just begun; outside of one there is nothing to change."""
    inside = _CONTEXT.get()
    if inside is not None:
        inside.update(_known(ids))


def without_secrets(text: str) -> str:
    """The text with `***` in place of every password in a URL and every value that is called password or secret."""
    return _BY_NAME.sub(r"\g<head>***", _IN_URL.sub(r"\g<head>:***@", text))


class LogFormatter(logging.Formatter):
    """Makes one line of text, or one line of JSON, of a record.

    Args:
        form: "text" or "json".
        worker: this process's worker, on every line that names no other.
    """

    def __init__(self, form: LogFormat = "text", *, worker: str | None = None) -> None:
        super().__init__()
        self._json = form == "json"
        self._own: Mapping[str, object] = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end. An exception in text form follows on lines of its own."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        when = when.replace("+00:00", "Z")
        message = without_secrets(_message(record))
        ids = {**self._own, **(_CONTEXT.get() or {})}
        ids = {name: ids[name] for name in IDS if ids.get(name) is not None}
        exception = self._exception(record)
        if self._json:
            line = {"time": when, "level": record.levelname, "logger": record.name, "message": message}
            return json.dumps(line | ids | ({"exception": exception} if exception else {}), default=str)
        said = " ".join(f"{name}={value}" for name, value in ids.items() if str(value) not in message)
        text = f"{when} {record.levelname} {record.name}: {message}" + (f" [{said}]" if said else "")
        return f"{text}\n{exception}" if exception else text

    def _exception(self, record: logging.LogRecord) -> str | None:
        pieces = []
        if record.exc_info and record.exc_info[1] is not None:
            pieces.append("".join(traceback.format_exception(*record.exc_info)).rstrip())
        if record.stack_info:
            pieces.append(record.stack_info)
        return without_secrets("\n".join(pieces)) if pieces else None


def set_up_logs(level: str, form: LogFormat = "text", *, worker: str | None = None) -> None:
    """Send this process's log to stderr, as it is now. The farm's libraries are heard from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter(form, worker=worker))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in _CHATTER:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    # The death of a child is told by ourselves, in one line; Celery tells it with two tracebacks of its own.
    logging.getLogger("celery.worker.request").setLevel(logging.CRITICAL)


def log_bugs() -> None:
    """Send what nobody catches in this process to the log, in its form and without secrets."""

    def uncaught(
        kind: type[BaseException], error: BaseException, where: TracebackType | None, thread: str = ""
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, where)
            return
        place = f" in thread {thread}" if thread else ""
        log.critical("an error of our own%s: %s", place, error, exc_info=(kind, error, where))

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            name = args.thread.name if args.thread else "?"
            uncaught(args.exc_type, args.exc_value, args.exc_traceback, name)

    sys.excepthook = uncaught
    threading.excepthook = uncaught_in_thread


def _known(ids: Mapping[str, object]) -> Mapping[str, object]:
    unknown = set(ids) - set(IDS)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: the ids of a line are {', '.join(IDS)}")
    return ids


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError) as error:  # a wrong %-format in a library must not cost the line
        return f"{record.msg} {record.args} ({error})"
