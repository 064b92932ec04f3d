"""Whether our certainty is what we say: intervals cover, the family-wise error holds its level, and how long it all takes.

    python benchmarks/run.py --only statistics      into results.json, and from there into docs/statistics.md
    python benchmarks/certainty.py --seed 7         the same with other random numbers, to the terminal

Simulated differences, no model. The time is that of a full grid of an 80-layer model: 3,240 configurations of 64 samples
with 2,000 resamples for the intervals and 2,048 flips for the p-values.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from options import Options
from results import Measured
from scipy.special import ndtr, ndtri, stdtrit

from neuroscan_farm.analyses.circuits import around
from neuroscan_farm.statistics.bootstrap import RESAMPLES, bounded_intervals, studentised_intervals
from neuroscan_farm.statistics.estimates import estimates
from neuroscan_farm.statistics.multiplicity import FLIPS, best_under_noise, p_values

Table = np.ndarray  # differences, [configurations, samples]
Draw = Callable[[np.random.Generator, tuple[int, int]], Table]
Interval = Callable[[Table], tuple[Table, Table]]

SIZES = (8, 16, 32, 64)
LEVEL = 0.05
SEED = 20261121


def run(options: Options, *, seed: int = SEED) -> Measured:
    """Time, then simulate."""
    options.say("statistics/time")
    yield "statistics/time", _time(rounds=options.rounds or (1 if options.quick else 5), seed=seed)
    for name, draw, truth, bound in _populations():
        options.say(f"statistics/coverage-{name}")
        found = _coverage(draw, truth, bound=bound, tables=300 if options.quick else 4000, seed=seed)
        yield f"statistics/coverage-{name}", {"seed": seed, "truth": truth, **found}
    for name, make in _nulls():
        options.say(f"statistics/error-{name}")
        runs = 100 if options.quick else 2000
        yield f"statistics/error-{name}", {"seed": seed, **_error(make, runs=runs, seed=seed)}


def _time(*, rounds: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    table = random.normal(size=(3240, 64)) - random.normal(size=64)
    tested = p_values([table])
    kinds: dict[str, Callable[[], object]] = {
        "intervals_seconds": lambda: studentised_intervals([table]),
        "p_values_seconds": lambda: p_values([table]),
        "noise_seconds": lambda: best_under_noise([table], tested=tested),
        "all_seconds": lambda: estimates([table]),
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, act in kinds.items():
            started = time.perf_counter()
            act()
            found[name].append(round(time.perf_counter() - started, 3))
    shape = {"configurations": 3240, "samples": 64, "resamples": RESAMPLES, "flips": FLIPS, "rounds": rounds}
    return shape | {name: sorted(seconds)[len(seconds) // 2] for name, seconds in found.items()}


def _populations() -> Iterator[tuple[str, Draw, float, float | None]]:
    """Name, draw, true mean, and the bound of differences that take few values."""
    yield "normal", lambda r, s: r.normal(size=s), 0.0, None
    yield "skewed", lambda r, s: r.exponential(size=s), 1.0, None
    yield "very skewed", lambda r, s: r.lognormal(0, 1, size=s), math.exp(0.5), None
    yield "heavy tails", lambda r, s: r.standard_t(3, size=s), 0.0, None
    yield "tied", lambda r, s: np.round(r.normal(0.3, 1.0, size=s)), 0.3, None
    yield "answers, 5 % gained, 5 % lost", _answers(0.05, 0.05), 0.0, 1.0
    yield "answers, 2 % gained, 10 % lost", _answers(0.02, 0.10), -0.08, 1.0
    yield "answers, 40 % gained, 10 % lost", _answers(0.40, 0.10), 0.30, 1.0


def _answers(gain: float, loss: float) -> Draw:
    def draw(random: np.random.Generator, shape: tuple[int, int]) -> Table:
        u = random.random(shape)
        return np.where(u < gain, 1.0, np.where(u < gain + loss, -1.0, 0.0))

    return draw


def _coverage(draw: Draw, truth: float, *, bound: float | None, tables: int, seed: int) -> dict[str, Any]:
    """The share of intervals that hold the truth, by method and number of samples, in per cent."""
    random = np.random.default_rng(seed)
    ours: Interval = (
        (lambda table: studentised_intervals([table]))
        if bound is None
        else (lambda table: bounded_intervals([table], bound=bound))
    )
    methods: dict[str, Interval] = {"ours": ours, "student": _student, "bca": _bca}
    found: dict[str, dict[str, float]] = {name: {} for name in methods}
    for n in SIZES:
        table = draw(random, (tables, n))
        for name, interval in methods.items():
            low, high = interval(table)
            share = ((low - 1e-12 <= truth) & (truth <= high + 1e-12)).mean()
            found[name][str(n)] = round(100 * float(share), 1)
    return {"tables": tables, "coverage_percent": found}


def _student(table: Table) -> tuple[Table, Table]:
    n = table.shape[1]
    half = stdtrit(n - 1, 0.975) * table.std(axis=1, ddof=1) / math.sqrt(n)
    return table.mean(axis=1) - half, table.mean(axis=1) + half


def _bca(table: Table) -> tuple[Table, Table]:
    """Efron's (1987), as a yardstick."""
    rows, n = table.shape
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).T / n
    low, high = np.empty(rows), np.empty(rows)
    for start in range(0, rows, 500):
        part = table[start : start + 500]
        mean = part.mean(axis=1, keepdims=True)
        means = np.sort(part @ weights, axis=1)
        below = (means < mean).mean(axis=1) + (means == mean).mean(axis=1) / 2
        bias = ndtri(np.clip(below, 1e-4, 1 - 1e-4))
        centred = part - mean
        square = np.maximum((centred**2).sum(axis=1), 1e-30)
        skew = (centred**3).sum(axis=1) / (6 * square**1.5)
        for end, z in ((low, ndtri(0.025)), (high, ndtri(0.975))):
            share = ndtr(bias + (bias + z) / (1 - skew * (bias + z)))
            place = np.clip((share * (RESAMPLES + 1)).astype(int) - 1, 0, RESAMPLES - 1)
            end[start : start + 500] = means[np.arange(len(part)), place]
    return low, high


def _nulls() -> Iterator[tuple[str, Callable[[np.random.Generator], list[Table]]]]:
    """Runs in which no configuration changes anything: all against one noisy baseline, neighbours alike."""
    yield "normal", lambda r: [_null(r, lambda *s: r.normal(size=s))]
    yield "skewed", lambda r: [_null(r, lambda *s: r.exponential(size=s))]
    yield "answers", lambda r: [_null(r, lambda *s: (r.random(s) < 0.7).astype(float), alike=0.0)]
    yield "lopsided, beyond the null", lambda r: [r.exponential(size=(100, 16)) - 1.0]
    yield "lopsided, 64 samples", lambda r: [r.exponential(size=(100, 64)) - 1.0]
    yield "pairs that circuits chose", _chosen_pairs
    yield "8 samples", lambda r: [_null(r, lambda *s: r.normal(size=s), n=8)]
    yield (
        "two probes",
        lambda r: [
            _null(r, lambda *s: r.normal(size=s), n=12),
            10 * _null(r, lambda *s: r.exponential(size=s), n=30),
        ],
    )


def _null(
    random: np.random.Generator,
    draw: Callable[..., Table],
    *,
    n: int = 16,
    tried: int = 100,
    alike: float = 0.5,
) -> Table:
    neighbours = alike * np.cumsum(random.normal(size=(tried, n)) / math.sqrt(tried), axis=0)
    return draw(tried, n) - draw(n) + neighbours


def _chosen_pairs(random: np.random.Generator) -> list[Table]:
    """Interactions of the pairs that `circuits --strategy fast` tries in a model where no layer does anything."""
    baseline = random.normal(size=16)
    losses = baseline - random.normal(size=(32, 16))
    top = np.argsort(-np.sqrt((losses**2).mean(axis=1)))[:12]  # as `statistics.effects.effect_sizes` has it
    pairs = sorted(around(top.tolist(), range(32)))
    joint = baseline - random.normal(size=(len(pairs), 16))
    return [joint - np.array([losses[a] + losses[b] for a, b in pairs])]


def _error(make: Callable[[np.random.Generator], list[Table]], *, runs: int, seed: int) -> dict[str, Any]:
    """How often any of 100 null configurations stands out; and how often a planted one is found."""
    random = np.random.default_rng(seed)
    wrong = found = uncorrected = tried = 0
    for _ in range(runs):
        parts = make(random)
        tried += len(parts[0])
        p = p_values(parts, flips=512)
        wrong += bool(p.p_adjusted.min() < LEVEL)
        uncorrected += bool(p.p.min() < LEVEL)
        spread = [part.std(axis=1).mean() for part in parts]
        planted = [part.copy() for part in parts]
        for part, one in zip(planted, spread, strict=True):
            part[50] += 1.5 * one
        found += bool(p_values(planted, flips=512).p_adjusted[50] < LEVEL)
    allowed = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / runs)
    return {
        "runs": runs,
        "configurations": round(tried / runs),
        "family_wise_error_percent": round(100 * wrong / runs, 1),
        "allowed_percent": round(100 * allowed, 1),
        "without_correction_percent": round(100 * uncorrected / runs, 1),
        "planted_found_percent": round(100 * found / runs, 1),
    }


def main() -> None:
    """Simulate with other random numbers, and print what comes of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=SEED, help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="fewer simulations")
    chosen = parser.parse_args()
    options = Options(work=Path(), peers=None, family="llama", threads=1, quick=chosen.quick)
    for key, found in run(options, seed=chosen.seed):
        print(key, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
