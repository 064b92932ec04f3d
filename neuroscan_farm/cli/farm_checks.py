"""What `doctor` looks at on the farm: the broker, its clock, the workers, the runs in its care."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import neuroscan_farm
from neuroscan_farm.cli.checks import Check, fail, ok, size, warn
from neuroscan_farm.cli.machine_checks import SKEW_SECONDS
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_health import BrokerExamination, BrokerHealth
from neuroscan_farm.dispatch.broker_url import redacted
from neuroscan_farm.dispatch.farm_records import Presence, RunEntry
from neuroscan_farm.errors import BrokerError, NeuroscanError
from neuroscan_farm.store.run_directory import RunDirectory

_OLDEST = (6,)
_SLOW_SECONDS = 0.05
_FULL = 0.8  # of maxmemory


def farm_checks(url: str, queue: str, *, asked_for: bool, run_location: Callable[[str], str]) -> list[Check]:
    """Everything about the farm.

    Args:
        url: the broker's.
        queue: the farm's.
        asked_for: whether somebody named this broker; without one, its absence is no failure.
        run_location: where a registered run is on this machine.
    """
    try:
        examination = BrokerExamination(url, queue=queue)
        health = examination.examine()
        farm = Broker(url, queue=queue)
        workers, now, runs = farm.workers(), farm.now(), farm.runs()
    except BrokerError as error:
        if asked_for:
            return [fail("broker", str(error), "", exit_code=4)]
        return [
            warn("broker", f"none at {redacted(url)}", "`run` needs none; `neuroscan-farm up` starts one")
        ]
    examination.close()
    farm.close()
    return [
        *check_broker(redacted(url), health),
        *check_workers(workers, now, queue=queue),
        *check_runs(runs, run_location),
    ]


def check_broker(shown: str, health: BrokerHealth) -> list[Check]:
    """The broker itself."""
    version = ".".join(map(str, health.version))
    checks = []
    if health.version < _OLDEST:
        checks.append(
            fail("broker", f"{health.product} {version} at {shown}", "version 6 or later", exit_code=4)
        )
    elif health.latency_seconds > _SLOW_SECONDS:
        found = f"{health.product} {version} at {shown}: {health.latency_seconds * 1000:.0f} ms for an answer"
        checks.append(warn("broker", found, "look at the network; workers only slow down a little"))
    else:
        found = f"{health.product} {version} at {shown}, {health.latency_seconds * 1000:.1f} ms"
        checks.append(ok("broker", found))
    if health.write_error is not None:
        mend = "free its memory or disk, and see its log"
        checks.append(fail("broker writes", health.write_error, mend, exit_code=4))
    checks += [_eviction(health), _memory(health), _kept(health), _access(health)]
    if abs(health.clock_ahead_seconds) > SKEW_SECONDS:
        way = "ahead of" if health.clock_ahead_seconds > 0 else "behind"
        found = f"the broker's is {abs(health.clock_ahead_seconds):.1f} s {way} ours"
        checks.append(warn("broker clock", found, "set the clocks, with chrony or ntpd"))
    else:
        checks.append(ok("broker clock", f"the broker's is within {SKEW_SECONDS:.0f} s of ours"))
    return checks


def _eviction(health: BrokerHealth) -> Check:
    if health.eviction is None:
        return warn("eviction", "the broker does not say its policy", "it should be noeviction")
    if health.eviction != "noeviction":
        found = f"maxmemory-policy is {health.eviction}: claims and runs may vanish"
        return fail("eviction", found, "CONFIG SET maxmemory-policy noeviction", exit_code=4)
    return ok("eviction", "maxmemory-policy is noeviction")


def _memory(health: BrokerHealth) -> Check:
    if not health.memory_most:
        return ok("broker memory", f"{size(health.memory_used)} used, no limit")
    found = f"{size(health.memory_used)} used of {size(health.memory_most)}"
    if health.memory_used > _FULL * health.memory_most:
        return warn(
            "broker memory",
            found,
            "raise maxmemory; the farm's own keys take less than a megabyte for each run",
        )
    return ok("broker memory", found)


def _kept(health: BrokerHealth) -> Check:
    if health.appends:
        return ok("persistence", "an append-only file")
    if health.snapshots:
        return ok("persistence", "snapshots; what came after the last one is sent again after a restart")
    if health.local:
        return ok("persistence", "none; after a restart of the broker, orders are sent again")
    mend = "appendonly yes; without it, runs are registered anew only while a worker lives"
    return warn("persistence", "none", mend)


def _access(health: BrokerHealth) -> Check:
    said = f"{'a' if health.password else 'no'} password, {'TLS' if health.tls else 'no TLS'}"
    if health.local:
        return ok("access", f"{said}; on this machine alone")
    if not health.password:
        return warn("access", said, "set requirepass: whoever reaches the broker can send orders")
    if not health.tls:
        return warn("access", said, "use rediss:// where others can listen to the network")
    return ok("access", said)


def check_workers(workers: Sequence[Presence], now: float, *, queue: str) -> list[Check]:
    """The workers of the farm at a time of the broker's, and whether they agree with each other and with us."""
    if not workers:
        return [warn("workers", f"none on queue {queue}", "start one: neuroscan-farm worker")]
    shown = ", ".join(f"{worker.name} ({worker.state})" for worker in workers[:8])
    more = f" and {len(workers) - 8} more" if len(workers) > 8 else ""
    checks = [ok("workers", f"{len(workers)} on queue {queue}: {shown}{more}")]
    ours = neuroscan_farm.__version__
    others = [
        f"{worker.name} has {worker.version or 'an older one'}"
        for worker in workers
        if worker.version != ours
    ]
    if others:
        mend = "give all machines the same version; rows of different versions do not mix"
        checks.append(warn("versions", f"ours is {ours}, {', '.join(others)}", mend))
    timings = Counter(worker.timings for worker in workers)
    if len(timings) > 1:
        usual = timings.most_common(1)[0][0]
        odd = ", ".join(worker.name for worker in workers if worker.timings != usual)
        mend = "start all workers with the same --claim-ttl-seconds, --beat-seconds and so on"
        checks.append(warn("timings", f"workers differ in their patience: {odd}", mend))
    return [*checks, *_clocks(workers, now)]


def _clocks(workers: Sequence[Presence], now: float) -> list[Check]:
    ahead = {
        f"{worker.name} on {worker.host}": worker.clock - (now - worker.heartbeat_age)
        for worker in workers
        if worker.clock
    }
    wrong = [f"{who} by {seconds:+.1f} s" for who, seconds in ahead.items() if abs(seconds) > SKEW_SECONDS]
    if wrong:
        found = f"differ from the broker's: {', '.join(wrong)}"
        return [warn("worker clocks", found, "set the clocks, with chrony or ntpd")]
    return [ok("worker clocks", f"within {SKEW_SECONDS:.0f} s of the broker's")]


def check_runs(runs: dict[str, RunEntry], run_location: Callable[[str], str]) -> list[Check]:
    """The runs in the farm's care: whether they are where they should be."""
    if not runs:
        return [ok("registered", "no run is in the farm's care")]
    checks = []
    for run_id, entry in sorted(runs.items()):
        try:
            found = RunDirectory.open(run_location(entry.location)).manifest.run_id
        except NeuroscanError as error:
            mend = (
                "nobody can drive it, unless another machine sees it: bring it back, "
                f"or take it out of the farm's care: neuroscan-farm cancel {run_id}"
            )
            checks.append(warn("registered", f"run {run_id}: {error}", mend))
            continue
        if found != run_id:
            mend = f"neuroscan-farm cancel {run_id}, and submit it anew"
            checks.append(warn("registered", f"run {run_id}: {entry.location} holds run {found}", mend))
    good = len(runs) - len(checks)
    return [
        *([ok("registered", f"{good} runs in the farm's care, all to be opened here")] if good else []),
        *checks,
    ]
