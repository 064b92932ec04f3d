"""What sharing the baseline's boundaries saves: the full duplication grid, our executor against a forward per path.

    make bench            or: python benchmarks/sharing.py --hidden 256 --layers 16

Both ways run in one process on the same random Llama in float32, path by path in turn, so that a noisy machine is
noisy for both. The naive way is the batched forward of transformers over a physically re-ordered layer list, from the
embedding to the last token's logits. Printed are counts of layer evaluations and ratios of time; seconds would say
more about the machine than about the code.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from neuroscan_farm.domain.paths import Block, LayerPath
from neuroscan_farm.engine.anatomy import find_anatomy
from neuroscan_farm.engine.boundaries import BoundaryCache
from neuroscan_farm.engine.executor import Executor
from neuroscan_farm.engine.loading import LoadedModel
from neuroscan_farm.engine.replay import prepare_batch


def measure(*, hidden: int, layers: int, samples: int, tokens: int, step: int) -> dict[str, float]:
    """Run the grid both ways and return counts and ratios."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    token_ids = torch.randint(0, 1000, (samples, tokens))
    cpu = torch.device("cpu")
    loaded = LoadedModel(model, None, cpu, "cpu", "float32", "sdpa", Path(), "cpu")
    anatomy = find_anatomy(model, token_ids[:1, :4], depth=layers)
    paths = [
        LayerPath.duplicating([Block(i, j)], layers)
        for i in range(0, layers, step)
        for j in range(i + 1, layers + 1, step)
    ]
    naive_seconds = ours_seconds = worst = 0.0
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        cache = BoundaryCache(Path(folder), most_bytes=10**10)
        executor = Executor(loaded, anatomy, fingerprint="benchmark", cache=cache)
        started = time.perf_counter()
        prepared = prepare_batch(anatomy, token_ids)
        boundaries = executor.boundaries(prepared)
        ours_seconds += time.perf_counter() - started
        for path in paths:
            started = time.perf_counter()
            ours = executor.path_logits(path, prepared, boundaries)
            ours_seconds += time.perf_counter() - started
            with anatomy.rebuilt(path) as rebuilt:
                started = time.perf_counter()
                theirs = rebuilt(input_ids=token_ids, use_cache=False, logits_to_keep=1).logits[:, -1]
                naive_seconds += time.perf_counter() - started
            worst = max(worst, float((ours - theirs).abs().max() / theirs.abs().max()))
    naive = sum(len(path) for path in paths)
    shared = layers + sum(path.evaluations() for path in paths)
    return {
        "paths": len(paths),
        "layer_evaluations_naive": naive,
        "layer_evaluations_shared": shared,
        "fewer_evaluations": round(naive / shared, 2),
        "times_faster": round(naive_seconds / ours_seconds, 2),
        "largest_relative_difference": worst,
    }


def main() -> None:
    """Read the options and print one line of JSON per model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--step", type=int, default=3, help="stride of the grid")
    options = parser.parse_args()
    for hidden in options.hidden:
        shape = {
            "hidden": hidden,
            "layers": options.layers,
            "samples": options.samples,
            "tokens": options.tokens,
        }
        print(json.dumps(shape | measure(**shape, step=options.step)))


if __name__ == "__main__":
    main()
