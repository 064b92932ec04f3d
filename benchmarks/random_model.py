"""Random models of a real shape in ordinary folders: what every contender loads.

Weights are drawn larger than the usual start, so that every layer moves the answer and a wrong layer order shows in
the scores, but no larger, because random layers amplify rounding. The tokenizer is a byte-level BPE whose digits are
single tokens, and pads on the right, where the peers' own batched baseline looks for the last token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from questions import training_text

VOCABULARY = 4096
_WEIGHTS = 2  # raised when they are drawn in another way, so that folders made before are made again


def shape(family: str, hidden: int, layers: int) -> dict[str, Any]:
    """Return the entries of config.json that make the shape of a family at a width."""
    heads = max(hidden // 64, 4)
    return {
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": -(-hidden * 8 // 3 // 64) * 64,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(heads // 2, 1),
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }


def write_model(work: Path, *, family: str, hidden: int, layers: int) -> Path:
    """Write a random model and its tokenizer, where they are not there yet, and return the folder."""
    folder = work / "models" / f"{family}-h{hidden}-l{layers}"
    ready = folder / "ready.json"
    wanted = shape(family, hidden, layers)
    made = {"weights": _WEIGHTS, **wanted}
    if ready.exists() and json.loads(ready.read_text(encoding="utf-8")) == made:
        return folder
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(**{k: v for k, v in wanted.items() if k != "model_type"}, model_type=family)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, 0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    draw_weights(model)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    ready.write_text(json.dumps(made), encoding="utf-8")
    return folder


def draw_weights(model: Any) -> None:
    """Draw all matrices of a model so that each layer's output is of the residual's order; norms stay at one."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                if name.endswith("bias"):
                    parameter.normal_(0.0, 0.1)
                continue
            gain = 2.0 if "lm_head" in name else 1.0
            parameter.normal_(0.0, 1.0 if "embed" in name else gain * parameter.shape[-1] ** -0.5)


def write_tokenizer(folder: Path) -> None:
    """Train the tokenizer and save it in a model's folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(training_text(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<pad>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
