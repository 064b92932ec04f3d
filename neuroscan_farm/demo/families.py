"""The demo model's tasks: generators and one solver per family, in pure Python.

Every task is a context and a query whose answer is one digit, and the prompt is `context + query`. A prompt
is held out by its own digest (`is_held_out`), so training never sees an evaluation prompt, whatever the seed.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

HELD_OUT_SHARE = 8
"""One prompt in this many is held out of training."""


@dataclass(frozen=True, slots=True)
class Task:
    """One context with one or more queries; only the first query makes the prompt that is measured.

    The further queries ask about the same context, and exist because training learns from them for free.
    """

    family: str
    kind: str
    context: str
    queries: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """The text whose next token is the answer."""
        return self.context + self.queries[0]

    @property
    def answer(self) -> str:
        """The right digit."""
        return solve(self.prompt)


def is_held_out(prompt: str) -> bool:
    """Tell whether a prompt belongs to evaluation; decided by its SHA-256 alone."""
    return hashlib.sha256(prompt.encode()).digest()[0] % HELD_OUT_SHARE == 0


# --- solving: from the prompt's text alone ----------------------------------------------------------------

_ARITHMETIC = re.compile(r"[-+*%()\d]+=")
_ORDERING = re.compile(r"(\d+) (max|min|mid|2nd)=")
_COUNTING = re.compile(r"([a-z]+) #([a-z])=")
_FLAT = re.compile(r'\{.*\} "([a-z])":')
_NESTED = re.compile(r'\{.*\} "([a-z])"\[(\d)\]:')
_BINDINGS = re.compile(r"((?:[a-z]\w )+)([a-z])")


def solve(prompt: str) -> str:
    """Return the right digit of a prompt of any family.

    Raises:
        ValueError: The text is no prompt of this module.
    """
    if _ARITHMETIC.fullmatch(prompt):
        return _solve_arithmetic(prompt[:-1])
    if found := _ORDERING.fullmatch(prompt):
        ranked: list[str] = sorted(found[1])
        place = {"min": 0, "mid": len(ranked) // 2, "2nd": -2, "max": -1}[found[2]]
        return ranked[place]
    if found := _COUNTING.fullmatch(prompt):
        return str(found[1].count(found[2]))
    if found := _FLAT.fullmatch(prompt):
        return _only_digit(rf'"{found[1]}":(\d)', prompt)
    if found := _NESTED.fullmatch(prompt):
        return _only_digit(rf'"{found[1]}":\[(?:\d,){{{found[2]}}}(\d)', prompt)
    if found := _BINDINGS.fullmatch(prompt):
        values: dict[str, str] = {pair[0]: pair[1] for pair in found[1].split()}
        value = values[found[2]]
        while value in values:
            value = values[value]
        return value
    raise ValueError(f"{prompt!r} is no prompt of a demo family")


def _only_digit(pattern: str, prompt: str) -> str:
    found = re.search(pattern, prompt)
    if found is None:
        raise ValueError(f"{prompt!r} asks for a key that its context lacks")
    return found[1]


def _solve_arithmetic(expression: str) -> str:
    """Evaluate `+ - *` over single digits, with at most one bracket and an optional closing `%10`."""
    modulo = expression.endswith(")%10")
    inner = expression.removesuffix("%10").strip("()") if modulo else expression
    bracket = re.search(r"\((.*?)\)", inner)
    if bracket:
        inner = inner[: bracket.start()] + str(_sum_of_products(bracket[1])) + inner[bracket.end() :]
    total = _sum_of_products(inner.replace("--", "+").replace("+-", "-"))
    return str(total % 10 if modulo else total)


def _sum_of_products(expression: str) -> int:
    total = 0
    for sign, term in re.findall(r"([-+]?)([\d*]+)", expression):
        product = 1
        for factor in term.split("*"):
            product *= int(factor)
        total += -product if sign == "-" else product
    return total


# --- generating -------------------------------------------------------------------------------------------


def _arithmetic(rng: Random, kind: str) -> Task:
    """Draw until the answer is one digit and is the one asked for, so that answers are balanced."""
    wanted = str(rng.randrange(10))
    while True:
        a, b, c = (rng.choice("0123456789") for _ in range(3))
        p, q = rng.choice("+-"), rng.choice("+-")
        text = {
            "two": f"{a}{p}{b}=",
            "three": f"{a}{p}{b}{q}{c}=",
            "bracket": rng.choice((f"({a}{p}{b}){q}{c}=", f"{a}{p}({b}{q}{c})=")),
            "modulo": f"({a}+{b}+{c})%10=",
        }[kind]
        if _solve_arithmetic(text[:-1]) == wanted:
            return Task("arithmetic", kind, "", (text,))


def _recall(rng: Random, kind: str) -> Task:
    names = rng.sample(string.ascii_lowercase, int(kind))
    values = _digits(rng, len(names))
    context = " ".join(f"{name}{value}" for name, value in zip(names, values, strict=True))
    return Task("recall", kind, context, _shuffled(rng, [f" {name}" for name in names]))


def _ordering(rng: Random, kind: str) -> Task:
    low, high = sorted(rng.sample(range(10), 2))
    digits = "".join(str(rng.randint(low, high)) for _ in range(int(kind)))
    return Task("ordering", kind, digits, _shuffled(rng, [" max=", " min=", " mid=", " 2nd="]))


def _counting(rng: Random, kind: str) -> Task:
    length = int(kind)
    letters = rng.sample(string.ascii_lowercase, 4)
    count = rng.randrange(min(length, 10))
    text = [letters[0]] * count + rng.choices(letters[1:], k=length - count)
    rng.shuffle(text)
    others = _shuffled(rng, [f" #{letter}=" for letter in letters[1:] if text.count(letter) < 10])
    return Task("counting", kind, "".join(text), (f" #{letters[0]}=", *others))


def _json(rng: Random, kind: str) -> Task:
    if kind == "array":
        names = rng.sample(string.ascii_lowercase, 2)
        rows = [_digits(rng, 3) for _ in names]
        body = ",".join(f'"{name}":[{",".join(row)}]' for name, row in zip(names, rows, strict=True))
        queries = [f' "{name}"[{place}]:' for name in names for place in range(3)]
        return Task("json", kind, "{" + body + "}", _shuffled(rng, queries))
    names = rng.sample(string.ascii_lowercase, int(kind))
    body = ",".join(f'"{name}":{value}' for name, value in zip(names, _digits(rng, len(names)), strict=True))
    return Task("json", kind, "{" + body + "}", _shuffled(rng, [f' "{name}":' for name in names]))


def _chain(rng: Random, kind: str) -> Task:
    """Six variables, of which two hold a digit and the others an earlier variable; asked at a given depth."""
    wanted = int(kind)
    while True:
        names = rng.sample(string.ascii_lowercase, 6)
        depth: dict[str, int] = {}
        pairs: list[str] = []
        second_root = rng.randrange(1, 5)
        for place, name in enumerate(names):
            if place in (0, second_root):
                depth[name] = 0
                pairs.append(f"{name}{rng.randrange(10)}")
            else:
                parent = rng.choice(names[:place])
                depth[name] = depth[parent] + 1
                pairs.append(f"{name}{parent}")
        asked = [name for name in names if depth[name] == wanted]
        if asked:
            first = rng.choice(asked)
            others = _shuffled(rng, [f" {name}" for name in names if name != first])
            return Task("chain", kind, " ".join(pairs), (f" {first}", *others))


def _digits(rng: Random, count: int) -> list[str]:
    return [str(rng.randrange(10)) for _ in range(count)]


def _shuffled(rng: Random, queries: list[str]) -> tuple[str, ...]:
    rng.shuffle(queries)
    return tuple(queries)


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of question, with the sizes or shapes it comes in; prompts of one shape are equally long."""

    name: str
    description: str
    kinds: tuple[str, ...]
    draw: Callable[[Random, str], Task]
    easier: tuple[str, ...] = ()
    """Kinds that only training draws, since the harder ones are learned from them."""


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "arithmetic",
            "Sums and differences of two or three digits, also with a bracket or modulo 10: (2+7)-5=",
            ("two", "three", "bracket", "modulo"),
            _arithmetic,
        ),
        Family("recall", "The value that a letter was given: a4 k7 c1 d9 k", ("4", "6"), _recall, ("2", "3")),
        Family(
            "ordering",
            "Largest, smallest, middle or second largest: 52816 mid=",
            ("5", "7"),
            _ordering,
            ("3",),
        ),
        Family("counting", "How many times a letter occurs: abbacabd #a=", ("8", "12"), _counting, ("4",)),
        Family(
            "json",
            'A value from a JSON object, flat or with lists: {"x":3,"y":8,"k":2} "y":',
            ("3", "4", "array"),
            _json,
            ("2",),
        ),
        Family(
            "chain",
            "A variable followed over one to three others: a4 ka ck c",
            ("1", "2", "3"),
            _chain,
            ("0",),
        ),
    )
}
"""Every family by name."""


def training_tasks(family: Family, rng: Random) -> Iterator[Task]:
    """Yield tasks for training for ever; no query left in them makes a held-out prompt."""
    while True:
        task = family.draw(rng, rng.choice(family.kinds + family.easier))
        queries = tuple(query for query in task.queries if not is_held_out(task.context + query))
        if queries:
            yield Task(task.family, task.kind, task.context, queries)


def unseen_tasks(family: Family, rng: Random) -> Iterator[Task]:
    """Yield held-out tasks for ever, its kinds in turn."""
    while True:
        for kind in family.kinds:
            task = family.draw(rng, kind)
            while not is_held_out(task.prompt):
                task = family.draw(rng, kind)
            yield task
