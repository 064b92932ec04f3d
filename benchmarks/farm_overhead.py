"""What the farm adds to its engine: the same run by bare `execute_shard`, by the local executor, and by Celery on Redis.

One worker with all threads everywhere, loaded and warm, so that what is left is the driver, the pipes, the broker.
"""

from __future__ import annotations

from dataclasses import asdict

from comparison import Shape
from grid import grid_case
from interleaving import Arena, Turn, interleave, ratios, seconds_of
from options import Options
from questions import write_probe
from random_model import write_model
from results import Measured

_SHARD_SIZE = 4  # far below the default, so that there are shards enough to see what one costs


def run(options: Options) -> Measured:
    """Measure the three ways."""
    hidden = options.hidden[0] if options.hidden else (256 if options.quick else 512)
    shape = Shape(options.family, hidden, options.layers or 16, 16, "mixed")
    case = grid_case(shape.layers, options.step or (4 if options.quick else 2))
    key = f"farm/{shape.family}-h{hidden}-l{shape.layers}"
    options.say(key)
    model = write_model(options.work, family=shape.family, hidden=hidden, layers=shape.layers)
    probe = write_probe(options.work / "probes", shape.probe, shape.samples)
    both = {"model": str(model), "probe": str(probe), "parameters": dict(case.parameters)}
    both |= {"threads": options.threads, "shard_size": _SHARD_SIZE}
    with Arena(options.work, threads=options.threads) as arena:
        bare = arena.start("bare", "serve_ours.py")
        loaded = bare.ask("load", work=str(arena.folder("bare")), **both)
        turns: dict[str, Turn] = {"bare": lambda: bare.ask("round")}
        for name, celery in (("local executor", False), ("celery and redis", True)):
            farm = arena.start(name, "serve_farm.py")
            farm.ask("load", work=str(arena.folder(name)), workers=1, celery=celery, **both)
            turns[name] = lambda farm=farm: farm.ask("round")
        rounds = options.rounds or (2 if options.quick else 4)
        seconds = seconds_of(interleave(turns, rounds=rounds, say=options.say))
    found = {
        "shape": asdict(shape),
        "what": case.what,
        "shards": loaded["shards"],
        "tasks": loaded["tasks"],
        "rounds": rounds,
        "threads": options.threads,
        "seconds": seconds,
    }
    for name in list(seconds)[1:]:
        added = (sum(seconds[name]) - sum(seconds["bare"])) / rounds
        found[name] = {
            "times_bare": ratios(seconds, of=name, to="bare"),
            "milliseconds_per_shard": round(1000 * added / loaded["shards"], 1),
        }
    yield key, found
