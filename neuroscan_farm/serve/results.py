"""What runs have found, kept as long as their rows stay: findings, figures and the best of each.

A run that goes on is read again when its rows changed, but no oftener than a quarter of the time: reading a large one
takes seconds, and a heatmap that is some seconds old still fills.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.errors import NeuroscanError
from neuroscan_farm.serve.models import Best
from neuroscan_farm.serve.runs import LiveRun, Seen

if TYPE_CHECKING:
    from neuroscan_farm.report.circuits import Circuit
    from neuroscan_farm.report.findings import Findings

log = logging.getLogger(__name__)
T = TypeVar("T")
_MOST_FINDINGS = 12
_MOST_ROWS = 1_000_000  # of all findings that are kept together: about half a gigabyte
_MOST_DRAWN = 48
_PATIENCE = 3.0  # a reading that took a second is taken for new for so many seconds


@dataclass
class Found:
    """The findings of a run, as of one stamp; what is made of them is kept with them."""

    findings: Findings
    stamp: str
    made: float  # monotonic
    seconds: float  # that it took
    kept: dict[Any, Any] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def rows(self) -> int:
        """How many rows they are made of."""
        return sum(len(one.tasks) * len(one.samples) for one in self.findings.matrices.values())

    @cached_property
    def circuit(self) -> Circuit | None:
        """The run's pairs on its metric."""
        from neuroscan_farm.report.circuits import circuit_of

        return circuit_of(self.findings)

    def keep(self, key: object, make: Callable[[], T]) -> T:
        """Return what `make` made of these findings under this key, once."""
        with self.lock:
            if key not in self.kept:
                while len(self.kept) >= _MOST_DRAWN:
                    del self.kept[next(iter(self.kept))]
                self.kept[key] = make()
            made: T = self.kept[key]
            return made


class _Latest:
    """The findings that were used last; of large runs, few."""

    def __init__(self) -> None:
        self._held: OrderedDict[Any, Found] = OrderedDict()

    def get(self, key: object) -> Found | None:
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        return None

    def put(self, key: object, found: Found) -> None:
        self._held[key] = found
        self._held.move_to_end(key)
        while len(self._held) > 1 and (
            len(self._held) > _MOST_FINDINGS or sum(one.rows for one in self._held.values()) > _MOST_ROWS
        ):
            self._held.popitem(last=False)


class Results:
    """Reads findings when they are asked for, and the best of each run in the background."""

    def __init__(self) -> None:
        self._found = _Latest()
        self._bests: dict[
            str, tuple[str, Best | None, str | None]
        ] = {}  # run -> its rows' stamp, best, why none
        self._wanted: set[str] = set()
        self._lock = threading.Lock()
        self._locks: dict[tuple[str, Metric], threading.Lock] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="bests")
        self._closed = False
        self.version = 0  # grows whenever a best is known that was not

    def close(self) -> None:
        """Read no more."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def of(self, run: LiveRun, metric: Metric | None = None) -> Found:
        """Return what a run has found so far.

        Args:
            run: finished or not.
            metric: what to rank by; the request's own where None.

        Raises:
            RequestError: the probes cannot tell the metric.
            NeuroscanError: the run is damaged, or the store failed.
        """
        from neuroscan_farm.report.findings import read_findings

        chosen = metric or run.metric
        key = (run.directory.location, run.opened, chosen)
        with self._lock:
            lock = self._locks.setdefault((run.directory.location, chosen), threading.Lock())
        with lock:
            stamp = run.see().rows_stamp
            with self._lock:
                known = self._found.get(key)
            if known is not None:
                age = time.monotonic() - known.made
                if known.stamp == stamp or age < min(_PATIENCE * known.seconds, 30.0):
                    return known
            began = time.monotonic()
            named = None if chosen is run.metric else chosen
            findings = read_findings(run.directory, metric=named)
            found = Found(findings, stamp, time.monotonic(), time.monotonic() - began)
            with self._lock:
                self._found.put(key, found)
            return found

    def best(self, run: LiveRun, seen: Seen) -> tuple[Best | None, str | None]:
        """Return the best of a run, or why there is none; what is not known yet is worked out in the background."""
        known = self._bests.get(run.id)
        if known is not None and known[0] == seen.rows_stamp:
            return known[1], known[2]
        if not seen.overview.tasks_finished:
            return None, "nothing is measured yet"
        if known is None:
            told = _told_by_the_report(run, seen)
            if told is not None:
                self._bests[run.id] = (seen.rows_stamp, told, None)
                return told, None
        with self._lock:
            if run.id not in self._wanted and not self._closed:
                self._wanted.add(run.id)
                self._pool.submit(self._work_out, run, seen.rows_stamp)
        return (known[1], known[2]) if known else (None, "it is being worked out")

    def _work_out(self, run: LiveRun, stamp: str) -> None:
        try:
            findings = self.of(run).findings
            best = best_of(findings)
            why = None if best else _why_none(findings)
        except NeuroscanError as error:
            best, why = None, str(error)
        except Exception:  # the others must be worked out all the same
            log.exception("run %s: its best cannot be worked out", run.run_id)
            best, why = None, "it cannot be worked out; the server's log says why"
        self._bests[run.id] = (stamp, best, why)
        with self._lock:
            self._wanted.discard(run.id)
            self.version += 1


def best_of(findings: Findings) -> Best | None:
    """The best configuration over the probes; None where none has a rank."""
    from neuroscan_farm.report.metric_text import METRIC_TEXT

    ranked = findings.ranked()
    if not ranked:
        return None
    text, effect = METRIC_TEXT[findings.metric], ranked[0].results[None].effects[findings.metric]
    return Best(
        label=ranked[0].label,
        path=str(ranked[0].path),
        metric=findings.metric.value,
        effect=effect.mean,
        low=effect.low,
        high=effect.high,
        p_adjusted=effect.p_adjusted,
        no_interval=effect.no_interval,
        effect_text=text.change(effect.mean),
        interval_text=text.interval(effect),
        unit=text.unit,
        tasks_measured=findings.n_measured,
    )


def _why_none(findings: Findings) -> str:
    reasons = (c.results[None].unranked for c in findings.configurations)
    return next((reason for reason in reasons if reason), "there is none")


def _told_by_the_report(run: LiveRun, seen: Seen) -> Best | None:
    """The best as the run's own report tells it, where the report is of all rows that are there now."""
    from neuroscan_farm.domain.paths import LayerPath
    from neuroscan_farm.report.configurations import Configuration, single_block
    from neuroscan_farm.report.left_out import left_out_by, without_text
    from neuroscan_farm.report.metric_text import METRIC_TEXT
    from neuroscan_farm.statistics.effects import Effect

    if seen.overview.state != "finished" or seen.additions:
        return None
    depth = run.directory.manifest.depth
    try:
        place = run.directory.place.below("report")
        entry = place.entry("summary.json")
        if entry is None or entry.modified < run.directory.parts.look().last_commit:
            return None
        said = json.loads(place.read("summary.json"))
        if said["tasks_measured"] != seen.overview.tasks or said["ranked_by"] != run.metric.value:
            return None
        first = said["best"][0]
        path = LayerPath.parse(first["path"])
        effect = Effect(
            "", None, first["samples"], first["effect"], None, first["effect_low"], first["effect_high"]
        )
        block = single_block(path, depth=depth)
        label = Configuration("", path, block, 0, {}, None, without_text(left_out_by(path, depth))).label
        text = METRIC_TEXT[run.metric]
        return Best(
            label=label,
            path=str(path),
            metric=run.metric.value,
            effect=effect.mean,
            low=effect.low,
            high=effect.high,
            p_adjusted=first["p_adjusted"],
            no_interval=first["no_interval"],
            effect_text=text.change(effect.mean),
            interval_text=text.interval(effect),
            unit=text.unit,
            tasks_measured=said["tasks_measured"],
        )
    except (NeuroscanError, FileNotFoundError, ValueError, KeyError, IndexError, TypeError):
        return None  # of another version, or half written by somebody: the rows themselves are read
