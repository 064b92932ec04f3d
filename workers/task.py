"""The one Celery task: measure a shard. Claim, execute, commit, release; only then acknowledge."""

from __future__ import annotations

import functools
import logging
import os
import signal
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import current_app, shared_task
from celery.signals import setup_logging, worker_process_init
from pydantic import ValidationError

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import TASK_NAME
from neuroscan_farm.dispatch.farm_records import Report, Running
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.errors import BrokerError, CancelledRun, NeuroscanError, RunError
from neuroscan_farm.store.run_directory import RunDirectory
from workers.claims import Claim, ShardLeft
from workers.config import WorkerConfig
from workers.logs import log_to_stderr

if TYPE_CHECKING:
    from neuroscan_farm.engine.warm import WarmModel

log = logging.getLogger(__name__)

Execute = Callable[[RunDirectory, ShardOrder, Callable[[str], None]], None]


def read_order(arguments: tuple[Any, ...], options: dict[str, Any]) -> ShardOrder | None:
    """Return the order in a message; None, with a line in the log, where it holds none. Nothing is opened."""
    if len(arguments) != 1 or options:
        log.error(
            "message dropped: %d arguments, %d options; one order expected", len(arguments), len(options)
        )
        return None
    try:
        return ShardOrder.model_validate(arguments[0])
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'order'}: {e['msg']}" for e in error.errors()]
        log.error("message dropped: %s", "; ".join(wrong[:5]))
        return None


class ShardWorker:
    """Carries out orders in the pool's child process, one at a time, with one model kept warm."""

    def __init__(self, *, broker: Broker, name: str, host: str, execute: Execute) -> None:
        self._broker = broker
        self._name = name
        self._host = host
        self._execute = execute
        self._leaving = False

    def leave(self, *_: object) -> None:
        """Hand the present shard back at its next task."""
        self._leaving = True

    def carry_out(self, order: ShardOrder) -> None:
        """Measure a shard, unless another worker has it; whatever goes wrong is reported and not raised."""
        running = Running(
            shard_id=order.shard_id,
            token=uuid.uuid4().hex,
            worker=self._name,
            host=self._host,
            pid=os.getpid(),
            attempt=order.attempt,
            task_id=None,
            since=time.time(),
        )
        where = f"run {order.run_id} shard {order.shard_id}"
        try:
            claim = Claim.take(self._broker, order.run_id, running, leaving=lambda: self._leaving)
        except BrokerError as error:
            log.warning("%s: order dropped, it will be sent again: %s", where, error)
            return
        if claim is None:
            log.info("%s: dropped: another worker has it, or its run has ended", where)
            return
        report: Report | None = None
        try:
            if self._leaving:
                raise ShardLeft("this worker was asked to leave")
            self._execute(_open_run(order), order, claim.working_on)
            log.info("%s: done", where)
        except (ShardLeft, CancelledRun) as reason:
            log.info("%s: left undone: %s", where, reason)
            self._leaving = False
        except NeuroscanError as error:
            log.error("%s: refused: %s", where, error)
            report = self._report(claim, str(error), error.exit_code)
        except Exception:  # the one broad except of the worker: our bug, and it is put on record
            log.exception("%s: failed", where)
            report = self._report(claim, traceback.format_exc(limit=-12), None)
        finally:
            claim.release(report)

    def _report(self, claim: Claim, error: str, exit_code: int | None) -> Report:
        running = claim.running
        return Report(running.shard_id, running.worker, running.attempt, running.task_id, error, exit_code)


def _open_run(order: ShardOrder) -> RunDirectory:
    run = RunDirectory.open(Path(order.run_dir))
    if run.manifest.run_id != order.run_id:
        raise RunError(f"{order.run_dir}: holds run {run.manifest.run_id}, the order is for {order.run_id}")
    return run


class _Engine:
    """Executes shards with the real engine; torch is imported with the first one, in the child alone."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._warm: WarmModel | None = None

    def __call__(self, run: RunDirectory, order: ShardOrder, on_task: Callable[[str], None]) -> None:
        from neuroscan_farm.engine.shard import execute_shard
        from neuroscan_farm.engine.warm import WarmModel

        if self._warm is None:
            self._warm = WarmModel(
                memory_mb=self._config.memory_mb,
                memory_limit_mb=self._config.memory_limit_mb,
                stream=self._config.stream,
                threads=self._config.threads,
                cache_dir=Path(self._config.cache_dir),
                cache_bytes=self._config.cache_bytes,
            )
        execute_shard(
            run, order.shard_id, order.attempt, worker=self._config.name, warm=self._warm, on_task=on_task
        )


@functools.cache
def _this_worker() -> ShardWorker:
    config = WorkerConfig.from_plain(current_app.conf["neuroscan_worker"])
    return ShardWorker(broker=config.broker(), name=config.name, host=config.host, execute=_Engine(config))


def measure_shard(*arguments: Any, **options: Any) -> None:
    """Carry out the order in a message."""
    order = read_order(arguments, options)
    if order is not None:
        _this_worker().carry_out(order)


def _start_child(**_: object) -> None:
    log_to_stderr(current_app.conf["neuroscan_worker"]["log_level"])
    # What stops a process group reaches the child too: it hands its shard back, and lives on until its parent
    # lets it go. Celery has armed PR_SET_PDEATHSIG, so that it never outlives a killed parent.
    signal.signal(signal.SIGTERM, _this_worker().leave)


def _keep_logging(**_: object) -> None:
    """Keep Celery from setting up logs of its own: it does so only where nobody answers this signal."""


shared_task(name=TASK_NAME)(measure_shard)
worker_process_init.connect(_start_child)
setup_logging.connect(_keep_logging)
