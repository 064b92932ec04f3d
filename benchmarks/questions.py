"""The probe files of the benchmark, in the form that layer-scan, neuro-scan and we read alike.

The questions are built like those of the peers' own probes (a sentence or two, then the place of a digit), so their
lengths are what users of this field measure with. What a random model answers does not matter; how long the prompts
are, how much their lengths differ and what they have in common does.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

KINDS = ("mixed", "shared-prefix")

_TASKS = (
    "Estimate the result of {a} times {b}. Rate from 0-9 how sure you are that it is below {c}.",
    "A triangle has sides of length {a}, {b} and {c}. Rate from 0-9 how likely this is a right triangle.",
    "Anna hears that her colleague {n} got the post she had hoped for {a} weeks long, and smiles. "
    "How glad is she, from 0 to 9?",
    "{n} has {a} apples and gives {b} of them away. How many tens are left?",
    "Is {a} closer to {b} or to {c}? Answer 0 for the first and 9 for the second.",
    "What is the last digit of {a} plus {b}?",
    "After a long and patient search {n} finds the ring that was lost {b} years ago in the garden of the old house, "
    "and weeps. Rate from 0-9 how strong the relief is, where 0 means not at all and 9 means overwhelming.",
    "Rate from 0-9 how well this list is sorted: {a}, {b}, {c}, {d}.",
)
_NAMES = ("Bruno", "Carla", "Dario", "Elena", "Farid", "Greta", "Hanna", "Igor")
_HEADER = (
    "You are a careful examiner. Read the question and answer with one digit and nothing else.\n"
    "Question: What is the last digit of 17 plus 25?\nAnswer: 2\n"
    "Question: Is 40 closer to 38 or to 60? Answer 0 for the first and 9 for the second.\nAnswer: 0\n"
)


def prompts(kind: str, count: int, *, seed: int = 0) -> list[str]:
    """Return `count` different prompts of a kind: "mixed" lengths, or all with one few-shot header."""
    rng = random.Random(f"{kind}-{seed}")
    made: list[str] = []
    while len(made) < count:
        numbers = {name: rng.randrange(2, 1000) for name in "abcd"}
        question = _TASKS[len(made) % len(_TASKS)].format(n=rng.choice(_NAMES), **numbers)
        prompt = f"{question}\nAnswer: " if kind == "mixed" else f"{_HEADER}Question: {question}\nAnswer: "
        if prompt not in made:
            made.append(prompt)
    return made


def write_probe(folder: Path, kind: str, count: int) -> Path:
    """Write a probe file of `count` samples and return its path."""
    rng = random.Random(f"answers-{kind}")
    samples = [
        {"id": f"s{number}", "prompt": prompt, "correct_answer": rng.randrange(10)}
        for number, prompt in enumerate(prompts(kind, count))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}-{count}.json"
    content = {"name": f"{kind}-{count}", "scoring": "digits", "samples": samples}
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def training_text() -> list[str]:
    """Return what the benchmark's tokenizer is trained on: other questions of the same kinds."""
    return [prompt for kind in KINDS for prompt in prompts(kind, 400, seed=1)]
