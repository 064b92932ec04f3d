"""Claims on the broker: who works on a shard, who died of it, who refuses a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from neuroscan_farm.dispatch import broker_scripts
from neuroscan_farm.dispatch.broker_connection import KEEP_SECONDS, BrokerConnection, reaching
from neuroscan_farm.dispatch.farm_records import Refusal, Report, Running


class Claims(BrokerConnection):
    """The part of the broker that workers take shards by, and that tells of their deaths and refusals."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._claim = self._redis.register_script(broker_scripts.CLAIM)
        self._beat = self._redis.register_script(broker_scripts.BEAT)
        self._release = self._redis.register_script(broker_scripts.RELEASE)
        self._bury = self._redis.register_script(broker_scripts.BURY)

    @reaching
    def claim(self, run_id: str, running: Running) -> bool:
        """Take a shard; False where another worker has it, or the run is in the farm's care no more."""
        keys = [
            self._key("claim", run_id, running.shard_id),
            *self._run_keys(run_id, "running", "sent", "reports", "dead"),
            self._key("runs"),
        ]
        arguments = [running.token, self._ttl(), running.shard_id, dump(running), run_id, KEEP_SECONDS]
        return bool(self._claim(keys=keys, args=arguments))

    @reaching
    def beat(self, run_id: str, running: Running) -> bool:
        """Say that the shard is still worked on, and on which task.

        Returns False where another worker has it now, or this one was reported dead meanwhile.
        """
        keys = [self._key("claim", run_id, running.shard_id), *self._run_keys(run_id, "running", "dead")]
        arguments = [running.token, self._ttl(), running.shard_id, dump(running), KEEP_SECONDS]
        return bool(self._beat(keys=keys, args=arguments))

    @reaching
    def release(self, run_id: str, running: Running, report: Report | None = None) -> bool:
        """Give a shard back, with what went wrong if something did; False where it was ours no more.

        A report with an exit code is a refusal: it is kept until the run is woken (`refusals`), and no death.
        """
        failure = refusal = ""
        if report is not None and report.exit_code is not None:
            kept = Refusal(
                report.worker,
                report.shard_id,
                report.attempt,
                report.error,
                report.exit_code,
                self.now(),
                report.passing,
            )
            refusal = dump(kept)
        elif report is not None:
            failure = dump(report)
        keys = [
            self._key("claim", run_id, running.shard_id),
            *self._run_keys(run_id, "running", "reports", "refused"),
        ]
        arguments = [running.token, running.shard_id, failure, running.worker, refusal, KEEP_SECONDS]
        return bool(self._release(keys=keys, args=arguments))

    @reaching
    def running(self, run_id: str) -> list[Running]:
        """The shards of a run that are in a worker's hands, or were when it died."""
        return read_all(Running, self._redis.hvals(self._key("running", run_id)))

    @reaching
    def bury(
        self, run_id: str, running: Running, *, witnessed: bool = False, error: str | None = None
    ) -> bool:
        """Report the death of a shard's worker; False where it was reported already or the shard lives on.

        Args:
            run_id: the run.
            running: the record that it left.
            witnessed: its process is known to be gone, so its claim need not run out first.
            error: what it died of; None where nobody knows.
        """
        keys = [
            self._key("claim", run_id, running.shard_id),
            *self._run_keys(run_id, "running", "reports", "sent", "dead"),
        ]
        token = running.token if witnessed else ""
        report = death_of(running, error)
        arguments = [running.shard_id, dump(running), token, dump(report), running.token, KEEP_SECONDS]
        return bool(self._bury(keys=keys, args=arguments))

    @reaching
    def drop(self, run_id: str, running: Running) -> None:
        """Forget a record without a report: the rows are there, so whoever left it had finished."""
        self._redis.hdel(self._key("running", run_id), running.shard_id)

    # Reports and refusals

    @reaching
    def reports(self, run_id: str) -> list[tuple[str, Report]]:
        """The deaths and failures that are not settled; each with the receipt that settles it."""
        return read_reports(self._redis.lrange(self._key("reports", run_id), 0, -1))

    @reaching
    def settle(self, run_id: str, receipts: Iterable[str]) -> None:
        """Forget reports that are on record now."""
        for receipt in receipts:
            self._redis.lrem(self._key("reports", run_id), 0, receipt)

    @reaching
    def refusals(self, run_id: str) -> dict[str, Refusal]:
        """The workers that cannot do a run, each with its reason."""
        return read_refusals(self._redis.hvals(self._key("refused", run_id)))

    @reaching
    def has_refused(self, worker: str, run_id: str) -> bool:
        """Whether a worker said that it cannot do a run."""
        return bool(self._redis.hexists(self._key("refused", run_id), worker))

    @reaching
    def forgive(self, worker: str, run_ids: Iterable[str]) -> None:
        """Forget what a worker refused: it may have what it lacked by now."""
        with self._redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.hdel(self._key("refused", run_id), worker)
            pipe.execute()

    def _ttl(self) -> int:
        return int(self.timings.claim_ttl * 1000)


def dump(value: Any) -> str:
    """A record as it is kept; equal records are equal texts."""
    return json.dumps(asdict(value), sort_keys=True)


def read_all(kind: type[Any], texts: Iterable[str]) -> list[Any]:
    """The records of a kind; what is none of it is left out."""
    found = []
    for text in texts:
        try:
            found.append(kind(**json.loads(text)))
        except (ValueError, TypeError):
            continue
    return found


def read_reports(texts: Iterable[str]) -> list[tuple[str, Report]]:
    """Reports with their receipts; the record of a dead worker (see the script CLAIM) is a report of its death."""
    found = []
    for text in texts:
        for record in read_all(Running, [text]):
            found.append((text, death_of(record, None)))
        for report in read_all(Report, [text]):
            found.append((text, report))
    return found


def read_refusals(texts: Iterable[str]) -> dict[str, Refusal]:
    """Refusals by worker."""
    return {refusal.worker: refusal for refusal in read_all(Refusal, texts)}


def death_of(running: Running, error: str | None) -> Report:
    """The report of a worker's death, from the record that it left."""
    doing = f"task {running.task_id}" if running.task_id else "loading the model"
    who = f"worker {running.worker} (process {running.pid} on {running.host})"
    if error is None:
        error = f"{who} vanished while it was at {doing}: killed, out of memory, or cut off from the broker"
    else:
        error = f"{who} at {doing}: {error}"
    return Report(running.shard_id, running.worker, running.attempt, running.task_id, error, None)
