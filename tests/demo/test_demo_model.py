"""The bundled demo model and its probes: small enough, good enough, and measured on prompts it never saw."""

from __future__ import annotations

import ast
import json
import re
import string
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

import neuroscan_farm.probes
from neuroscan_farm.demo import MODEL_DIR
from neuroscan_farm.demo.families import FAMILIES, is_held_out, solve, training_tasks, unseen_tasks

PROBES = sorted((Path(neuroscan_farm.probes.__path__[0]) / "builtin").glob("demo-*.json"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def accuracies(tokenizer: Any) -> dict[str, float]:
    from transformers import AutoModelForCausalLM

    from neuroscan_farm.demo.measure import measure, unseen_sample

    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR).eval()
    return {
        name: measure(model, tokenizer, unseen_sample(family, 200, seed=99)).accuracy
        for name, family in FAMILIES.items()
    }


def samples_of(path: Path) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["samples"]
    return samples


def independent_answer(category: str, prompt: str) -> str:
    """Answer without the package's own solver."""
    if category == "arithmetic":
        return str(_calculate(ast.parse(prompt.rstrip("="), mode="eval").body))
    context, query = prompt.rsplit(" ", 1)
    if category == "ordering":
        falling = sorted(map(int, context), reverse=True)
        at = {"max=": 0, "2nd=": 1, "mid=": len(falling) // 2, "min=": len(falling) - 1}[query]
        return str(falling[at])
    if category == "counting":
        return str(sum(letter == query[1] for letter in context))
    if category == "json":
        value = json.loads(context)
        for key in re.findall(r"\w", query):
            value = value[int(key) if key.isdigit() else key]
        return str(value)
    bound = {pair[0]: pair[1] for pair in context.split(" ")}  # recall and chain
    value = bound[query]
    while value.isalpha():
        value = bound[value]
    return str(value)


def _calculate(node: ast.expr) -> int:
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int)
        return node.value
    assert isinstance(node, ast.BinOp)
    left, right = _calculate(node.left), _calculate(node.right)
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Sub):
        return left - right
    assert isinstance(node.op, ast.Mod)
    return left % right


def test_the_folder_is_at_most_eight_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) <= 8_000_000


def test_each_digit_is_exactly_one_token(tokenizer: Any) -> None:
    ids = [tokenizer.encode(digit, add_special_tokens=False) for digit in string.digits]
    assert all(len(one) == 1 for one in ids)
    assert len({one[0] for one in ids}) == 10


def test_every_printable_character_survives_the_tokenizer(tokenizer: Any) -> None:
    ids = tokenizer.encode(string.printable, add_special_tokens=False)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == string.printable


def test_an_unknown_character_becomes_unk_and_the_rest_is_kept(tokenizer: Any) -> None:
    seven = tokenizer.encode("7", add_special_tokens=False)
    assert tokenizer.encode("é7") == [tokenizer.bos_token_id, tokenizer.unk_token_id, *seven]


def test_at_least_three_families_are_above_nine_tenths_on_unseen_prompts(
    accuracies: dict[str, float],
) -> None:
    assert sum(accuracy > 0.9 for accuracy in accuracies.values()) >= 3, accuracies


def test_no_family_is_near_guessing(accuracies: dict[str, float]) -> None:
    assert min(accuracies.values()) > 0.5, accuracies


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_training_never_draws_a_held_out_prompt(family: Any) -> None:
    for task in islice(training_tasks(family, Random(5)), 300):
        assert not any(is_held_out(task.context + query) for query in task.queries)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_families_and_an_independent_solver_agree(family: Any) -> None:
    for task in islice(unseen_tasks(family, Random(6)), 300):
        assert task.answer == independent_answer(family.name, task.prompt), task.prompt


def test_there_is_one_probe_for_each_family() -> None:
    assert [path.stem for path in PROBES] == sorted(f"demo-{name}" for name in FAMILIES)


@pytest.mark.parametrize("path", PROBES, ids=lambda path: path.stem)
def test_a_probe_has_right_answers_to_different_unseen_prompts(path: Path) -> None:
    samples = samples_of(path)
    assert len({sample["prompt"] for sample in samples}) == 32
    for sample in samples:
        right = independent_answer(sample["category"], sample["prompt"])
        assert sample["answer"] == right == solve(sample["prompt"]), sample
        assert is_held_out(sample["prompt"]), sample


@pytest.mark.parametrize("path", PROBES, ids=lambda path: path.stem)
def test_a_probe_has_balanced_answers_and_few_lengths(path: Path) -> None:
    samples = samples_of(path)
    assert max(Counter(sample["answer"] for sample in samples).values()) <= 4
    assert len({len(sample["prompt"]) for sample in samples}) <= 4


def test_the_bundled_probes_are_what_the_families_make(tmp_path: Path) -> None:
    from neuroscan_farm.demo.probe_files import write_probes

    made = {path.name: path.read_text(encoding="utf-8") for path in write_probes(tmp_path)}
    assert made == {path.name: path.read_text(encoding="utf-8") for path in PROBES}
