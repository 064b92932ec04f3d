"""Batched Hugging Face as a contender: a forward pass per path over a physically re-ordered layer list.

This is what a good engineer writes without the idea of sharing: layers re-ordered and told their new place, all
prompts in few batches, only the last token's logits. Prompts are batched both ways, all in one batch padded on the
left, and in batches of equal length without padding; the faster on this probe is timed, and its name is reported.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from protocol import Answer, serve, timed
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

_Batch = tuple[list[int], torch.Tensor, torch.Tensor]  # samples, token ids, attention mask


class HuggingFace:
    """The model's own forward on re-ordered layers."""

    def load(self, *, model: str, probe: str, threads: int) -> Answer:
        """Load model and probe, and choose the faster way to batch."""
        torch.set_num_threads(threads)
        self._model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self._model.eval().requires_grad_(False)
        tokenizer = AutoTokenizer.from_pretrained(model)
        self._layers = list(self._model.model.layers)
        types = getattr(self._model.config, "layer_types", None)
        self._types = list(types) if types is not None else None
        self._digits = [tokenizer.encode(str(digit), add_special_tokens=False)[0] for digit in range(10)]
        samples = json.loads(Path(probe).read_text(encoding="utf-8"))["samples"]
        encoded = [tokenizer(sample["prompt"])["input_ids"] for sample in samples]
        self._samples = len(encoded)
        ways = {"padded": [_padded(encoded)], "equal-length": _equal_length(encoded)}
        path = list(range(len(self._layers)))
        times = {}
        for way, batches in ways.items():
            self._batches = batches
            self._logits(path)
            times[way] = min(timed(lambda: self._logits(path))[0]["seconds"] for _ in range(3))
        chosen = min(times, key=lambda way: times[way])
        self._batches = ways[chosen]
        # Of the prompts less their last token, which every prompt needs for itself.
        common = _common_prefix([ids[:-1] for ids in encoded])
        return {"batching": chosen, "lengths": [len(ids) for ids in encoded], "common_prefix": common}

    def round(self, *, paths: list[list[int]]) -> Answer:
        """Run every path once and return the seconds."""
        spent, _ = timed(lambda: [self._logits(path) for path in paths])
        return dict(spent)

    def scores(self, *, paths: list[list[int]]) -> Answer:
        """Return, for each path and sample, the log-probabilities of the digits in the whole vocabulary.

        `rounding` is how far those of the last two paths move when the same is done in float64: what two right
        answers in float32 may differ by on this model.
        """
        found = [self._log_p(path) for path in paths]
        self._convert(torch.float64)
        exact = [self._log_p(path) for path in paths[-2:]]
        self._convert(torch.float32)  # which is exactly what it was
        pairs = zip(found[-2:], exact, strict=True)
        rounding = max(float((single - double).abs().max()) for single, double in pairs)
        return {"log_p": [table.tolist() for table in found], "rounding": rounding}

    def _convert(self, dtype: torch.dtype) -> None:
        self._model.model.layers = nn.ModuleList(
            self._layers
        )  # all of them, whatever the last path left there
        self._model.to(dtype)

    def _log_p(self, path: list[int]) -> torch.Tensor:
        """Return the log-probabilities of the digits [samples, 10]."""
        return torch.log_softmax(self._logits(path).double(), dim=-1)[:, self._digits]

    def _logits(self, path: list[int]) -> torch.Tensor:
        """Return the last token's logits [samples, vocabulary]."""
        config = self._model.config
        self._model.model.layers = nn.ModuleList(
            _at_place(self._layers[k], place) for place, k in enumerate(path)
        )
        config.num_hidden_layers = len(path)
        if self._types is not None:
            config.layer_types = [self._types[k] for k in path]
        rows: torch.Tensor | None = None
        with torch.inference_mode():
            for samples, token_ids, mask in self._batches:
                whole = bool(mask.all())
                output = self._model(
                    input_ids=token_ids,
                    attention_mask=None if whole else mask,
                    position_ids=None if whole else (mask.cumsum(-1) - 1).clamp_min(0),
                    use_cache=False,
                    logits_to_keep=1,
                ).logits[:, -1]
                rows = output.new_empty(self._samples, output.shape[-1]) if rows is None else rows
                rows[samples] = output
        assert rows is not None
        return rows


def _at_place(layer: nn.Module, place: int) -> nn.Module:
    """Return a layer that shares its weights and believes to be the `place`-th."""
    twin = copy.copy(layer)
    twin.__dict__ = dict(layer.__dict__)
    attention = copy.copy(layer.self_attn)
    attention.__dict__ = dict(attention.__dict__) | {"layer_idx": place}
    twin._modules = dict(layer._modules) | {"self_attn": attention}
    return twin


def _common_prefix(encoded: list[list[int]]) -> int:
    columns = zip(*encoded, strict=False)  # as far as the shortest goes
    return next((k for k, column in enumerate(columns) if len(set(column)) > 1), min(map(len, encoded)))


def _padded(encoded: list[list[int]]) -> _Batch:
    longest = max(map(len, encoded))
    token_ids = torch.tensor([[0] * (longest - len(ids)) + ids for ids in encoded])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in encoded])
    return list(range(len(encoded))), token_ids, mask


def _equal_length(encoded: list[list[int]]) -> list[_Batch]:
    by_length: dict[int, list[int]] = {}
    for sample, ids in enumerate(encoded):
        by_length.setdefault(len(ids), []).append(sample)
    tables = [(samples, torch.tensor([encoded[k] for k in samples])) for samples in by_length.values()]
    return [(samples, token_ids, torch.ones_like(token_ids)) for samples, token_ids in tables]


if __name__ == "__main__":
    contender = HuggingFace()
    serve({"load": contender.load, "round": contender.round, "scores": contender.scores})
