"""Tiny random models of any causal family, in memory or in ordinary folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuroscan_farm.demo import MODEL_DIR
from tests.families.oracle import oracle_logits
from tests.families.tiny_configs import tiny_config

__all__ = ["FAMILIES", "make_overflowing", "make_tiny", "oracle_logits", "tiny_model"]

FAMILIES = [
    *("llama", "qwen2", "mistral", "mixtral", "qwen3", "gemma2", "gemma3_text", "gpt2", "gptj", "gpt_neox"),
    *("opt", "bloom", "falcon", "phi", "phi3", "cohere", "granite", "mamba"),
]

# Families in which large random weights would turn rounding into noise a hundred times as large: unscaled attention,
# and the delta rule.
_CALM = ("gemma4", "qwen3_5", "qwen3_next", "qwen4_exp", "olmo_hybrid")


def tiny_model(family: str, *, seed: int = 0, **changes: Any) -> nn.Module:
    """Make a tiny random model of a family, known by its `model_type`; `changes` are made to its config."""
    torch.manual_seed(seed)
    model: nn.Module = AutoModelForCausalLM.from_config(tiny_config(family, **changes), dtype=torch.float32)
    _enliven(model)
    return model


def make_tiny(family: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a tiny random model of a family, with the demo model's tokenizer, and return its folder."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model: Any = tiny_model(family, seed=seed, **{"vocab_size": len(tokenizer), **changes})
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


def _enliven(model: nn.Module) -> None:
    """Draw weights so large that every layer matters, and norms, biases and gates that are not trivial."""
    calm = str(model.config.model_type).startswith(_CALM)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.add_(torch.randn_like(parameter), alpha=0.1 if calm else 0.2)
                if calm and name.endswith(("q_norm.weight", "k_norm.weight")):
                    parameter.mul_(0.5)
            elif "A_log" in name:  # the logarithm of a state-space model's decay is well as it is
                continue
            elif parameter.numel() > 1 and parameter.std() < 0.1:
                parameter.normal_(std=0.07 if calm else 0.1)
        kept = model.state_dict()
        for name, buffer in model.named_buffers():
            if name in kept and name.endswith("bias"):  # of routers
                buffer.add_(torch.randn_like(buffer), alpha=0.2)
