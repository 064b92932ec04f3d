"""Claims under any order of events, by a model: who holds a shard, who died, and what was said of it."""

from __future__ import annotations

import dataclasses
from collections import Counter

import fakeredis
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import sampled_from

from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.farm_records import Report, RunEntry, Running

RUN = "duplication-tiny-0123456789"
SHARDS = ("s000000000000", "s000000000001")
workers = sampled_from(["w1", "w2"])
shards = sampled_from(SHARDS)


class Claims(RuleBasedStateMachine):
    """Two workers, two shards, a broker; a claim may run out at any moment, and a worker may die or freeze at any."""

    def __init__(self) -> None:
        super().__init__()
        self.client = fakeredis.FakeRedis(decode_responses=True)
        self.farm = Broker("redis://nowhere", client=self.client)
        self.farm.register(RUN, RunEntry("/runs/r", "0123456789abcdef"))
        self.records: dict[tuple[str, str], Running] = {}  # what each worker believes that it holds
        self.expired: set[str] = set()  # tokens whose claim ran out at least once
        self.buried: set[str] = set()  # tokens whose death was reported
        self.failed: set[str] = set()  # tokens whose holder reported a failure itself
        self.tokens = 0

    def holder(self, shard: str) -> str | None:
        token: str | None = self.client.get(f"neuroscan:claim:{RUN}:{shard}")
        return token

    @rule(worker=workers, shard=shards)
    def take(self, worker: str, shard: str) -> None:
        if (worker, shard) in self.records:
            return
        self.tokens += 1
        record = Running(shard, f"t{self.tokens}", worker, "host", 1, 1, None, 1.0)
        free = self.holder(shard) is None
        left = [old for old in self.farm.running(RUN) if old.shard_id == shard]
        assert self.farm.claim(RUN, record) == free
        if free:
            self.records[worker, shard] = record
            self.buried |= {old.token for old in left}

    @rule(worker=workers, shard=shards)
    def beat(self, worker: str, shard: str) -> None:
        record = self.records.get((worker, shard))
        if record is None:
            return
        record = dataclasses.replace(record, task_id=f"task-{self.tokens}")
        others = self.holder(shard) not in (None, record.token)
        expected = not others and record.token not in self.buried
        assert self.farm.beat(RUN, record) == expected
        if expected:
            self.records[worker, shard] = record
            assert self.holder(shard) == record.token
        else:
            del self.records[worker, shard]  # it drops the shard

    @rule(worker=workers, shard=shards, failed=sampled_from([True, False]))
    def release(self, worker: str, shard: str, failed: bool) -> None:
        record = self.records.pop((worker, shard), None)
        if record is None:
            return
        report = Report(shard, worker, 1, record.task_id, "a bug", None) if failed else None
        held = self.holder(shard) == record.token
        assert self.farm.release(RUN, record, report) == held
        if held and failed:
            self.failed.add(record.token)

    @rule(worker=workers, shard=shards)
    def die(self, worker: str, shard: str) -> None:
        self.records.pop((worker, shard), None)

    @rule(shard=shards)
    def expire(self, shard: str) -> None:
        token = self.holder(shard)
        if token is not None:
            self.expired.add(token)
            self.client.delete(f"neuroscan:claim:{RUN}:{shard}")

    @rule(shard=shards, witnessed=sampled_from([True, False]))
    def bury(self, shard: str, witnessed: bool) -> None:
        for record in self.farm.running(RUN):
            if record.shard_id != shard:
                continue
            alive = any(held.token == record.token for held in self.records.values())
            if witnessed and alive:
                continue  # nobody witnesses the death of who lives
            holder = self.holder(shard)
            expected = holder is None or (witnessed and holder == record.token)
            assert self.farm.bury(RUN, record, witnessed=witnessed) == expected
            assert not self.farm.bury(RUN, record, witnessed=witnessed), "once"
            if expected:
                self.buried.add(record.token)

    @precondition(lambda self: self.farm.reports(RUN))
    @rule()
    def look_twice_and_change_nothing(self) -> None:
        assert self.farm.reports(RUN) == self.farm.reports(RUN)

    @invariant()
    def a_shard_is_held_by_two_only_after_a_claim_ran_out(self) -> None:
        for shard in SHARDS:
            believers = [record.token for (_, name), record in self.records.items() if name == shard]
            if len(believers) > 1:
                assert set(believers) & self.expired

    @invariant()
    def every_death_and_every_failure_is_reported_once(self) -> None:
        reports = Counter(report.error == "a bug" for _, report in self.farm.reports(RUN))
        assert reports[True] == len(self.failed)
        assert reports[False] == len(self.buried)

    @invariant()
    def whoever_is_on_record_dead_holds_nothing(self) -> None:
        held = {self.holder(shard) for shard in SHARDS}
        assert not held & self.buried
        assert not {record.token for record in self.farm.running(RUN)} & self.buried


TestClaims = Claims.TestCase
TestClaims.settings = settings(max_examples=150, stateful_step_count=30)
