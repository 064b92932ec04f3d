"""A model that does not fit: layers streamed from disk under a memory limit, against the same model resident.

The limit is a quarter of the model's weights, and is meant for the whole process, interpreter and torch included; so
the model must be large. Memory is watched from outside, in the kernel's account of the process, while it loads and
while it works. The file of weights is in the machine's page cache all the while, as after a first pass over it.
"""

from __future__ import annotations

from dataclasses import asdict

from comparison import Shape
from grid import grid_case
from interleaving import Arena, interleave, ratios, seconds_of
from memory_watch import MemoryWatch
from options import Options
from questions import write_probe
from random_model import write_model
from results import Measured

HIDDEN, LAYERS = 1024, 64


def run(options: Options) -> Measured:
    """Measure both in turn; a version that cannot stream says so."""
    hidden = options.hidden[0] if options.hidden else HIDDEN
    shape = Shape(options.family, hidden, options.layers or LAYERS, 16, "mixed")
    case = grid_case(shape.layers, options.step or shape.layers // 2)
    key = f"streaming/{shape.family}-h{hidden}-l{shape.layers}"
    options.say(key)
    model = write_model(options.work, family=shape.family, hidden=hidden, layers=shape.layers)
    probe = write_probe(options.work / "probes", shape.probe, shape.samples)
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors")) / 1e6
    limit = round(weights / 4)
    both = {
        "model": str(model),
        "probe": str(probe),
        "parameters": dict(case.parameters),
        "threads": options.threads,
    }
    rounds = options.rounds or (1 if options.quick else 2)
    found = {"shape": asdict(shape), "what": case.what, "model_mb": round(weights), "limit_mb": limit}
    with Arena(options.work, threads=options.threads) as arena:
        streaming = arena.start("streaming", "serve_ours.py")
        with MemoryWatch(streaming.pid) as watch:
            loaded = streaming.ask(
                "load", work=str(arena.folder("streaming")), stream=True, memory_limit_mb=limit, **both
            )
            if "absent" in loaded:
                options.say(f"  not measured: {loaded['absent']}")
                yield key, found | {"absent": loaded["absent"]}
                return
            resident = arena.start("resident", "serve_ours.py")
            resident.ask("load", work=str(arena.folder("resident")), **both)
            turns = {
                "streaming": lambda: streaming.ask("round"),
                "resident": lambda: resident.ask("round"),
            }
            seconds = seconds_of(interleave(turns, rounds=rounds, say=options.say))
        whole = MemoryWatch(resident.pid)
        whole.look()  # once is enough: the kernel keeps the high-water mark
    yield (
        key,
        found
        | {
            "rounds": rounds,
            "threads": options.threads,
            "seconds": seconds,
            "speed_of_resident": ratios(seconds, of="resident", to="streaming"),
            "mb_before_loading": round(loaded["mb_before_loading"]),
            "peak_mb": round(watch.peak_mb),
            "anonymous_mb": round(watch.anonymous_mb),
            "resident_peak_mb": round(whole.peak_mb),
            "peak_of_limit": round(watch.peak_mb / limit, 3),
        },
    )
