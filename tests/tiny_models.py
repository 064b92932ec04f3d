"""Tiny random models of many families in ordinary folders, and an oracle that rebuilds them along a path.

The oracle shares no code with the engine: it makes a new, deeper model from a new config and copies weights into it.
"""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from neuroscan_farm.demo import MODEL_DIR

_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 8,
}
_MIXED = ["sliding_attention", "full_attention"] * 3
_EXTRA: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3": {"layer_types": _MIXED, "sliding_window": 4, "use_sliding_window": True, "max_window_layers": 3},
    "gemma2": {"layer_types": _MIXED, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "gemma3_text": {"layer_types": _MIXED, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "gpt2": {"n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 128},
    "gptj": {"n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 128, "rotary_dim": 4},
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 6, "n_head": 4},
    "falcon": {"n_layer": 6, "alibi": False, "new_decoder_architecture": False},
    "phi": {},
    "phi3": {"pad_token_id": 0},
    "cohere": {},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    "mamba": {"state_size": 4},
}
FAMILIES = ["llama", "qwen2", *_EXTRA]


def make_tiny(family: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a tiny random model of a family, with the demo model's tokenizer, and return its folder."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    known = AutoConfig.for_model(family)
    wanted = {**_SMALL, **_EXTRA.get(family, {}), **changes}
    accepted = {
        key: value
        for key, value in wanted.items()
        if hasattr(known, key) or key in getattr(known, "attribute_map", {}) or key in _EXTRA.get(family, {})
    }
    if family == "falcon":
        accepted.pop("head_dim")
    config = AutoConfig.for_model(family, **accepted, vocab_size=len(tokenizer))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, 0)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # larger than the usual start, so that a wrong layer order shows
        for parameter in model.parameters():
            if parameter.dim() > 1 and family != "mamba":  # whose exponentials would turn rounding into noise
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    for file in MODEL_DIR.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def make_overflowing(folder: Path) -> Path:
    """Write a tiny GPT-2 that is finite in float16, but overflows it on every path that visits layer 3 twice."""
    make_tiny("gpt2", folder)
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.3.mlp.c_proj.bias"][0] = 4e4  # twice that is beyond float16
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def oracle_logits(folder: Path, path: tuple[int, ...], token_ids: torch.Tensor) -> torch.Tensor:
    """Return the last token's logits [samples, vocabulary] of a model that is physically rebuilt along `path`."""
    source = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = copy.deepcopy(source.config)
    depth = config.num_hidden_layers
    for key, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == depth:
            config.__dict__[key] = [value[k] for k in path]
    config.__dict__[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(path)
    rebuilt = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = source.state_dict()
    moved = {}
    for name in rebuilt.state_dict():
        origin = re.sub(r"(layers|h|blocks)\.(\d+)\.", lambda m: f"{m[1]}.{path[int(m[2])]}.", name, count=1)
        moved[name] = weights[origin]
    rebuilt.load_state_dict(moved)
    rebuilt.eval()
    with torch.inference_mode():
        return rebuilt(input_ids=token_ids, use_cache=False).logits[:, -1].float()
