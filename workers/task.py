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

import kombu.exceptions
from celery import current_app, shared_task
from celery.signals import setup_logging, worker_process_init
from pydantic import ValidationError

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.celery_queue import TASK_NAME, send_order
from neuroscan_farm.dispatch.farm_records import Report, Running
from neuroscan_farm.dispatch.places_here import PlacesHere
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.errors import BrokerError, CancelledRun, NeuroscanError, RunError, StorageError
from neuroscan_farm.logs import log_context, without_secrets
from neuroscan_farm.store.last_run import LastRun
from neuroscan_farm.store.run_directory import RunDirectory
from workers.claims import Claim, ShardLeft
from workers.config import WorkerConfig
from workers.logs import log_to_stderr
from workers.tally import Tally, counted

if TYPE_CHECKING:
    from neuroscan_farm.engine.warm import WarmModel

log = logging.getLogger(__name__)

Execute = Callable[[RunDirectory, ShardOrder, Claim], None]

_HAND_ON_SECONDS = (
    1.0  # an order that comes back to who cannot do it must not go round and round at full speed
)


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
        wrong = [f"{'.'.join(map(str, e['loc']))[:40] or 'order'}: {e['msg']}"[:200] for e in error.errors()]
        log.error("message dropped: %s", "; ".join(text[:200] for text in wrong[:5]))
        return None


class ShardWorker:
    """Carries out orders in the pool's child process, one at a time, with one model kept warm.

    Args:
        broker: the farm's broker.
        name: this worker's name.
        host: its machine.
        execute: measures a shard.
        places: where runs are on this machine, and which may be opened.
        hand_on: puts an order that is not for this worker back into its queue.
        tally: where to count what is done, for the metrics.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        name: str,
        host: str,
        execute: Execute,
        places: PlacesHere,
        hand_on: Callable[[ShardOrder], None],
        tally: Tally | None = None,
    ) -> None:
        self._broker = broker
        self._name = name
        self._host = host
        self._execute = execute
        self._places = places
        self._hand_on = hand_on
        self._tally = tally
        self._leaving = False
        self._last_run = LastRun()

    def leave(self, *_: object) -> None:
        """Hand the present shard back at its next task."""
        self._leaving = True

    def carry_out(self, order: ShardOrder) -> None:
        """Measure a shard, unless another worker has it; whatever goes wrong is reported and not raised."""
        ids = {"run": order.run_id, "shard": order.shard_id, "attempt": order.attempt}
        with log_context(**ids, worker=self._name, task=None):
            self._carry_out(order)

    def _carry_out(self, order: ShardOrder) -> None:
        running = Running(
            shard_id=order.shard_id,
            token=uuid.uuid4().hex,
            worker=self._name,
            host=self._host,
            pid=os.getpid(),
            attempt=order.attempt,
            task_id=None,
            since=time.time(),
            progressed=time.time(),
            limit_seconds=order.limit_seconds,
        )
        where = f"run {order.run_id} shard {order.shard_id}"
        try:
            entry = self._broker.entry(order.run_id)
            if entry is not None and (entry.location, entry.model) != (order.location, order.model):
                log.error("%s: order dropped: the run is registered with another place or model", where)
                return
            if self._broker.has_refused(self._name, order.run_id):
                log.info("%s: handed on: this worker refused the run", where)
                self._hand_on(order)
                return
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
            run = self._open_run(order)
            with counted(self._tally, run, worker=self._name, shard_id=order.shard_id):
                self._execute(run, order, claim)
            log.info("%s: done", where)
        except (ShardLeft, CancelledRun) as reason:
            log.info("%s: left undone: %s", where, reason)
            self._count(shards_left=1)
            self._leaving = False
        except NeuroscanError as error:
            log.error("%s: refused: %s", where, error)
            self._count(shards_failed=1)
            passing = isinstance(error, StorageError)
            report = self._report(claim, str(error), error.exit_code, passing=passing)
        except Exception:  # the one broad except of the worker: our bug, and it is put on record
            log.exception("%s: failed", where)
            self._count(shards_failed=1)
            report = self._report(claim, traceback.format_exc(limit=-12), None)
        finally:
            claim.release(report)

    def _count(self, **amounts: float) -> None:
        if self._tally is not None:
            self._tally.add(**amounts)

    def _open_run(self, order: ShardOrder) -> RunDirectory:
        run = self._last_run.open(self._places.run_location(order.location))
        manifest = run.manifest
        if (manifest.run_id, manifest.model_fingerprint) != (order.run_id, order.model):
            raise RunError(
                f"{order.location}: holds run {manifest.run_id} of model {manifest.model_fingerprint[:12]}, "
                f"the order is for {order.run_id} of {order.model[:12]}"
            )
        return run

    def _report(self, claim: Claim, error: str, exit_code: int | None, *, passing: bool = False) -> Report:
        running = claim.running
        error = without_secrets(error)  # it is kept in the run directory
        return Report(
            running.shard_id, running.worker, running.attempt, running.task_id, error, exit_code, passing
        )


class _Engine:
    """Executes shards with the real engine; torch is imported with the first one, in the child alone."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._warm: WarmModel | None = None
        self._claim: Claim | None = None

    def __call__(self, run: RunDirectory, order: ShardOrder, claim: Claim) -> None:
        from neuroscan_farm.engine.shard import execute_shard
        from neuroscan_farm.engine.warm import WarmModel

        self._claim = claim
        if self._warm is None:
            self._warm = WarmModel(
                memory_mb=self._config.memory_mb,
                memory_limit_mb=self._config.memory_limit_mb,
                stream=self._config.stream,
                threads=self._config.threads,
                cache_dir=Path(self._config.cache_dir),
                cache_bytes=self._config.cache_bytes,
                folder_here=self._config.places.model_folder,
                on_progress=self._progress,
            )
        execute_shard(
            run,
            order.shard_id,
            order.attempt,
            worker=self._config.name,
            warm=self._warm,
            on_task=claim.working_on,
            patience_seconds=self._config.timings.storage_pause,
        )

    def _progress(self) -> None:
        if self._claim is not None:
            self._claim.progress()


@functools.cache
def _this_worker() -> ShardWorker:
    config = WorkerConfig.from_plain(current_app.conf["neuroscan_worker"])
    return ShardWorker(
        broker=config.broker(),
        name=config.name,
        host=config.host,
        execute=_Engine(config),
        places=config.places,
        hand_on=functools.partial(_hand_on, config.queue),
        tally=Tally(Path(config.tally)) if config.tally else None,
    )


def _hand_on(queue: str, order: ShardOrder) -> None:
    try:
        send_order(current_app, queue, order)
    except (kombu.exceptions.KombuError, OSError) as error:
        log.info("the order is left to be sent again: %s", error)
    time.sleep(_HAND_ON_SECONDS)


def measure_shard(*arguments: Any, **options: Any) -> None:
    """Carry out the order in a message."""
    order = read_order(arguments, options)
    if order is not None:
        _this_worker().carry_out(order)


def _start_child(**_: object) -> None:
    config = WorkerConfig.from_plain(current_app.conf["neuroscan_worker"])
    log_to_stderr(config.log_level, config.log_format, worker=config.name)
    # What stops a process group reaches the child too: it hands its shard back, and lives on until its parent
    # lets it go. Celery has armed PR_SET_PDEATHSIG, so that it never outlives a killed parent.
    signal.signal(signal.SIGTERM, _this_worker().leave)


def _keep_logging(**_: object) -> None:
    """Keep Celery from setting up logs of its own: it does so only where nobody answers this signal."""


shared_task(name=TASK_NAME)(measure_shard)
worker_process_init.connect(_start_child)
setup_logging.connect(_keep_logging)
