"""Two workers of one thread against one, by the real local executor: how much more of the same run they get done."""

from __future__ import annotations

from dataclasses import asdict

from comparison import Shape
from grid import grid_case
from interleaving import Arena, Turn, interleave, ratios, seconds_of
from options import Options
from questions import write_probe
from random_model import write_model
from results import Measured

_SHARD_SIZE = 8  # shards enough that the last one, in which a worker waits for the other, weighs little


def run(options: Options) -> Measured:
    """Measure one and two workers in turn."""
    hidden = options.hidden[0] if options.hidden else 256
    shape = Shape(options.family, hidden, options.layers or 24, 16, "mixed")
    case = grid_case(shape.layers, options.step or (4 if options.quick else 2))
    key = f"workers/{shape.family}-h{hidden}-l{shape.layers}"
    options.say(key)
    model = write_model(options.work, family=shape.family, hidden=hidden, layers=shape.layers)
    probe = write_probe(options.work / "probes", shape.probe, shape.samples)
    both = {"model": str(model), "probe": str(probe), "parameters": dict(case.parameters)}
    with Arena(options.work, threads=1) as arena:
        turns: dict[str, Turn] = {}
        loaded = {}
        for workers, name in ((1, "one worker"), (2, "two workers")):
            farm = arena.start(name, "serve_farm.py")
            loaded = farm.ask(
                "load",
                work=str(arena.folder(name)),
                workers=workers,
                threads=1,
                shard_size=_SHARD_SIZE,
                **both,
            )
            turns[name] = lambda farm=farm: farm.ask("round")
        rounds = options.rounds or (2 if options.quick else 5)
        seconds = seconds_of(interleave(turns, rounds=rounds, say=options.say))
    yield (
        key,
        {
            "shape": asdict(shape),
            "what": case.what,
            "shards": loaded["shards"],
            "rounds": rounds,
            "seconds": seconds,
            "throughput": ratios(seconds, of="one worker", to="two workers"),
        },
    )
