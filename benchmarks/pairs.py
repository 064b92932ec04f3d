"""All pairs of skipped layers, and all single ones, against neuro-scan's exhaustive strategy."""

from __future__ import annotations

from comparison import Case, Shape, compare
from options import Options
from requests_of_bench import ablation_paths
from results import Measured

LAYERS = 12  # neuro-scan cannot thin its pairs out: at 24 layers one of its rounds takes minutes
HIDDEN = 256
SAMPLES = 16  # neuro-scan takes no more


def run(options: Options) -> Measured:
    """Measure the pairs at one width, or at those asked for."""
    layers = options.layers or (8 if options.quick else LAYERS)
    paths = ablation_paths(layers)
    case = Case(
        what=f"all {layers} single ablations and all {layers * (layers - 1) // 2} pairs",
        paths=paths,
        parameters={"paths": [",".join(map(str, path)) for path in paths.values()]},
        peer="neuro-scan",
        peer_round={},
    )
    for hidden in options.hidden or (HIDDEN,):
        shape = Shape(options.family, hidden, layers, SAMPLES, "mixed")
        key = f"pairs/{shape.family}-h{hidden}-l{layers}"
        options.say(key)
        rounds = options.rounds or (2 if options.quick else 3)
        yield key, compare(case, shape, rounds=rounds, **options.common())
