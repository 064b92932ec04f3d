"""The locked split: samples that are held out of all choices, and tell afterwards what the choice is worth.

Whatever is best on the samples that chose it looks better than it is (the winner's curse). An effect on samples that
had no part in the choice has no such bias, and needs no correction for how many configurations were tried.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.errors import RequestError

LEAST_SAMPLES = 8  # of a probe, on either side
HeldOut: TypeAlias = Mapping[str, frozenset[str]]  # probe -> the ids of its samples that are held out


def held_out_samples(probes: Iterable[Probe], share: float) -> HeldOut:
    """Return the samples of each probe that are held out: `share` of them, to the nearest whole number.

    Those whose id has the smallest SHA-256. So the split is fixed by the samples' ids alone: not by their order,
    nor by the probe's name, nor by the other probes.
    """
    return {
        probe.name: frozenset(
            sorted((sample.sample_id for sample in probe.samples), key=_place)[: _count(probe, share)]
        )
        for probe in probes
    }


def check_split(probes: Iterable[Probe], share: float) -> None:
    """Refuse a split that leaves too few samples of a probe on one side.

    Raises:
        RequestError: with the numbers of each such probe, and what would do.
    """
    small = []
    for probe in probes:
        n, held = len(probe.samples), _count(probe, share)
        if min(held, n - held) < LEAST_SAMPLES:
            line = f"confirm {share:g} leaves {n - held} of the {n} samples of probe {probe.name} to choose by and {held} "
            line += f"to confirm with; {LEAST_SAMPLES} are needed on either side: "
            if n >= 2 * LEAST_SAMPLES:
                least, most = LEAST_SAMPLES / n, 1 - LEAST_SAMPLES / n
                line += f"use --confirm {_shown(least, up=True)} to {_shown(most, up=False)}, or more samples"
            else:
                line += f"give the probe {2 * LEAST_SAMPLES} samples or more, or leave out --confirm"
            small.append(line)
    if small:
        raise RequestError("\n".join(small))


def _count(probe: Probe, share: float) -> int:
    return round(share * len(probe.samples))


def _place(sample_id: str) -> tuple[bytes, str]:
    return hashlib.sha256(f"confirm:{sample_id}".encode()).digest(), sample_id


def _shown(share: float, *, up: bool) -> str:
    """A share with two decimals that lies on the right side."""
    hundredths = -int(-100 * share // 1) if up else int(100 * share)
    return f"{hundredths / 100:g}"
