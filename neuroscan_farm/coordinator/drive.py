"""The loop that looks, decides and does. Only it waits; it keeps nothing that the run directory does not hold."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from neuroscan_farm.analyses import get_analysis
from neuroscan_farm.coordinator.decide import Expand, Send, Stop, View, decide
from neuroscan_farm.dispatch.base import Dispatcher, Event, Refused, WorkerDied
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.domain.tasks import Shard
from neuroscan_farm.errors import NeuroscanError, StorageError
from neuroscan_farm.planning.packing import pack
from neuroscan_farm.statistics.effects import mean_effects
from neuroscan_farm.store.attempts import Attempt, deaths_while_loading, refusal_of
from neuroscan_farm.store.run_directory import RunDirectory

log = logging.getLogger(__name__)


class Driver:
    """Drives one run through one dispatcher, a step at a time. Several drivers on one run do no harm."""

    def __init__(self, run: RunDirectory, dispatcher: Dispatcher) -> None:
        self.run = run
        self.dispatcher = dispatcher
        self.request = run.request()
        self._plan_stamp = run.plan_stamp()
        self.shards: list[Shard] = run.shards()
        self.refusal: Refused | None = None
        self.notices: list[str] = run.parts.set_bad_aside(run.rows_expected(self.shards))
        self.finished = run.parts.finished(run.rows_expected(self.shards))
        for notice in self.notices:
            log.warning("run %s: %s", run.manifest.run_id, notice)

    def step(self, timeout_seconds: float) -> tuple[Stop | None, list[Event]]:
        """Look, decide and do once; return how the run ended, if it did, and what the workers reported.

        Raises:
            BrokerError: the broker is out of reach.
            StorageError: the disk refused.
        """
        events = self.dispatcher.poll(timeout_seconds)
        for event in events:
            self._note(event)
        for action in decide(self._look()):
            match action:
                case Send(shard_id):
                    self.dispatcher.send(self._order(shard_id))
                case Expand():
                    self._expand()
                case Stop():
                    return action, events
        return None, events

    def _look(self) -> View:
        stamp = self.run.plan_stamp()
        if stamp != self._plan_stamp:  # another driver of this run planned a further stage
            self._plan_stamp, self.shards = stamp, self.run.shards()
        self.finished = self.run.parts.finished(self.run.rows_expected(self.shards))
        attempts = self.run.attempts.all()
        return View(
            shards=tuple(shard.shard_id for shard in self.shards),
            finished=frozenset(self.finished),
            in_flight=self.dispatcher.in_flight(),
            room=self.dispatcher.room(),
            plan_complete=self.run.plan_complete(),
            wanted=self.run.wanted(),
            refusal=self.refusal.error if self.refusal is not None else refusal_of(attempts),
            # Deaths before the last commit say nothing of loading: it worked after them.
            deaths_while_loading=deaths_while_loading(
                attempts, since=self.run.parts.last_commit(self.finished)
            ),
        )

    def _order(self, shard_id: str) -> ShardOrder:
        return ShardOrder(
            run_id=self.run.manifest.run_id,
            run_dir=str(self.run.root.resolve()),
            shard_id=shard_id,
            attempt=self.run.attempts.next_number(shard_id),
        )

    def _note(self, event: Event) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        if isinstance(event, WorkerDied):
            log.warning("worker %s died in shard %s: %s", event.worker, event.shard_id, event.error)
            self.run.attempts.record(
                Attempt(event.shard_id, event.attempt, "died", event.task_id, event.worker, event.error, now)
            )
        elif isinstance(event, Refused):
            self.refusal = event
            attempt = Attempt(event.shard_id, event.attempt, "refused", None, event.worker, event.error, now)
            try:
                self.run.attempts.record(attempt)
            except StorageError as error:  # the very reason may be a full disk; the refusal is kept in memory
                log.warning("the refusal could not be recorded: %s", error)

    def _expand(self) -> None:
        manifest = self.run.manifest
        tasks = [task for shard in self.shards for task in shard.tasks]
        baseline = next(task for task in tasks if task.is_baseline(manifest.depth))
        new = get_analysis(self.request.analysis).next_stage(
            self.request.parameters,
            depth=manifest.depth,
            probe_digests=list(manifest.probes.values()),
            tasks=tasks,
            effects=mean_effects(
                self.run.parts.read(), metric=self.request.metric, baseline_id=baseline.task_id
            ),
        )
        self.shards = [*self.shards, *pack(new, most=self.request.shard_size)]
        self.run.write_plan(self.shards, complete=not new)


def drive(
    run: RunDirectory,
    dispatcher: Dispatcher,
    *,
    on_step: Callable[[Driver, list[Event]], None] = lambda driver, events: None,
    poll_seconds: float = 0.2,
) -> Stop:
    """Drive a run to its end and return how it ended.

    Raises:
        NeuroscanError: whatever made it impossible to go on; nothing finished is lost.
    """
    driver = Driver(run, dispatcher)
    on_step(driver, [])
    timeout = 0.0  # the first orders go out at once
    while True:
        end, events = driver.step(timeout)
        on_step(driver, events)
        if end is not None:
            if driver.refusal is not None:
                raise _refused(driver.refusal)
            return end
        timeout = poll_seconds


def _refused(refusal: Refused) -> NeuroscanError:
    error = NeuroscanError(refusal.error)
    error.exit_code = refusal.exit_code
    return error
