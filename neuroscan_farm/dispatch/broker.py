"""What the farm keeps on its broker besides messages. With the `broker_*` and `redis_*` modules, all that knows Redis.

Everything here may vanish at any moment and nothing is lost: the truth about a run is its directory. Kept are

    runs              registered runs, so that any reconciler picks them up
    claim:RUN:SHARD   who works on a shard: a token that expires unless it is beaten
    running:RUN       the same in words (worker, process, task); it outlives the claim and so tells of a death
    dead:RUN          tokens whose death was reported, so that nobody comes back to life
    sent:RUN          which orders went out, and when they were last known to be queued
    reports:RUN       deaths and failures that the coordinator has not put on record yet
    refused:RUN       which workers cannot do the run, and why
    lease:RUN         which reconciler acts for a run now; a courtesy, correctness does not rest on it
    ended:RUN         how a run ended
    worker:NAME       a worker's sign of life; `workers` lists the names
    drain:NAME        whether a worker is asked to leave after its shard
    epoch             made anew when it is missing: a broker without it was wiped

What belongs to a run is deleted at its end; all of it expires should that be missed. Times are the broker's own clock,
in seconds, so that the clocks of machines need not agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from neuroscan_farm.dispatch import broker_scripts
from neuroscan_farm.dispatch.broker_claims import Claims, read_all, read_refusals, read_reports
from neuroscan_farm.dispatch.broker_connection import KEEP_SECONDS, reaching
from neuroscan_farm.dispatch.broker_orders import Orders, read_orders, read_stamps
from neuroscan_farm.dispatch.broker_workers import Workers, at_work
from neuroscan_farm.dispatch.farm_records import Ended, Presence, RunEntry, Running, RunState, Snapshot
from neuroscan_farm.dispatch.wire import check_location, model_queue

_OF_A_RUN = ("running", "dead", "sent", "reports", "refused", "lease")


class Broker(Claims, Orders, Workers):
    """The farm's blackboard on Redis; see `BrokerConnection` for what it is made of."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._lease = self._redis.register_script(broker_scripts.LEASE)
        self._end_lease = self._redis.register_script(broker_scripts.END_LEASE)

    # Runs

    @reaching
    def register(self, run_id: str, entry: RunEntry) -> None:
        """Put a run into the care of the farm, or wake it: what its workers refused is forgotten."""
        known = self._redis.hexists(self._key("runs"), run_id)
        with self._redis.pipeline() as pipe:
            if not known:
                pipe.delete(self._key("reports", run_id))  # of workers that spoke after the run had ended
            pipe.hset(self._key("runs"), run_id, json.dumps(asdict(entry), sort_keys=True))
            pipe.delete(self._key("ended", run_id), self._key("refused", run_id))
            pipe.execute()

    @reaching
    def runs(self) -> dict[str, RunEntry]:
        """The runs in the farm's care."""
        return _read_entries(self._redis.hgetall(self._key("runs")))

    @reaching
    def entry(self, run_id: str) -> RunEntry | None:
        """A run in the farm's care; None where it is not, or not any more."""
        text = self._redis.hget(self._key("runs"), run_id)
        return _read_entries({run_id: text}).get(run_id) if text else None

    @reaching
    def runs_for(self, worker: str) -> dict[str, RunEntry]:
        """The runs in the farm's care that a worker has not refused."""
        runs = self.runs()
        with self._redis.pipeline(transaction=False) as pipe:
            for run_id in runs:
                pipe.hexists(self._key("refused", run_id), worker)
            refused = pipe.execute()
        return {run_id: entry for (run_id, entry), no in zip(runs.items(), refused, strict=True) if not no}

    @reaching
    def unregister(self, run_id: str, ended: Ended) -> None:
        """Take a run out of the farm's care and remember for a while how it ended."""
        entry = self.entry(run_id)
        with self._redis.pipeline() as pipe:
            pipe.hdel(self._key("runs"), run_id)
            pipe.delete(*self._run_keys(run_id, *_OF_A_RUN))
            pipe.set(self._key("ended", run_id), json.dumps(ended), ex=KEEP_SECONDS)
            pipe.execute()
        if entry is not None:
            self._purge(run_id, [entry.model])

    @reaching
    def ended(self, run_id: str) -> Ended | None:
        """How a run ended; None while it goes on, or where nobody knows."""
        text = self._redis.get(self._key("ended", run_id))
        return Ended(*json.loads(text)) if text else None

    @reaching
    def take_lease(self, run_id: str, holder: str) -> bool:
        """Become, or stay, the one reconciler that acts for a run; False while another one is."""
        milliseconds = int(self.timings.lease_ttl * 1000)
        return bool(self._lease(keys=[self._key("lease", run_id)], args=[holder, milliseconds]))

    @reaching
    def end_lease(self, run_id: str, holder: str) -> None:
        """Let another reconciler act for a run, if it is this one that does."""
        self._end_lease(keys=[self._key("lease", run_id)], args=[holder])

    # The whole

    @reaching
    def queued(self) -> dict[str, set[str]]:
        """The orders that wait in the queues of the farm and of its runs' models: run id -> shards."""
        models = {entry.model for entry in self.runs().values()}
        with self._redis.pipeline(transaction=False) as pipe:
            for name in self._lists(models):
                pipe.lrange(name, 0, -1)
            return read_orders(text for found in pipe.execute() for text in found)

    @reaching
    def all_running(self) -> dict[str, list[Running]]:
        """The shards of every registered run that are in a worker's hands, or were when it died."""
        run_ids = list(self._redis.hkeys(self._key("runs")))
        with self._redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.hvals(self._key("running", run_id))
            found = pipe.execute()
        return {run_id: read_all(Running, texts) for run_id, texts in zip(run_ids, found, strict=True)}

    @reaching
    def workers(self) -> list[Presence]:
        """The workers that live, by name, each with the shard and the task in its hands."""
        return list(at_work(self.present(), self.all_running()))

    @reaching
    def snapshot(self, run_ids: Iterable[str] | None = None, *, models: Iterable[str] = ()) -> Snapshot:
        """Look at the queues, the workers and the runs at once; four round trips, however many runs there are.

        Args:
            run_ids: the runs whose state is wanted; None is all registered ones.
            models: fingerprints of models whose queues are looked at besides those of the registered runs.
        """
        now, epoch, runs = self.now(), self.epoch(), self.runs()
        wanted = list(runs) if run_ids is None else list(run_ids)
        lists = self._lists({entry.model for entry in runs.values()} | set(models))
        # In one step, and in the order in which an order travels, so that one on its way is seen at least once.
        with self._redis.pipeline(transaction=True) as pipe:
            for name in lists:
                pipe.lrange(name, 0, -1)
            for run_id in wanted:
                pipe.hvals(self._key("running", run_id))
                pipe.hgetall(self._key("sent", run_id))
                pipe.lrange(self._key("reports", run_id), 0, -1)
                pipe.hvals(self._key("refused", run_id))
            answers = pipe.execute()
        queued = read_orders(text for found in answers[: len(lists)] for text in found)
        of_runs = answers[len(lists) :]
        running: dict[str, list[Running]] = {}
        for position, run_id in enumerate(wanted):
            running[run_id] = read_all(Running, of_runs[4 * position])
        claimed = self._claimed(running)
        states = {}
        for position, run_id in enumerate(wanted):
            _, sent, reports, refused = of_runs[4 * position : 4 * position + 4]
            states[run_id] = RunState(
                queued=frozenset(queued.get(run_id, ())),
                running=tuple(running[run_id]),
                claimed=frozenset(claimed[run_id]),
                sent=read_stamps(sent),
                reports=tuple(read_reports(reports)),
                refusals=read_refusals(refused),
            )
        return Snapshot(now, epoch, runs, at_work(self.present(), running), states)

    def _claimed(self, running: dict[str, list[Running]]) -> dict[str, set[str]]:
        claimed: dict[str, set[str]] = {run_id: set() for run_id in running}
        records = [(run_id, record.shard_id) for run_id, found in running.items() for record in found]
        if records:
            tokens = self._redis.mget([self._key("claim", run_id, shard) for run_id, shard in records])
            for (run_id, shard), token in zip(records, tokens, strict=True):
                if token is not None:
                    claimed[run_id].add(shard)
        return claimed


def _read_entries(fields: dict[str, str]) -> dict[str, RunEntry]:
    """The registry; an entry that is none is left out, so that it cannot stop the others."""
    entries: dict[str, RunEntry] = {}
    for run_id, text in fields.items():
        for entry in read_all(RunEntry, [text]):
            try:
                check_location(entry.location)
                model_queue("", entry.model)
            except (ValueError, TypeError):
                continue
            entries[run_id] = entry
    return entries
