"""The benchmark: everything in interleaved rounds on one machine, into results.json and from there into the page.

    make bench                                          all of it, the better part of an hour
    python benchmarks/run.py --quick                    a smaller one of each
    python benchmarks/run.py --only grid --hidden 512   one section; the others' results stay as they are

Sections: grid, pairs, scaling, workers, streaming, farm, scale, recovery, faults, statistics, page.
docs/benchmarks.md says what each one measures, docs/statistics.md what `statistics` does.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import certainty
import farm_overhead
import faults
import grid
import live_page
import one_or_two_workers
import pairs
import recovery
import scale
import scaling
import streaming
from figures import write_page
from options import Options
from peers import WORK, find_peers, versions
from questions import KINDS
from results import RESULTS, circumstances, merge

SECTIONS = {
    "grid": grid.run,
    "pairs": pairs.run,
    "scaling": scaling.run,
    "workers": one_or_two_workers.run,
    "streaming": streaming.run,
    "farm": farm_overhead.run,
    "scale": scale.run,
    "recovery": recovery.run,
    "faults": faults.run,
    "statistics": certainty.run,
    "page": live_page.run,
}


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to measure")
    add("--quick", action="store_true", help="fewer rounds of smaller cases; for a look, not for the page")
    add("--hidden", type=int, nargs="+", default=[], help="hidden sizes, in place of the section's own")
    add("--layers", type=int, help="depth of the models, in place of the section's own")
    add("--probe", nargs="+", choices=KINDS, default=[], help="probes, in place of the section's own")
    add("--step", type=int, help="stride of the grid, in place of the section's own")
    add("--rounds", type=int, help="rounds, in place of the section's own")
    add("--family", choices=("qwen2", "llama"), default="qwen2", help="the models' family (%(default)s)")
    add("--threads", type=int, default=2, help="threads of every contender (%(default)s)")
    add("--work", type=Path, default=WORK, help="where models and runs are made (benchmarks/.work)")
    add("--output", type=Path, default=RESULTS, help="where results are merged (benchmarks/results.json)")
    add("--page", action="store_true", help="write the figures into docs/benchmarks.md at the end")
    chosen = parser.parse_args()
    peers = find_peers()
    options = Options(
        work=chosen.work.resolve(),
        peers=peers,
        family=chosen.family,
        threads=chosen.threads,
        quick=chosen.quick,
        rounds=chosen.rounds,
        step=chosen.step,
        layers=chosen.layers,
        hidden=tuple(chosen.hidden),
        probes=tuple(chosen.probe),
    )
    if peers is None:
        options.say(
            "layer-scan and neuro-scan are not installed and will be left out; see `make bench-peers`"
        )
    where = circumstances(
        command=shlex.join(["python", "benchmarks/run.py", *_asked(sys.argv[1:])]),
        peers=versions(peers) if peers is not None else None,
    )
    started = time.monotonic()
    for section in chosen.only:
        for key, found in SECTIONS[section](options):
            merge(key, found, circumstances=where, path=chosen.output)
            options.say(f"  {key} done, {time.monotonic() - started:.0f} s since the start")
    if chosen.page:
        write_page(chosen.output)


def _asked(arguments: list[str]) -> list[str]:
    """Return the arguments that matter to the figures: not where files of this machine lie."""
    kept = []
    skip = False
    for argument in arguments:
        if skip or argument in ("--work", "--output", "--page"):
            skip = not skip and argument != "--page"
            continue
        kept.append(argument)
    return kept


if __name__ == "__main__":
    main()
