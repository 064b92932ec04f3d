"""The loop that looks, decides and does. Only it waits; it keeps nothing that the run directory does not hold."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime

from neuroscan_farm.analyses import get_analysis
from neuroscan_farm.coordinator.decide import (
    Compact,
    Expand,
    Narrow,
    Resize,
    Send,
    Split,
    Stop,
    View,
    decide,
)
from neuroscan_farm.coordinator.outlook import Outlook
from neuroscan_farm.dispatch.base import Dispatcher, Event, Refused, WorkerDied
from neuroscan_farm.dispatch.wire import ShardOrder
from neuroscan_farm.domain.tasks import Shard, Task
from neuroscan_farm.errors import NeuroscanError, StorageError
from neuroscan_farm.logs import log_context
from neuroscan_farm.planning import sizing
from neuroscan_farm.planning.packing import pack, recut
from neuroscan_farm.statistics.confirm_split import held_out_samples
from neuroscan_farm.statistics.effects import effect_sizes, mean_effects
from neuroscan_farm.store.attempts import Attempt, deaths_while_loading, refusal_of
from neuroscan_farm.store.control import Control
from neuroscan_farm.store.run_directory import RunDirectory

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_JOININGS = 60.0  # after one that failed: all loose parts are read for it
_SAME_RATE = 1.5  # the measured rate wavers; a cut is made anew when it has changed by more than this


class Driver:
    """Drives one run through one dispatcher, a step at a time. Several drivers on one run do no harm."""

    def __init__(self, run: RunDirectory, dispatcher: Dispatcher, *, location: str | None = None) -> None:
        """Look at a run for the first time; parts that are not whole are moved aside.

        Args:
            run: the run.
            dispatcher: carries its orders.
            location: where the workers find the run, in the words that they know; default is where it is here.
        """
        self.run = run
        self.dispatcher = dispatcher
        self.request = run.request()
        self.refusal: Refused | None = None
        self.paused = False  # nothing is sent, because the user wants a pause
        self.notices: list[str] = run.parts.set_bad_aside()
        self._location = location or run.location
        self._control = Control()  # what is wanted, as last seen
        self._joining_failed_at = -_SECONDS_BETWEEN_JOININGS  # by time.monotonic
        self._cut_for: float | None = None  # the rate that the present cut was made for
        self._seen = Outlook(run, samples=sum(run.manifest.n_samples.values()))
        self._seen.refresh()
        for notice in self.notices:
            log.warning("run %s: %s", run.manifest.run_id, notice)

    @property
    def tasks(self) -> int:
        """How many tasks the plan has so far."""
        return self._seen.tasks

    @property
    def tasks_done(self) -> int:
        """How many of them are done."""
        return self._seen.tasks - self._seen.tasks_missing

    def step(self, timeout_seconds: float) -> tuple[Stop | None, list[Event]]:
        """Look, decide and do once; return how the run ended, if it did, and what the workers reported.

        Raises:
            BrokerError: the broker is out of reach.
            StorageError: the disk refused.
        """
        with log_context(run=self.run.manifest.run_id):
            return self._step(timeout_seconds)

    def _step(self, timeout_seconds: float) -> tuple[Stop | None, list[Event]]:
        events = self.dispatcher.poll(timeout_seconds)
        for event in events:
            self._note(event)
        actions = decide(self._look())
        # One new plan for all of them: it is written and read as a whole.
        self._cut([action.shard_id for action in actions if isinstance(action, Narrow | Split)])
        for action in actions:
            match action:
                case Send(shard_id):
                    self.dispatcher.send(self._order(shard_id))
                case Resize(shards):
                    self._resize(shards)
                case Compact():
                    self._compact()
                case Expand():
                    self._expand()
                case Stop():
                    return action, events
        return None, events

    def _look(self) -> View:
        seen, in_flight = self._seen, self.dispatcher.in_flight()
        seen.refresh()
        attempts = self.run.attempts.all()
        room, self._control = self.dispatcher.room(), self.run.control()
        self.paused = self._control.wanted == "paused"
        return View(
            shards=seen.order,
            finished=seen.finished,
            in_flight=in_flight,
            room=room,
            plan_complete=seen.plan_complete,
            wanted=self._control.wanted,
            refusal=self.refusal.error if self.refusal is not None else refusal_of(attempts),
            # Deaths before the last commit say nothing of loading: it worked after them.
            deaths_while_loading=deaths_while_loading(attempts, since=seen.grew),
            begun=seen.begun,
            deaths=seen.deaths_among_several(attempts),
            better_cut=self._better_cut(in_flight, slots=room + len(in_flight)),
            loose_parts=seen.progress.loose if self._may_join() else 0,
        )

    def _may_join(self) -> bool:
        return time.monotonic() - self._joining_failed_at >= _SECONDS_BETWEEN_JOININGS

    def _better_cut(self, in_flight: frozenset[str], *, slots: int) -> int | None:
        seconds = self._seen.seconds_per_evaluation
        if seconds is None or self.request.shard_size is not None:
            return None
        if self._cut_for is not None and 1 / _SAME_RATE < seconds / self._cut_for < _SAME_RATE:
            return None
        waiting = self._seen.waiting(in_flight)
        return sizing.better_cut(
            seconds=seconds,
            evaluations=self._seen.evaluations(waiting),
            tasks=sum(len(self._seen.missing(shard_id)) for shard_id in waiting),
            shards=len(waiting),
            slots=slots,
        )

    def _order(self, shard_id: str) -> ShardOrder:
        return ShardOrder(
            run_id=self.run.manifest.run_id,
            location=self._location,
            shard_id=shard_id,
            attempt=self.run.attempts.next_number(shard_id),
            model=self.run.manifest.model_fingerprint,
            priority=self._control.priority,
            limit_seconds=sizing.limit_seconds(
                self._seen.seconds_per_evaluation, self._seen.evaluations([shard_id])
            ),
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

    def _cut(self, shards: Collection[str]) -> None:
        """Cut shards down to their missing tasks; one that workers died on travels alone from now on."""
        if not shards:
            return
        killers = {
            (attempt.shard_id, attempt.task_id)
            for attempt in self.run.attempts.all()
            if attempt.kind == "died"
        }
        pieces = []
        for shard_id in dict.fromkeys(shards):  # one that is begun may have killed workers too
            missing = self._seen.missing(shard_id)
            alone = [[task] for task in missing if (shard_id, task.task_id) in killers]
            others = [task for task in missing if (shard_id, task.task_id) not in killers]
            cut = [Shard.of(tasks) for tasks in (others, *alone) if tasks]
            log.info("shard %s is cut into %s", shard_id, ", ".join(piece.shard_id for piece in cut))
            pieces += cut
        self._replace(shards, pieces)

    def _resize(self, shards: int) -> None:
        waiting = self._seen.waiting(self.dispatcher.in_flight())
        tasks = [task for shard_id in waiting for task in self._seen.missing(shard_id)]
        pieces = recut(tasks, shards=shards, most=sizing.most_tasks(self._seen.samples))
        log.info("%d shards are cut anew into %d, by the measured rate", len(waiting), len(pieces))
        self._replace(waiting, pieces)
        self._cut_for = self._seen.seconds_per_evaluation

    def _replace(self, old: Iterable[str], new: Iterable[Shard]) -> None:
        """Put other shards of the same tasks in the place of some; what is done stays where it is."""
        gone = set(old)
        kept = [shard for shard in self._seen.shards if shard.shard_id not in gone]
        pieces = list(new)
        covered = {task.task_id for piece in pieces for task in piece.tasks}
        done = [
            Shard.of(tasks)
            for shard in self._seen.shards
            if shard.shard_id in gone
            and (tasks := [task for task in shard.tasks if task.task_id not in covered])
        ]
        self.run.write_plan([*kept, *done, *pieces], complete=self._seen.plan_complete)
        self._seen.refresh()

    def _compact(self) -> None:
        try:
            joined = self.run.parts.compact()
        except StorageError as error:  # a full disk; nothing rests on joining the parts, which are there
            log.warning("run %s: parts are not joined: %s", self.run.manifest.run_id, error)
            self._joining_failed_at = time.monotonic()
            return
        log.info("run %s: %d parts joined", self.run.manifest.run_id, joined)

    def _expand(self) -> None:
        manifest = self.run.manifest
        tasks: list[Task] = [task for shard in self._seen.shards for task in shard.tasks]
        baseline = next(task for task in tasks if task.is_baseline(manifest.depth))
        share = self.request.confirm
        held_out = None if share is None else held_out_samples(self.run.probes(), share)
        baseline_id, metric = baseline.task_id, self.request.metric
        rows = self.run.parts.read(["task_id", "probe", "sample_id", "outcome", metric.value])
        new = get_analysis(self.request.analysis).next_stage(
            self.request.parameters,
            depth=manifest.depth,
            probe_digests=list(manifest.probes.values()),
            tasks=tasks,
            effects=mean_effects(rows, metric=metric, baseline_id=baseline_id, held_out=held_out),
            sizes=effect_sizes(rows, metric=metric, baseline_id=baseline_id, held_out=held_out),
            similarity=self.run.similarity.read,
        )
        shards = pack(new, most=self.request.shard_size or sizing.FIRST_SHARD_TASKS)
        self.run.write_plan([*self._seen.shards, *shards], complete=not new)


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
            if driver.refusal is not None and end.state == "refused":
                raise _refused(driver.refusal)
            return end
        timeout = poll_seconds


def _refused(refusal: Refused) -> NeuroscanError:
    error = NeuroscanError(refusal.error)
    error.exit_code = refusal.exit_code
    return error
