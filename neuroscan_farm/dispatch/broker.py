"""What the farm keeps on its broker besides messages. The only module, with `redis_server`, that knows Redis.

Everything here may vanish at any moment and nothing is lost: the truth about a run is its directory. Kept are

    runs              registered runs, so that any reconciler picks them up
    claim:RUN:SHARD   who works on a shard: a token that expires unless it is beaten
    running:RUN       the same in words (worker, process, task); it outlives the claim and so tells of a death
    sent:RUN          which orders went out, and when they were last known to be queued
    reports:RUN       deaths, failures and refusals that the coordinator has not put on record yet
    lease:RUN         which reconciler acts for a run now; a courtesy, correctness does not rest on it
    ended:RUN         how a run ended
    worker:NAME       a worker's sign of life
    epoch             made anew when it is missing: a broker without it was wiped

Times are the broker's own clock, in seconds, so that the clocks of machines need not agree.
"""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, ParamSpec, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from neuroscan_farm.dispatch import broker_scripts
from neuroscan_farm.dispatch.broker_url import check_url, client_url, redacted
from neuroscan_farm.dispatch.farm_records import Ended, OrderName, Presence, Report, Running, Timings
from neuroscan_farm.errors import BrokerError

_P = ParamSpec("_P")
_R = TypeVar("_R")

_KEEP_ENDED_SECONDS = 7 * 24 * 3600


def _reaching(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn every failure to talk to the broker into a BrokerError that names it."""

    @functools.wraps(method)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(*args, **kwargs)
        except (redis.RedisError, OSError) as error:
            raise _explained(cast("Broker", args[0]).url, error) from error

    return wrapped


def _explained(url: str, error: Exception) -> BrokerError:
    text = str(error)
    if isinstance(error, redis.AuthenticationError) or "NOAUTH" in text or "WRONGPASS" in text:
        return BrokerError(
            f"broker {redacted(url)}: it refuses us ({text}); "
            "write the password as redis://:PASSWORD@HOST:PORT/0, best in NEUROSCAN_BROKER_URL"
        )
    return BrokerError(
        f"broker {redacted(url)}: out of reach ({text}); "
        "start one with `neuroscan-farm up`, or set --broker or NEUROSCAN_BROKER_URL"
    )


class Broker:
    """The farm's blackboard on Redis; one object may serve several threads.

    Args:
        url: redis://, rediss:// or redis+socket://, with the password inside where one is needed.
        queue: the name of the farm's queue; all keys begin with it, so that farms can share a Redis.
        timings: how patient to be.
        client: another client in place of the URL's (tests).
    """

    def __init__(
        self,
        url: str,
        *,
        queue: str = "neuroscan",
        timings: Timings | None = None,
        client: redis.Redis | None = None,
    ) -> None:
        self.url = check_url(url)
        self.queue = queue
        self.timings = timings or Timings()
        try:
            self._redis: Any = client or redis.Redis.from_url(
                client_url(url),
                decode_responses=True,
                encoding_errors="replace",  # the queue may hold anything
                socket_timeout=5.0,  # nothing here blocks on purpose; a frozen Redis must not freeze us
                socket_connect_timeout=5.0,
                health_check_interval=30,
                retry=Retry(NoBackoff(), 1),  # one more try on a connection that went stale
            )
        except ValueError as error:
            raise BrokerError(f"broker {redacted(url)}: {error}") from error
        self._claim = self._redis.register_script(broker_scripts.CLAIM)
        self._beat = self._redis.register_script(broker_scripts.BEAT)
        self._release = self._redis.register_script(broker_scripts.RELEASE)
        self._bury = self._redis.register_script(broker_scripts.BURY)
        self._lease = self._redis.register_script(broker_scripts.LEASE)

    def _key(self, *parts: str) -> str:
        return ":".join((self.queue, *parts))

    @_reaching
    def ping(self) -> None:
        """Make sure that the broker answers.

        Raises:
            BrokerError: it is out of reach, or refuses the password.
        """
        self._redis.ping()

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()

    @_reaching
    def now(self) -> float:
        """The broker's clock, in seconds since 1970."""
        seconds, microseconds = self._redis.time()
        return float(seconds) + float(microseconds) / 1e6

    @_reaching
    def epoch(self) -> str:
        """The broker's identity; another one than before says that it was wiped in between."""
        self._redis.set(self._key("epoch"), uuid.uuid4().hex, nx=True)
        return str(self._redis.get(self._key("epoch")))

    # Runs

    @_reaching
    def register(self, run_id: str, run_dir: str) -> None:
        """Put a run into the care of the farm; whoever reconciles sends its orders."""
        if not self._redis.hexists(self._key("runs"), run_id):
            self._redis.delete(self._key("reports", run_id))  # of workers that spoke after the run had ended
        with self._redis.pipeline() as pipe:
            pipe.hset(self._key("runs"), run_id, run_dir)
            pipe.delete(self._key("ended", run_id))
            pipe.execute()

    @_reaching
    def runs(self) -> dict[str, str]:
        """The runs in the farm's care: run id -> run directory."""
        return dict(self._redis.hgetall(self._key("runs")))

    @_reaching
    def unregister(self, run_id: str, ended: Ended) -> None:
        """Take a run out of the farm's care and remember for a while how it ended."""
        with self._redis.pipeline() as pipe:
            pipe.hdel(self._key("runs"), run_id)
            for kind in ("running", "sent", "reports", "lease"):
                pipe.delete(self._key(kind, run_id))
            pipe.set(self._key("ended", run_id), json.dumps(ended), ex=_KEEP_ENDED_SECONDS)
            pipe.execute()

    @_reaching
    def ended(self, run_id: str) -> Ended | None:
        """How a run ended; None while it goes on, or where nobody knows."""
        text = self._redis.get(self._key("ended", run_id))
        return Ended(*json.loads(text)) if text else None

    @_reaching
    def take_lease(self, run_id: str, holder: str) -> bool:
        """Become, or stay, the one reconciler that acts for a run; False while another one is."""
        milliseconds = int(self.timings.lease_ttl * 1000)
        return bool(self._lease(keys=[self._key("lease", run_id)], args=[holder, milliseconds]))

    # Claims

    @_reaching
    def claim(self, run_id: str, running: Running) -> bool:
        """Take a shard; False where another worker has it, or the run is in the farm's care no more."""
        keys = [
            self._key("claim", run_id, running.shard_id),
            *self._run_keys(run_id, "running", "sent", "reports"),
            self._key("runs"),
        ]
        arguments: list[str | int] = [running.token, self._ttl(), running.shard_id, _dump(running), run_id]
        return bool(self._claim(keys=keys, args=arguments))

    @_reaching
    def beat(self, run_id: str, running: Running) -> bool:
        """Say that the shard is still worked on, and on which task; False where another worker has it now."""
        keys = [self._key("claim", run_id, running.shard_id), self._key("running", run_id)]
        return bool(
            self._beat(keys=keys, args=[running.token, self._ttl(), running.shard_id, _dump(running)])
        )

    @_reaching
    def release(self, run_id: str, running: Running, report: Report | None = None) -> bool:
        """Give a shard back, with what went wrong if something did; False where it was ours no more."""
        keys = [self._key("claim", run_id, running.shard_id), *self._run_keys(run_id, "running", "reports")]
        text = _dump(report) if report else ""
        return bool(self._release(keys=keys, args=[running.token, running.shard_id, text]))

    @_reaching
    def running(self, run_id: str) -> list[Running]:
        """The shards of a run that are in a worker's hands, or were when it died."""
        texts = self._redis.hvals(self._key("running", run_id))
        return [Running(**json.loads(text)) for text in texts]

    @_reaching
    def claimed(self, run_id: str, running: Iterable[Running]) -> set[str]:
        """The shards among `running` whose claim holds."""
        records = list(running)
        if not records:
            return set()
        tokens = self._redis.mget([self._key("claim", run_id, record.shard_id) for record in records])
        return {record.shard_id for record, token in zip(records, tokens, strict=True) if token is not None}

    @_reaching
    def bury(self, run_id: str, running: Running, *, witnessed: bool = False) -> bool:
        """Report the death of a shard's worker; False where it was reported already or the shard lives on.

        Args:
            run_id: the run.
            running: the record that it left.
            witnessed: its process is known to be gone, so its claim need not run out first.
        """
        keys = [
            self._key("claim", run_id, running.shard_id),
            *self._run_keys(run_id, "running", "reports", "sent"),
        ]
        token = running.token if witnessed else ""
        return bool(self._bury(keys=keys, args=[running.shard_id, _dump(running), token]))

    @_reaching
    def drop(self, run_id: str, running: Running) -> None:
        """Forget a record without a report: the part is there, so whoever left it had finished."""
        self._redis.hdel(self._key("running", run_id), running.shard_id)

    # Reports

    @_reaching
    def reports(self, run_id: str) -> list[tuple[str, Report]]:
        """What went wrong and is not settled; each with the receipt that settles it."""
        texts = self._redis.lrange(self._key("reports", run_id), 0, -1)
        return [(text, _report(json.loads(text))) for text in texts]

    @_reaching
    def settle(self, run_id: str, receipts: Iterable[str]) -> None:
        """Forget reports that are on record now."""
        for receipt in receipts:
            self._redis.lrem(self._key("reports", run_id), 0, receipt)

    # Orders

    @_reaching
    def note_sent(self, run_id: str, shards: Iterable[str]) -> None:
        """Remember that orders for these shards are queued now."""
        now = self.now()
        stamps = dict.fromkeys(shards, f"{now:.3f}")
        if stamps:
            self._redis.hset(self._key("sent", run_id), mapping=stamps)

    @_reaching
    def sent(self, run_id: str) -> dict[str, float]:
        """Shards with an order that nobody has claimed, and when it was last known to be queued."""
        return {shard: float(at) for shard, at in self._redis.hgetall(self._key("sent", run_id)).items()}

    @_reaching
    def forget_sent(self, run_id: str, shards: Iterable[str]) -> None:
        """Forget orders that were carried out, or lost."""
        gone = list(shards)
        if gone:
            self._redis.hdel(self._key("sent", run_id), *gone)

    @_reaching
    def queued(self) -> dict[str, set[str]]:
        """The orders that wait in the queue: run id -> shards."""
        waiting: dict[str, set[str]] = {}
        for text in self._redis.lrange(self.queue, 0, -1):
            try:
                name = str(json.loads(text)["headers"]["id"])
            except (ValueError, KeyError, TypeError):
                continue  # not one of ours; the worker that takes it will say so
            order = OrderName.read(name)
            if order is not None:
                waiting.setdefault(order.run_id, set()).add(order.shard_id)
        return waiting

    # Workers

    @_reaching
    def show_presence(self, presence: Presence) -> None:
        """Say that a worker lives."""
        ttl = int(self.timings.presence_ttl * 1000)
        self._redis.set(self._key("worker", presence.name), _dump(presence), px=ttl)

    @_reaching
    def end_presence(self, name: str) -> None:
        """Say that a worker left."""
        self._redis.delete(self._key("worker", name))

    @_reaching
    def workers(self) -> list[Presence]:
        """The workers that live, by name, each with the shard and the task in its hands."""
        keys = sorted(self._redis.scan_iter(self._key("worker", "*"), count=1000))
        texts = self._redis.mget(keys) if keys else []
        busy = {record.worker: (run, record) for run in self.runs() for record in self.running(run)}
        found = []
        for text in texts:
            if text is None:
                continue
            fields = json.loads(text)
            if fields["name"] in busy:
                run, record = busy[fields["name"]]
                fields |= {"run_id": run, "shard_id": record.shard_id}
                fields |= {"task_id": record.task_id, "since": record.since}
            found.append(Presence(**fields))
        return found

    def _run_keys(self, run_id: str, *kinds: str) -> list[str]:
        return [self._key(kind, run_id) for kind in kinds]

    def _ttl(self) -> int:
        return int(self.timings.claim_ttl * 1000)


def _dump(value: Running | Report | Presence) -> str:
    return json.dumps(asdict(value), sort_keys=True)


def _report(fields: dict[str, Any]) -> Report:
    if "token" not in fields:
        return Report(**fields)
    record = Running(**fields)  # what a dead worker left
    doing = f"task {record.task_id}" if record.task_id else "loading the model"
    error = (
        f"worker {record.worker} (process {record.pid} on {record.host}) vanished while it was at {doing}: "
        "killed, out of memory, or cut off from the broker"
    )
    return Report(record.shard_id, record.worker, record.attempt, record.task_id, error, None)
