"""Shards by Celery on Redis. Messages are hints, claims say who works on what, parts say what is done.

Celery alone does not keep its promises on Redis: a `kill -9` between two commands loses a message, a long
task is delivered twice when the visibility timeout runs out, a wiped broker forgets everything. So nothing
rests on it: orders that are neither queued nor claimed nor done are sent again, and whoever takes a claimed
or finished shard drops it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence

import kombu.exceptions
from celery import Celery
from kombu import Exchange, Queue

from neuroscan_farm.dispatch.base import Event, Refused, WorkerDied
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_url import redacted
from neuroscan_farm.dispatch.farm_records import OrderName, Report
from neuroscan_farm.dispatch.parent_death import dying_with_parent
from neuroscan_farm.dispatch.redis_transport import use_forgiving_transport
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.errors import BrokerError
from neuroscan_farm.store.run_directory import RunDirectory

TASK_NAME = "neuroscan.measure_shard"
ORDERS_PER_WORKER = 4  # queued for each live worker and run: enough to keep it busy, few enough to be fair
VISIBILITY_SECONDS = 3600  # the last resort for the messages of dead workers; claims notice them much sooner


def make_app(broker_url: str, queue: str = "neuroscan") -> Celery:
    """Return the Celery application of a farm, for senders and workers alike."""
    use_forgiving_transport()
    app = Celery("neuroscan", broker=broker_url, set_as_current=False)
    app.conf.update(
        # JSON only: a message can never be code
        accept_content=["json"],
        task_serializer="json",
        event_serializer="json",
        # commit, then acknowledge
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # it loops for ever on a task that kills; the reconciler counts
        worker_prefetch_multiplier=1,
        task_ignore_result=True,
        # The default exchange needs no binding, so that publishing goes on after a wipe.
        task_queues=[Queue(queue, Exchange(""), routing_key=queue)],
        task_default_queue=queue,
        task_default_exchange="",
        task_default_routing_key=queue,
        # one spawned child: torch and CUDA do not survive a fork
        worker_concurrency=1,
        worker_pool="prefork",
        worker_pool_start_method="spawn",
        worker_proc_alive_timeout=300.0,  # a fresh interpreter on a busy machine
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # a broker that is away for a night is waited for
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=5,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_SECONDS,
            "socket_timeout": 10.0,  # publishing to a frozen Redis would block for ever
            "socket_connect_timeout": 5.0,
            "socket_keepalive": True,
            "unacked_key": f"{queue}.unacked",
            "unacked_index_key": f"{queue}.unacked_index",
            "unacked_mutex_key": f"{queue}.unacked_mutex",
        },
    )
    return app


class CeleryDispatcher:
    """Carries the orders of one run to the workers of a farm; see `Dispatcher` for the contract.

    It keeps nothing that the broker and the run directory do not hold, but for the receipts of the reports it
    passed on: they are settled at the next poll, when the caller has put them on record.
    """

    def __init__(self, run: RunDirectory, broker: Broker, app: Celery) -> None:
        self._run = run
        self._run_id = run.manifest.run_id
        self._broker = broker
        self._app = app
        self._receipts: list[str] = []
        self._in_flight: frozenset[str] = frozenset()
        self._waiting = 0  # orders of this run that no worker has taken yet
        self._epoch: str | None = None
        self._last_look: float | None = None  # these three are times of the broker
        self._claims_settle = 0.0  # until then a missing claim says nothing
        self._hold_until = 0.0  # until then nothing is sent

    def room(self) -> int:
        """How many more orders may be sent: a few per live worker, none while claims are being restored."""
        if self._broker.now() < self._hold_until:
            return 0
        workers = sum(worker.state == "ready" for worker in self._broker.workers())
        return ORDERS_PER_WORKER * max(workers, 1) - self._waiting

    def in_flight(self) -> frozenset[str]:
        """The shards that are queued or claimed, as the last poll saw them, and those sent since."""
        return self._in_flight

    def send(self, order: ShardOrder) -> None:
        """Put an order into the farm's queue.

        Raises:
            BrokerError: the broker is out of reach.
        """
        name = OrderName(order.run_id, order.shard_id, order.attempt)
        self._broker.note_sent(self._run_id, [order.shard_id])
        try:
            self._app.send_task(
                TASK_NAME,
                args=[order.model_dump(mode="json")],
                task_id=str(name),
                retry=False,
                ignore_result=True,
            )
        except (kombu.exceptions.KombuError, OSError) as error:
            raise BrokerError(
                f"broker {redacted(self._broker.url)}: the order was not taken ({error})"
            ) from error
        self._in_flight |= {order.shard_id}
        self._waiting += 1

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Return the deaths and refusals since the last call.

        Raises:
            BrokerError: the broker is out of reach.
        """
        deadline = time.monotonic() + timeout_seconds
        self._broker.settle(self._run_id, self._receipts)
        self._receipts = []
        while not (events := self._look()) and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return events

    def close(self) -> None:
        """Do nothing: the farm's workers are not ours to stop."""

    def _look(self) -> list[Event]:
        now = self._broker.now()
        self._notice_outage(now)
        # Looked at in the order in which an order travels, so that one on its way is seen at least once.
        queued = self._broker.queued().get(self._run_id, set())
        running = self._broker.running(self._run_id)
        if now < self._claims_settle:
            claimed = {record.shard_id for record in running}
        else:
            claimed = self._broker.claimed(self._run_id, running)
        for record in running:
            if record.shard_id in claimed:
                continue
            if self._run.parts.path(record.shard_id).exists():
                self._broker.drop(self._run_id, record)
            else:
                self._broker.bury(self._run_id, record)
        self._broker.note_sent(self._run_id, queued - claimed)
        sent = self._broker.sent(self._run_id)
        oldest = now - self._broker.timings.lost_after
        lost = {shard for shard, at in sent.items() if at < oldest and shard not in queued}
        done = {shard for shard in sent if self._run.parts.path(shard).exists()}
        self._broker.forget_sent(self._run_id, lost | done)
        waiting = set(sent) - lost - done - claimed
        self._waiting = len(waiting)
        self._in_flight = frozenset(waiting | claimed)
        reports = self._broker.reports(self._run_id)
        self._receipts = [receipt for receipt, _ in reports]
        return [_event(report) for _, report in reports]

    def _notice_outage(self, now: float) -> None:
        """Give workers two beats to put their claims back when the broker was away, or may have been."""
        two_beats = 2 * self._broker.timings.beat
        if self._last_look is None or now - self._last_look > two_beats:
            self._claims_settle = now + two_beats  # claims ran out while nobody could beat them: no deaths
        self._last_look = now
        epoch = self._broker.epoch()
        if self._epoch is not None and epoch != self._epoch:
            self._hold_until = now + two_beats  # it was wiped: sending now would have shards measured twice
        self._epoch = epoch


def submit(run: RunDirectory, broker: Broker) -> None:
    """Put a run into the care of the farm: a worker's reconciler sends its orders within seconds.

    Submitting a run again is harmless.

    Raises:
        BrokerError: the broker is out of reach.
    """
    broker.register(run.manifest.run_id, str(run.root.resolve()))


def start_workers(command: Sequence[str], broker_url: str) -> subprocess.Popen[bytes]:
    """Start workers in a process of their own; they hand back their shards when this process ends."""
    return subprocess.Popen(
        command,
        env={**os.environ, "NEUROSCAN_BROKER_URL": broker_url},
        stdin=subprocess.DEVNULL,
        preexec_fn=dying_with_parent(signal.SIGTERM),
        start_new_session=True,  # Ctrl-C reaches our parent alone, which passes it on once
    )


def _event(report: Report) -> Event:
    if report.exit_code is not None:
        return Refused(report.shard_id, report.worker, report.attempt, report.error, report.exit_code)
    return WorkerDied(report.shard_id, report.task_id, report.worker, report.attempt, report.error)
