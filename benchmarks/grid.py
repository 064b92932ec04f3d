"""The duplication grid against layer-scan and batched Hugging Face, at several widths and on both probes."""

from __future__ import annotations

from comparison import Case, Shape, compare
from options import Options
from requests_of_bench import grid_parameters, grid_paths
from results import Measured

LAYERS = 24
SAMPLES = 16
# Stride of the grid and rounds by width: wide models have fewer configurations, so that a round stays below a minute.
_STEPS = {256: 4, 512: 6, 1024: 8}
_ROUNDS = {256: 4, 512: 3, 1024: 2}
_OTHER = "shared-prefix"
_OTHER_HIDDEN, _OTHER_STEP, _OTHER_ROUNDS = 256, 8, 3  # its prompts are three times as long


def grid_case(layers: int, step: int) -> Case:
    """Return the thinned grid of a depth as a case."""
    parameters = grid_parameters(step)
    paths = grid_paths(layers, **parameters)
    options = ", ".join(f"{name} {value}" for name, value in parameters.items())
    full = layers * (layers + 1) // 2
    return Case(
        what=f"duplication grid, {options}: {len(paths)} of {full} blocks",
        paths=paths,
        parameters=parameters,
        peer="layer-scan",
        peer_round=parameters,
    )


def run(options: Options) -> Measured:
    """Measure the grid at each width, and at one width on prompts that share a few-shot header."""
    widths = options.hidden or ((256,) if options.quick else (256, 512, 1024))
    for hidden in widths:
        for probe in options.probes or ("mixed", _OTHER):
            step, rounds = _STEPS.get(hidden, 8), _ROUNDS.get(hidden, 3)
            if probe == _OTHER:
                if not options.probes and (options.quick or hidden != _OTHER_HIDDEN):
                    continue
                step, rounds = _OTHER_STEP, _OTHER_ROUNDS
            if options.quick:
                step, rounds = 8, 2
            shape = Shape(options.family, hidden, options.layers or LAYERS, SAMPLES, probe)
            key = f"grid/{shape.family}-h{hidden}-l{shape.layers}-{probe}"
            options.say(key)
            case = grid_case(shape.layers, options.step or step)
            yield key, compare(case, shape, rounds=options.rounds or rounds, **options.common())
