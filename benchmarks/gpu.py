"""The grid on a GPU: random models of the shape of a 7B and a 72B, with weights made on the device.

    python benchmarks/gpu.py --shape 7b                          on the first CUDA device, in bfloat16
    python benchmarks/gpu.py --shape 72b --distinct-layers 16    where 145 GB of weights do not fit
    python benchmarks/gpu.py --shape tiny --device cpu           shows that the script works

Real shards of a real run are executed, as on a CPU: planned, gated, scored, written. Only the loading differs: instead
of reading a checkpoint, the model is made on the device. With --distinct-layers N, the layers N, N+1, … are layers
0, 1, … again: the arithmetic stays what it was, the memory shrinks. Printed, and written with --output, are the time of
the grid, the model FLOPs utilisation (the minimal work of counting.py over time and peak), and the device's memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from counting import work_of
from questions import write_probe
from random_model import VOCABULARY, draw_weights, write_tokenizer
from requests_of_bench import fresh_run, grid_parameters, grid_paths, lanes, plan_of
from results import circumstances
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from neuroscan_farm.engine.shard import execute_shard
from neuroscan_farm.engine.warm import WarmModel

# Qwen2 7B and 72B, but for the vocabulary, which is that of the benchmark's tokenizer.
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "72b": {
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}


def write_shell(folder: Path, shape: dict[str, int]) -> dict[str, Any]:
    """Write a model's folder without its weights, and return its config: what the plan reads."""
    config = AutoConfig.for_model(
        "qwen2", **shape, vocab_size=VOCABULARY, max_position_embeddings=4096, tie_word_embeddings=False
    )
    config.architectures = ["Qwen2ForCausalLM"]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, 0)
    config.save_pretrained(folder)
    write_tokenizer(folder)
    save_file(
        {"in_place_of_weights": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    content: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return content


@contextlib.contextmanager
def weights_made_on(device: torch.device, *, distinct: int | None) -> Iterator[None]:
    """Let transformers make random weights on the device wherever a checkpoint would be read."""

    def make(folder: Path, *, dtype: Any, attn_implementation: str | None = None, **_: object) -> Any:
        config = AutoConfig.from_pretrained(folder)
        depth = config.num_hidden_layers
        config.num_hidden_layers = min(distinct or depth, depth)
        kinds, config.layer_types = config.layer_types, config.layer_types[: config.num_hidden_layers]
        chosen = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype if isinstance(dtype, torch.dtype) else torch.bfloat16, **chosen
            )
        draw_weights(model)
        own = list(model.model.layers)
        # A layer may stand in the list several times as a shallow copy: the weights are the same tensors.
        model.model.layers = torch.nn.ModuleList(_share(own[k % len(own)], k) for k in range(depth))
        config.num_hidden_layers, config.layer_types = depth, kinds
        return model, {"missing_keys": []}

    with mock.patch.object(AutoModelForCausalLM, "from_pretrained", make):
        yield


def _share(layer: torch.nn.Module, place: int) -> torch.nn.Module:
    """Return a layer with the same parameters and its own modules around them, at another place."""
    twin = torch.nn.Module.__new__(type(layer))
    # Its own dictionaries: a hook that somebody puts on one place must not fire at the others.
    twin.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in layer.__dict__.items()}
    twin._modules = {
        name: _share(child, place) for name, child in layer._modules.items() if child is not None
    }
    if "layer_idx" in twin.__dict__:
        twin.__dict__["layer_idx"] = place
    return twin


def peak_of(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best rate of a large matrix product on the device, in floating-point operations per second."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    rates = []
    for _ in range(4):
        started, calls = _now(device), 10 if device.type == "cuda" else 2
        for _ in range(calls):
            a @ b
        rates.append(2.0 * size**3 * calls / (_now(device) - started))
    return max(rates)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(options: argparse.Namespace, lane: str, folder: Path) -> dict[str, Any]:
    """Carry out the grid once to warm up and `rounds` times on the clock; return the figures."""
    shape = dict(SHAPES[options.shape])
    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    config = write_shell(folder / "model", shape)
    probe = write_probe(folder, "mixed", options.samples)
    depth = shape["num_hidden_layers"]
    parameters = grid_parameters(options.step or max(2, depth // 8))
    engine = {"dtype": str(dtype).removeprefix("torch."), "device": options.device}
    plan = plan_of(
        str(folder / "model"),
        str(probe),
        parameters=parameters,
        engine=engine | ({"lane": lane} if lane else {}),
        shard_size=options.shard_size,
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    # On a CPU this only shows that the script works; several threads would spin on cores that others share.
    warm = WarmModel(
        threads=1 if device.type == "cpu" else None, cache_dir=folder / "cache", cache_bytes=50 * 10**9
    )
    seconds = []
    with weights_made_on(device, distinct=options.distinct_layers):
        for _ in range(options.rounds + 1):
            run = fresh_run(plan, folder / "run", folder / "cache")
            _, batches = warm.ready_for(run)
            started = _now(device)
            for shard in run.shards():
                execute_shard(run, shard.shard_id, 1, worker="benchmark", warm=warm)
            seconds.append(_now(device) - started)
    outcomes = set(run.parts.read(["outcome"]).column("outcome").to_pylist())
    if outcomes != {"ok"}:
        raise SystemExit(f"rows have the outcomes {outcomes}: nothing to report")
    lengths = [batch.token_ids.shape[1] for batch in batches for _ in batch.samples]  # nothing in common
    work = work_of(list(grid_paths(depth, **parameters).values()), config, lengths)
    mean = sum(seconds[1:]) / options.rounds
    peak = options.peak_tflops * 1e12 if options.peak_tflops else peak_of(device, dtype)
    memory = {}
    if device.type == "cuda":
        memory["allocated_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 1)
        memory["reserved_gb"] = round(torch.cuda.max_memory_reserved(device) / 1e9, 1)
    return {
        "shape": options.shape,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "lane": lane or "the only one",
        "distinct_layers": options.distinct_layers or depth,
        "configurations": len(grid_paths(depth, **parameters)),
        "samples": len(lengths),
        "tokens": sum(lengths),
        "work": asdict(work),
        "seconds": [round(value, 3) for value in seconds[1:]],
        "peak_tflops": round(peak / 1e12, 2),
        "peak_from": "the data sheet" if options.peak_tflops else "a product measured here",
        "utilisation": round(work.flops / mean / peak, 4),
        "utilisation_strict": round(work.flops_strict / mean / peak, 4),
        "memory": memory,
    }


def main() -> None:
    """Read the options, measure each lane, and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="7b", help="(%(default)s)")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="(%(default)s)")
    add("--samples", type=int, default=16, help="prompts (%(default)s)")
    add("--step", type=int, help="stride of the grid; default is an eighth of the depth")
    add("--rounds", type=int, default=3, help="timed rounds, after one to warm up (%(default)s)")
    add("--distinct-layers", type=int, help="how many layers have weights of their own; default is all")
    add("--shard-size", type=int, help="most tasks in one shard; default is the program's")
    add("--peak-tflops", type=float, help="the data sheet's peak; default is what a product reaches here")
    add("--output", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --shape tiny --device cpu shows that the script works")
    found = []
    for lane in lanes():
        folder = Path(tempfile.mkdtemp(prefix="neuroscan-gpu-"))
        try:
            found.append(measure(options, lane, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(json.dumps(found[-1], indent=1))
    if options.output is not None:
        where = circumstances(command=f"python benchmarks/gpu.py --shape {options.shape}", peers=None)
        options.output.write_text(
            json.dumps({"circumstances": where, "measurements": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
