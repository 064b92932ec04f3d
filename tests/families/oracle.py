"""The oracle: a checkpoint that is physically rebuilt along a path, on disk, and loaded afresh by transformers alone.

It shares no code with the engine: tensors are renamed by number, the config is edited as text, and every prompt runs
alone through the model's own forward.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

_DEPTHS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"),
    *("decoder_layers", "num_decoder_layers"),
)
_FIRST = (
    "first_k_dense_replace",
    "num_dense_layers",
    "moe_layer_start_index",
)  # layers before are of one kind
_LAST = ("moe_layer_end_index",)
_PLACES = ("mlp_only_layers", "moe_layers", "hybrid_layer_ids", "attn_layer_indices")
_BESIDE = {
    "embed_tokens_per_layer": -1,
    "per_layer_model_projection": 0,
}  # tensors that hold layer beside layer


class NoCheckpointError(Exception):
    """The family's config cannot describe a model along this path."""


def oracle_logits(
    folder: Path, path: Sequence[int], token_ids: torch.Tensor, *, attention: str | None = None
) -> torch.Tensor:
    """Return the last token's logits [samples, vocabulary] of the checkpoint in `folder` rebuilt along `path`.

    Raises:
        NoCheckpointError: the family's config cannot describe a model along this path.
    """
    target = folder.with_name(f"{folder.name}-along-a-path")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    depth = _rebuild_weights(folder, path, target)
    for part in (config, config.get("text_config"), config.get("decoder")):
        if isinstance(part, dict):
            _rebuild_config(part, path, depth)
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            target, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
        )
    except (ValueError, RuntimeError, StrictDataclassError) as error:
        raise NoCheckpointError(str(error)) from error
    strangers = [*info["missing_keys"], *info["mismatched_keys"], *info["unexpected_keys"]]
    if strangers:
        raise NoCheckpointError(f"weights do not fit the config: {strangers}")
    model.eval()
    with torch.inference_mode():
        rows = [model(input_ids=prompt[None], use_cache=False).logits[0, -1] for prompt in token_ids]
    return torch.stack(rows).float()


def _rebuild_weights(folder: Path, path: Sequence[int], target: Path) -> int:
    """Write the weights along the path; return the depth that they had."""
    tensors = load_file(folder / "model.safetensors")
    numbered = [re.match(r"(.*?\.)(\d+)\.", name) for name in tensors]
    lists: dict[str, set[int]] = {}
    for match in numbered:
        if match:
            lists.setdefault(match[1], set()).add(int(match[2]))
    stack = max(lists, key=lambda name: len(lists[name]))  # towers beside the decoder are made shallower
    depth = len(lists[stack])
    assert lists[stack] == set(range(depth))
    rebuilt = {}
    for name, tensor in tensors.items():
        beside = next((axis for part, axis in _BESIDE.items() if part in name), None)
        if beside is not None:
            pieces = tensor.chunk(depth, beside)
            rebuilt[name] = torch.cat([pieces[k] for k in path], beside)
        elif name.startswith(stack):
            number, _, rest = name.removeprefix(stack).partition(".")
            for place, k in enumerate(path):
                if k == int(number):
                    rebuilt[f"{stack}{place}.{rest}"] = tensor.clone()
        else:
            rebuilt[name] = tensor
    save_file(rebuilt, target / "model.safetensors", metadata={"format": "pt"})
    return depth


def _rebuild_config(config: dict[str, Any], path: Sequence[int], depth: int) -> None:
    """Tell a config of its layers along the path, by the ways in which configs speak of layers."""
    for name, value in list(config.items()):
        if name in _DEPTHS and value == depth:
            config[name] = len(path)
        elif name in _PLACES and isinstance(value, list):
            config[name] = [place for place, k in enumerate(path) if k in value]
        elif name == "per_layer_config":
            config[name] = {str(place): value[str(k)] for place, k in enumerate(path) if str(k) in value}
        elif name == "block_types":  # repeated over the depth
            config[name] = [value[k % len(value)] for k in path]
        elif isinstance(value, list) and len(value) == depth:
            config[name] = [value[k] for k in path]
        elif name in _LAST and value == depth - 1:
            config[name] = len(path) - 1
        elif name in _FIRST and type(value) is int and "mlp_layer_types" not in config:
            before = [k < value for k in path]
            if before != sorted(before, reverse=True):
                raise NoCheckpointError(f"{name} cannot tell the kinds of layers {list(path)}")
            config[name] = sum(before)
