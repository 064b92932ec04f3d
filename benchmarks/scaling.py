"""How the advantage grows or shrinks with the model's depth and with the number of samples, at one width."""

from __future__ import annotations

from comparison import Shape, compare
from grid import grid_case
from options import Options
from results import Measured

HIDDEN = 256
DEPTHS = (8, 16, 24)
SAMPLES = (4, 16, 64)
_STEPS = {8: 2, 16: 4, 24: 8}  # ten blocks, ten blocks, six blocks: rounds of seconds
_ROUNDS = 2


def run(options: Options) -> Measured:
    """Measure the grid at three depths of 16 samples, and at three numbers of samples of 16 layers."""
    cases = [(depth, 16) for depth in DEPTHS] + [(16, samples) for samples in SAMPLES if samples != 16]
    if options.quick:
        cases = [(8, 16), (16, 4)]
    for hidden in options.hidden or (HIDDEN,):
        for depth, samples in cases:
            if options.layers not in (None, depth):
                continue
            shape = Shape(options.family, hidden, depth, samples, "mixed")
            key = f"scaling/{shape.family}-h{hidden}-l{depth:02}-s{samples:02}"
            options.say(key)
            case = grid_case(depth, options.step or _STEPS[depth])
            rounds = options.rounds or (1 if options.quick else _ROUNDS)
            yield key, compare(case, shape, rounds=rounds, **options.common())
