"""Shards by Celery on Redis. Messages are hints, claims say who works on what, parts say what is done.

Celery alone does not keep its promises on Redis: a `kill -9` between two commands loses a message, a long
task is delivered twice when the visibility timeout runs out, a wiped broker forgets everything. So nothing
rests on it: orders that are neither queued nor claimed nor done are sent again, and whoever takes a claimed
or finished shard drops it.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

import kombu.exceptions
from celery import Celery
from kombu import Exchange, Queue

from neuroscan_farm.dispatch.affinity import Affinity
from neuroscan_farm.dispatch.base import Event, Refused, WorkerDied
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_orders import PRIORITY_SEPARATOR, PRIORITY_STEPS, message_priority
from neuroscan_farm.dispatch.broker_url import celery_url, redacted
from neuroscan_farm.dispatch.farm_records import OrderName, Refusal, RunEntry, RunState, Snapshot
from neuroscan_farm.dispatch.parent_death import dying_with_parent
from neuroscan_farm.dispatch.plain_messages import TASK_NAME as TASK_NAME
from neuroscan_farm.dispatch.redis_transport import use_forgiving_transport
from neuroscan_farm.dispatch.wire import ShardOrder, check_location, model_queue
from neuroscan_farm.errors import BrokerError, NeuroscanError, RunError
from neuroscan_farm.store.run_directory import RunDirectory

ORDERS_PER_WORKER = 2  # queued for each live worker and run: enough to keep it busy, few enough to be fair
VISIBILITY_SECONDS = 3600  # the last resort for the messages of dead workers; claims notice them much sooner
NOTHING_KNOWN = RunState(frozenset(), (), frozenset(), {}, (), {})


def make_app(broker_url: str, queue: str = "neuroscan", *, affinity: Affinity | None = None) -> Celery:
    """Return the Celery application of a farm, for senders and workers alike.

    The only place where Celery's options are set. The base queue holds no orders: they go into those of their models
    (`send_order`); whoever sends into it all the same is told so by the worker that drops it.

    Args:
        broker_url: the farm's broker.
        queue: the farm's queue.
        affinity: in which order a worker looks into its queues.
    """
    use_forgiving_transport()
    app = Celery("neuroscan", broker=celery_url(broker_url), set_as_current=False)
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
        task_queues=[queue_of(queue)],
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
            "priority_steps": PRIORITY_STEPS,
            "sep": PRIORITY_SEPARATOR,
            "queue_order_strategy": affinity or "round_robin",
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

    Args:
        run: the run.
        broker: the farm's broker.
        app: the farm's Celery application.
        look: how the broker stands; default is to look anew at each poll. Who drives many runs looks once for all.
    """

    def __init__(
        self, run: RunDirectory, broker: Broker, app: Celery, *, look: Callable[[], Snapshot] | None = None
    ) -> None:
        self._run = run
        self._run_id = run.manifest.run_id
        self._broker = broker
        self._app = app
        self._snapshot = look or functools.partial(
            broker.snapshot, [self._run_id], models=[run.manifest.model_fingerprint]
        )
        self._receipts: list[str] = []
        self._in_flight: frozenset[str] = frozenset()
        self._waiting = 0  # orders of this run that no worker has taken yet
        self._workers = 0  # that live and have not refused the run
        self._told: frozenset[str] = frozenset()  # the workers whose refusal was passed on
        self._epoch: str | None = None
        self._last_look: float | None = None  # these three are times of the broker
        self._claims_settle = 0.0  # until then a missing claim says nothing
        self._hold_until = 0.0  # until then nothing is sent

    def room(self) -> int:
        """How many more orders may be sent: a few per live worker, none while claims are being restored."""
        if self._last_look is None:
            self._look()
        if self._last_look is None or self._last_look < self._hold_until:
            return 0
        return ORDERS_PER_WORKER * max(self._workers, 1) - self._waiting

    def in_flight(self) -> frozenset[str]:
        """The shards that are queued or claimed, as the last poll saw them, and those sent since."""
        return self._in_flight

    def send(self, order: ShardOrder) -> None:
        """Put an order into the queue of its model.

        Raises:
            BrokerError: the broker is out of reach.
        """
        self._broker.note_sent(self._run_id, [order.shard_id])
        try:
            send_order(self._app, self._broker.queue, order)
        except (kombu.exceptions.KombuError, OSError) as error:
            raise BrokerError(
                f"broker {redacted(self._broker.url)}: the order was not taken ({error})"
            ) from error
        self._in_flight |= {order.shard_id}
        self._waiting += 1

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Return the deaths since the last call, and the refusal where no live worker can do the run.

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
        seen = self._snapshot()
        now, state = seen.now, seen.states.get(self._run_id, NOTHING_KNOWN)
        self._notice_outage(now, seen.epoch)
        claimed = state.claimed
        if now < self._claims_settle:
            claimed = frozenset(record.shard_id for record in state.running)
        for record in state.running:
            if record.shard_id in claimed:
                continue
            if self._is_done(record.shard_id):
                self._broker.drop(self._run_id, record)
            else:
                self._broker.bury(self._run_id, record)
        sent = dict(state.sent)
        fresh = now - self._broker.timings.lost_after / 4
        unstamped = [shard for shard in state.queued - claimed if sent.get(shard, 0.0) < fresh]
        self._broker.note_sent(self._run_id, unstamped)
        sent |= dict.fromkeys(unstamped, now)
        oldest = now - self._broker.timings.lost_after
        lost = {shard for shard, at in sent.items() if at < oldest and shard not in state.queued}
        self._broker.forget_sent(self._run_id, lost)
        waiting = set(sent) - lost - claimed
        self._waiting = len(waiting)
        self._in_flight = frozenset(waiting | claimed)
        live = {worker.name for worker in seen.workers if worker.state == "ready"}
        self._workers = len(live - set(state.refusals))
        # Buried by this very look, or before: the next look tells it. What is told now is settled at the next poll.
        reports = (
            self._broker.reports(self._run_id) if state.reports or len(claimed) < len(state.running) else []
        )
        self._receipts = [receipt for receipt, _ in reports]
        events: list[Event] = [
            WorkerDied(report.shard_id, report.task_id, report.worker, report.attempt, report.error)
            for _, report in reports
        ]
        for refusal in state.refusals.values():
            if refusal.passing and now - refusal.at > self._broker.timings.storage_pause:
                self._broker.forgive(refusal.worker, [self._run_id])
        return [*events, *self._refused_by_all(live, state.refusals, now)]

    def _refused_by_all(self, live: set[str], refusals: Mapping[str, Refusal], now: float) -> list[Event]:
        """The refusal of the run, where every live worker refused it, and none has come for a while that might not."""
        if not live or not live <= set(refusals) or self._told >= live:
            return []
        theirs = [refusals[name] for name in sorted(live)]
        if any(refusal.passing for refusal in theirs):
            return []
        if now - max(refusal.at for refusal in theirs) < self._broker.timings.lost_after:
            return []
        self._told = frozenset(live)
        by_reason: dict[str, list[str]] = {}
        for refusal in theirs:
            by_reason.setdefault(refusal.error, []).append(refusal.worker)
        if len(by_reason) == 1:
            text = theirs[0].error
        else:
            text = "no worker can do this run\n" + "\n".join(
                f"{', '.join(workers)}: {reason}" for reason, workers in by_reason.items()
            )
        first = theirs[0]
        who = ", ".join(refusal.worker for refusal in theirs)
        return [Refused(first.shard_id, who, first.attempt, text, first.exit_code)]

    def _is_done(self, shard_id: str) -> bool:
        shard = self._run.shard(shard_id)
        return shard is not None and self._run.parts.look().done.issuperset(
            task.task_id for task in shard.tasks
        )

    def _notice_outage(self, now: float, epoch: str) -> None:
        """Give workers two beats to put their claims back when the broker was away, or may have been."""
        two_beats = 2 * self._broker.timings.beat
        if self._last_look is None or now - self._last_look > two_beats:
            self._claims_settle = now + two_beats  # claims ran out while nobody could beat them: no deaths
        self._last_look = now
        if self._epoch is not None and epoch != self._epoch:
            self._hold_until = now + two_beats  # it was wiped: sending now would have shards measured twice
        self._epoch = epoch


def send_order(app: Celery, queue: str, order: ShardOrder) -> None:
    """Put an order into the queue of its model.

    Raises:
        OSError: the broker is out of reach.
        kombu.exceptions.KombuError: the same.
    """
    name = model_queue(queue, order.model)
    app.send_task(
        TASK_NAME,
        args=[order.model_dump(mode="json")],
        task_id=str(OrderName(order.run_id, order.shard_id, order.attempt)),
        exchange="",  # the default exchange needs no binding, so that publishing goes on after a wipe
        routing_key=name,
        queue=queue_of(name),
        priority=message_priority(order.priority, order.attempt),
        retry=False,
        ignore_result=True,
    )


def queue_of(name: str) -> Queue:
    """A queue of the farm, for senders and workers alike."""
    return Queue(name, Exchange(""), routing_key=name)


def location_on(broker: Broker, run: RunDirectory, *, here: Callable[[str], str] = str) -> str:
    """Return how a farm calls the place of a run, or is to call it.

    Args:
        broker: the farm's broker.
        run: the run, as this machine sees it.
        here: says where on this machine the places are that others name.

    Raises:
        RunError: it is at a place that cannot be told to other machines, or the farm has it at another place already.
        BrokerError: the broker is out of reach.
    """
    try:
        check_location(run.location)
    except ValueError as error:
        raise RunError(f"{run.location}: {error}; give the run another place with --output") from error
    run_id = run.manifest.run_id
    known = broker.entry(run_id)
    if known is None or known.location == run.location:
        return run.location
    try:
        there = here(known.location)
        found = RunDirectory.exists(there)
    except NeuroscanError:  # outside of the roots, or in a store that is out of reach
        there, found = known.location, False
    if found and _same_place(there, run.location):
        return known.location
    mend = (
        f"watch that one: neuroscan-farm watch {there}"
        if found
        else f"it is not to be found from here; if it is gone: neuroscan-farm cancel {run_id}"
    )
    raise RunError(
        f"{run.location}: this farm measures the same run (model, probes and request are equal) at {known.location} "
        f"already; {mend}"
    )


def _same_place(one: str, other: str) -> bool:
    return one == other or ("://" not in one + other and os.path.realpath(one) == os.path.realpath(other))


def submit(run: RunDirectory, broker: Broker, *, location: str | None = None) -> None:
    """Put a run into the care of the farm: a worker's reconciler sends its orders within seconds.

    Submitting a run again is harmless, and takes its workers' refusals back.

    Args:
        run: the run.
        broker: the farm's broker.
        location: what the farm calls its place, where that is known (`location_on`).

    Raises:
        RunError: see `location_on`.
        StorageError: the disk or the store refused.
        BrokerError: the broker is out of reach.
    """
    manifest = run.manifest
    location = location or location_on(broker, run)
    run.give_to_farm(broker.queue, location)
    broker.register(manifest.run_id, RunEntry(location, manifest.model_fingerprint, manifest.model_name))


def start_workers(command: Sequence[str], broker_url: str) -> subprocess.Popen[bytes]:
    """Start workers in a process of their own; they hand back their shards when this process ends."""
    return subprocess.Popen(
        command,
        env={**os.environ, "NEUROSCAN_BROKER_URL": broker_url},
        stdin=subprocess.DEVNULL,
        preexec_fn=dying_with_parent(signal.SIGTERM),
        start_new_session=True,  # Ctrl-C reaches our parent alone, which passes it on once
    )
