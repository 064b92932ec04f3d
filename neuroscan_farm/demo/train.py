"""Train, measure and describe the demo model: `python -m neuroscan_farm.demo.train --out DIR`.

Owns everything about the bundled folder: its weights, its tokenizer and the probes made from its families.
Nothing else in the package imports this module. Two CPU cores are enough.
"""

from __future__ import annotations

import argparse
import math
import string
import tempfile
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import start_processes
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from neuroscan_farm.demo import MODEL_DIR
from neuroscan_farm.demo.families import FAMILIES, Task, solve, training_tasks
from neuroscan_farm.demo.measure import measure, unseen_sample
from neuroscan_farm.demo.probe_files import write_probes
from neuroscan_farm.demo.tokenizer import BOS, PAD, VOCABULARY, build_tokenizer, encode

PROBES_DIR = Path(__file__).parent.parent / "probes" / "builtin"
MAX_LENGTH = 256


class Portion(NamedTuple):
    """What one training step holds of one family."""

    rows: int
    queries: int  # at most, asked about one context


PORTIONS: dict[str, Portion] = {
    "arithmetic": Portion(96, 1),
    "recall": Portion(28, 6),
    "ordering": Portion(32, 4),
    "counting": Portion(40, 4),
    "json": Portion(24, 4),
    "chain": Portion(32, 5),
    "copy": Portion(24, 1),
}

COPY = "copy"
"""No family: a random text twice, the second time to be predicted.

It teaches in 400 steps to look up what followed a token before, and recall, json and chain follow at once. A
trial of 600 steps without it (that also wrote `a=4` for `a4`) left recall and json at guessing.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one training run does; the defaults make the bundled model."""

    steps: int = 1800
    seed: int = 20
    matrix_rate: float = 0.02
    other_rate: float = 3e-3
    weight_decay: float = 0.01
    warmup: int = 50
    layer_drop: float = 0.0


class Batch(NamedTuple):
    """Rows of one family, right-padded, and the digit to predict after each query."""

    ids: Tensor  # [rows, length]
    rows: Tensor  # [answers]
    columns: Tensor  # [answers]
    targets: Tensor  # [answers]


def demo_config() -> LlamaConfig:
    """Return the shape of the demo model."""
    return LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=14,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        pad_token_id=VOCABULARY[PAD],
        bos_token_id=VOCABULARY[BOS],
        eos_token_id=VOCABULARY["<eos>"],
        initializer_range=0.05,
    )


# --- batches ----------------------------------------------------------------------------------------------


def make_batch(tasks: Sequence[Task], queries: int) -> Batch:
    """Lay out each task as `<bos>context query answer query answer ...`, with a loss on the answers alone."""
    texts: list[list[int]] = []
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    for row, task in enumerate(tasks):
        ids = [VOCABULARY[BOS], *encode(task.context)]
        for query in task.queries[:queries]:
            ids += encode(query)
            rows.append(row)
            columns.append(len(ids) - 1)
            targets.append(VOCABULARY[solve(task.context + query)])
            ids.append(targets[-1])
        texts.append(ids[:-1])  # nothing is predicted after the last answer
    length = max(map(len, texts))
    padded = torch.tensor([ids + [VOCABULARY[PAD]] * (length - len(ids)) for ids in texts])
    return Batch(padded, torch.tensor(rows), torch.tensor(columns), torch.tensor(targets))


def make_copy_batch(rows: int, rng: Random) -> Batch:
    """Lay out random texts as `<bos>text text`, with a loss on the second, but for its first character."""
    length = rng.randint(5, 12)
    texts = [rng.choices(string.ascii_lowercase + string.digits, k=length) for _ in range(rows)]
    ids = torch.tensor([[VOCABULARY[BOS], *encode("".join([*text, " ", *text]))] for text in texts])
    columns = torch.arange(length + 2, 2 * length + 1)
    return Batch(
        ids[:, :-1],
        torch.arange(rows).repeat_interleave(len(columns)),
        columns.repeat(rows),
        ids[:, columns + 1].flatten(),
    )


def training_batches(names: Sequence[str], seed: int) -> Iterator[dict[str, Batch]]:
    """Yield for ever one batch of each named family."""
    draws = {name: Random(f"{seed}/{name}") for name in names}
    streams = {name: training_tasks(FAMILIES[name], draws[name]) for name in names if name != COPY}
    while True:
        batches = {}
        for name in names:
            rows, queries = PORTIONS[name]
            if name == COPY:
                batches[name] = make_copy_batch(rows, draws[name])
            else:
                batches[name] = make_batch(list(islice(streams[name], rows)), queries)
        yield batches


# --- the training-time forward ----------------------------------------------------------------------------


class FastForward:
    """The same computation as the model's own forward, in a third of the operations.

    transformers' modules spend more time on small operations than on matrix products at this size. Padding is
    on the right and attention is causal, so no mask is needed. `check` compares the two.
    """

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model = model
        config = model.config
        self.heads: int = config.num_attention_heads
        self.size: int = config.hidden_size // config.num_attention_heads
        rates = 10000.0 ** (-torch.arange(0, self.size, 2).float() / self.size)
        angles = torch.arange(MAX_LENGTH).float()[:, None] * rates
        # [length, 1, size]
        self.cos = torch.cat((angles.cos(), angles.cos()), -1)[:, None].to(model.dtype)
        self.sin = torch.cat((-angles.sin(), angles.sin()), -1)[:, None].to(model.dtype)

    def __call__(self, batch: Batch, dropped: Set[int] = frozenset()) -> Tensor:
        """Return the logits at the answers, [answers, vocab], running every layer but the dropped ones."""
        inner = self.model.model
        x = inner.embed_tokens(batch.ids)
        for index, layer in enumerate(inner.layers):
            if index in dropped:
                continue
            x = x + self._attention(layer, _norm(layer.input_layernorm, x))
            h = _norm(layer.post_attention_layernorm, x)
            mlp = layer.mlp
            gate, up = F.linear(h, torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))).chunk(2, -1)
            x = x + mlp.down_proj(F.silu(gate) * up)
        last: Tensor = self.model.lm_head(_norm(inner.norm, x[batch.rows, batch.columns]))
        return last

    def _attention(self, layer: Any, h: Tensor) -> Tensor:
        attention = layer.self_attn
        rows, length, width = h.shape
        weight = torch.cat((attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight))
        qkv = F.linear(h, weight).view(rows, length, 3, self.heads, self.size)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]
        cos, sin = self.cos[:length, None], self.sin[:length, None]
        q, k = (qk * cos + qk.roll(self.size // 2, -1) * sin).unbind(2)
        # Written out: at these lengths it takes half the time of the fused kernel, forward and backward.
        q, k, v = (t.transpose(1, 2).reshape(rows * self.heads, length, self.size) for t in (q, k, v))
        future = torch.full((length, length), -1e4, dtype=h.dtype).triu(1)
        scores = torch.baddbmm(future, q, k.transpose(1, 2), alpha=self.size**-0.5)
        mixed = torch.bmm(scores.softmax(-1), v).view(rows, self.heads, length, self.size)
        out: Tensor = attention.o_proj(mixed.transpose(1, 2).reshape(rows, length, width))
        return out

    @torch.no_grad()
    def check(self, batch: Batch) -> None:
        """Raise when this forward and the model's own differ."""
        own = self.model(input_ids=batch.ids, use_cache=False).logits[batch.rows, batch.columns]
        gap = float((own - self(batch)).abs().max())
        if gap > 1e-3:
            raise RuntimeError(f"the training forward differs from the model's own by {gap:.2g}")


def _norm(norm: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


# --- training ---------------------------------------------------------------------------------------------

SHARES: tuple[tuple[str, ...], ...] = (
    ("arithmetic", "recall", "json"),
    ("ordering", "counting", "chain", COPY),
)
"""The families of each training process; the two shares are equally many tokens."""


def train(plan: Plan, out: Path) -> None:
    """Train the demo model from nothing and save it in float32, printing progress.

    Two processes of one thread each, one with each share of the families, add up their gradients: at this
    size two threads of one process wait for each other longer than they compute.
    """
    with tempfile.TemporaryDirectory() as meeting:
        arguments = (plan, out, Path(meeting) / "store")
        start_processes(_train_share, arguments, nprocs=len(SHARES))  # type: ignore[no-untyped-call]


def _train_share(rank: int, plan: Plan, out: Path, store: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    distributed.init_process_group("gloo", init_method=store.as_uri(), rank=rank, world_size=len(SHARES))
    model = LlamaForCausalLM(demo_config())
    forward = FastForward(model)
    batches = training_batches(SHARES[rank], plan.seed)
    for batch in next(batches).values():
        forward.check(batch)
    optimizers = _optimizers(model, plan)
    gradients = _flat_gradients(model)
    dropping = Random(f"{plan.seed}/{rank}")
    seen = torch.zeros(len(PORTIONS), 2)  # loss, accuracy: running means
    start = time.monotonic()
    for step in range(plan.steps):
        gradients.zero_()
        now = torch.zeros_like(seen)
        for name, batch in next(batches).items():
            layers = model.config.num_hidden_layers
            logits = forward(batch, {i for i in range(layers) if dropping.random() < plan.layer_drop})
            loss = F.cross_entropy(logits, batch.targets)
            torch.autograd.backward(loss / len(PORTIONS))
            hit = (logits.argmax(-1) == batch.targets).float().mean()
            now[list(PORTIONS).index(name)] = torch.stack((loss.detach(), hit))
        distributed.all_reduce(gradients)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * _rate(step, plan)
            optimizer.step()
        seen.lerp_(now, max(1 / (step + 1), 0.03))
        if step % 100 == 99 or step + 1 == plan.steps:
            distributed.all_reduce(both := seen.clone())
            spent = time.monotonic() - start
            named = zip(PORTIONS, both.tolist(), strict=True)
            shown = "  ".join(f"{name} {loss:.3f}/{hit:.2f}" for name, (loss, hit) in named)
            if rank == 0:
                print(f"step {step + 1}/{plan.steps}  {spent:.0f} s  loss/accuracy: {shown}", flush=True)
    if rank == 0:
        save(model, out)
    distributed.destroy_process_group()


def _flat_gradients(model: LlamaForCausalLM) -> Tensor:
    """Make every parameter's gradient a view of one flat tensor, so that one call adds them all up."""
    parameters = list(model.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    flat = torch.zeros(sum(sizes))
    for parameter, part in zip(parameters, torch.split(flat, sizes), strict=True):
        parameter.grad = part.view_as(parameter)
    return flat


def save(model: LlamaForCausalLM, out: Path) -> None:
    """Write the Hugging Face folder: configuration, float32 weights and tokenizer."""
    model.save_pretrained(out)
    build_tokenizer(MAX_LENGTH).save_pretrained(out)
    described = out / "tokenizer_config.json"  # by the class name that every version of transformers knows
    described.write_text(described.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    for path in out.iterdir():
        path.chmod(0o644)  # safetensors makes its file readable by its owner alone


def _rate(step: int, plan: Plan) -> float:
    """Warm up, stay, then fall to zero over the last half along a cosine."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    fall = max(0.0, (step / plan.steps - 0.4) / 0.6)
    return 0.5 * (1 + math.cos(math.pi * fall))


def _optimizers(model: LlamaForCausalLM, plan: Plan) -> list[torch.optim.Optimizer]:
    """Return Muon (Jordan et al. 2024) for the layers' matrices and AdamW for all the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=plan.matrix_rate, weight_decay=plan.weight_decay),
        torch.optim.AdamW(others, lr=plan.other_rate, weight_decay=plan.weight_decay, betas=(0.9, 0.98)),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


# --- the command ------------------------------------------------------------------------------------------


def evaluate(folder: Path, *, samples: int, seed: int) -> None:
    """Print the accuracy of a saved model on unseen prompts of each family."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    print("family      samples  accuracy  log-odds  accuracy by kind")
    for family in FAMILIES.values():
        result = measure(model, tokenizer, unseen_sample(family, samples, seed))
        kinds = "  ".join(f"{kind} {accuracy:.3f}" for kind, accuracy in result.by_kind.items())
        print(f"{family.name:<12}{samples:>7}  {result.accuracy:>8.3f}  {result.log_odds:>8.2f}  {kinds}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, evaluate or write the probes, as asked on the command line."""
    default = Plan()
    parser = argparse.ArgumentParser(prog="python -m neuroscan_farm.demo.train", description=main.__doc__)
    parser.add_argument("--out", type=Path, help="train, and save the Hugging Face folder here")
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--layer-drop", type=float, default=default.layer_drop)
    parser.add_argument("--evaluate", action="store_true", help="measure --out, or the bundled model")
    parser.add_argument("--samples", type=int, default=1000, help="unseen prompts of each family")
    parser.add_argument("--write-probes", action="store_true", help="write the bundled probe files again")
    asked = parser.parse_args(arguments)
    if not (asked.out or asked.evaluate or asked.write_probes):
        parser.error("nothing to do: give --out, --evaluate or --write-probes")
    if asked.write_probes:
        for path in write_probes(PROBES_DIR):
            print(path)
    if asked.out and not asked.evaluate:
        train(Plan(steps=asked.steps, seed=asked.seed, layer_drop=asked.layer_drop), asked.out)
    if asked.out or asked.evaluate:
        evaluate(asked.out or MODEL_DIR, samples=asked.samples, seed=asked.seed)


if __name__ == "__main__":
    main()
