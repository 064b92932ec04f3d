"""Every answer of the built-in probes is worked out again here, not read from the file."""

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from neuroscan_farm.domain.probes import DIGITS
from neuroscan_farm.probes.catalogue import load_probe

INSTRUCT = ("math", "eq", "json")


def is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, n))


def iterate(step: Callable[[Any], Any], start: Any, *, times: int) -> Any:
    for _ in range(times):
        start = step(start)
    return start


def only(found: Any) -> Any:
    """The one element; a question with two answers fails here."""
    (element,) = found
    return element


MATH: dict[str, Callable[[], Any]] = {
    "arithmetic-1": lambda: (58 + 67 + 79) // 10 % 10,
    "arithmetic-2": lambda: Fraction(84 - 36, 6) - 7,
    "arithmetic-3": lambda: 46 * 54 // 100 % 10,
    "arithmetic-4": lambda: 2 * 19 - 4 * 9 + 3,
    "arithmetic-5": lambda: 37 * 48 % 10,
    "arithmetic-6": lambda: Fraction(2**7 - 11, 13),
    "number-theory-1": lambda: 1_000_000 % 9,
    "number-theory-2": lambda: 2**10 % 7,
    "number-theory-3": lambda: 7**23 % 10,
    "number-theory-4": lambda: len(re.search(r"0*$", str(math.factorial(25))).group()),
    "number-theory-5": lambda: sum(is_prime(n) for n in range(20, 51)),
    "number-theory-6": lambda: math.gcd(56, 72),
    "number-theory-7": lambda: sum(36 % n == 0 for n in range(1, 37)),
    # Two circles touch where their distance is the sum of the radii, and meet twice where it is less.
    "geometry-1": lambda: {-1: 0, 0: 1, 1: 2}[(3 + 5 > 8) - (3 + 5 < 8)],
    "geometry-2": lambda: math.isqrt(9**2 + 12**2) - 12,
    "geometry-3": lambda: Fraction(8 * 1, 2),
    "geometry-4": lambda: Fraction(26, 2) - 8,
    "geometry-5": lambda: 2 - 6 + 12,
    "geometry-6": lambda: only(n for n in range(3, 100) if Fraction((n - 2) * 180, n) == 140),
    "word-problem-1": lambda: (24 - 24 // 3) // 2 - 8,
    "word-problem-2": lambda: Fraction(18 * 60 + 50 + 190 - 20 * 60, 60),
    "word-problem-3": lambda: 61 % 8 - 1,
    "word-problem-4": lambda: only(pen + 2 for pen in range(1, 34) if 4 * pen + 3 * (pen + 2) == 34),
    "word-problem-5": lambda: only(b for b in range(1, 100) if 4 * b + 14 == 2 * (b + 14)),
    "word-problem-6": lambda: only(n for n in range(21) if 7 * n + 4 * (20 - n) == 104),
    "sequence-1": lambda: iterate(lambda n: n - 19, 95, times=5),
    "sequence-2": lambda: iterate(lambda n: n // 2, 90, times=5),
    "sequence-3": lambda: iterate(lambda ab: (ab[1], sum(ab)), (1, 3), times=9)[0] % 10,
    "sequence-4": lambda: min(n for n in range(89, 0, -12) if n > 0),
    "sequence-5": lambda: only(n for n in range(100) if n == 2 * 3 + 1 and 2 * n + 1 == 15),
}


def depth_of(value: object, wanted: str) -> int:
    """How many arrays of `value` enclose `wanted`; 0 where it is not there."""
    if not isinstance(value, list):
        return 0
    if wanted in value:
        return 1
    inner = max((depth_of(element, wanted) for element in value), default=0)
    return inner + 1 if inner else 0


def below(person: dict[str, Any]) -> int:
    return sum(1 + below(report) for report in person["reports"])


def seats(plans: dict[str, Any], name: str) -> int:
    plan = plans[name]
    return plan["seats"] if plan["seats"] is not None else seats(plans, plan["inherits"])


def last_value(nodes: dict[str, Any], name: str) -> int:
    node = nodes[name]
    return node["value"] if node["next"] is None else last_value(nodes, node["next"])


def by_id(elements: list[dict[str, Any]], wanted: object) -> dict[str, Any]:
    return only(element for element in elements if element["id"] == wanted)


def where(elements: list[Any], holds: Callable[[Any], bool]) -> int:
    """The one position whose element `holds`."""
    return only(position for position, element in enumerate(elements) if holds(element))


def resolve(document: dict[str, Any], pointer: str) -> Any:
    for part in pointer.removeprefix("#/").split("/"):
        document = document[part]
    return document


JSON: dict[str, Callable[[Any], Any]] = {
    "read-1": lambda d: d["priority"],
    "read-2": lambda d: d["retries"],
    "read-3": lambda d: d["score"],
    "path-1": lambda d: d["state"]["fade"]["level"],
    "path-2": lambda d: d["a"]["e"]["d"],
    "path-3": lambda d: d[2][1],
    "path-4": lambda d: by_id(only(s for s in d["sites"] if s["name"] == "south")["sensors"], "t1")["value"],
    "path-5": lambda d: d["menu"]["file"]["open"] + d["menu"]["edit"]["redo"],
    "path-6": lambda d: depth_of(d, "k"),
    "count-1": lambda d: len(d["errors"]),
    "count-2": lambda d: len(set(d["votes"])),
    "count-3": lambda d: sum(row["cells"][-1] == 0 for row in d["rows"]),
    "count-4": lambda d: sum(value is None for value in d.values()),
    "count-5": lambda d: below(d["lead"]),
    "count-6": lambda d: sum(price > 10 for price in d.values()),
    "count-7": lambda d: sum(user["active"] is True for user in d),
    "count-8": lambda d: len(d["tags"]),
    "count-9": lambda d: len(list(itertools.chain(*d["halls"].values()))),
    "reference-1": lambda d: iterate(lambda at: d["next"][at], d["start"], times=3),
    "reference-2": lambda d: seats(d["plans"], "team"),
    "reference-3": lambda d: last_value(d["nodes"], d["root"]),
    "reference-4": lambda d: by_id(d["cities"], by_id(d["people"], 11)["city"])["zone"],
    "reference-5": lambda d: resolve(d, d["fields"]["load"]["$ref"])["max"],
    "schema-2": lambda d: len(set(d["required"]) - set(d["object"])),
    "schema-3": lambda d: sum(d["rule"]["min"] <= value <= d["rule"]["max"] for value in d["values"]),
    "schema-4": lambda d: where(d["levels"], lambda level: level not in d["allowed"]),
    "schema-5": lambda d: where(d, lambda element: not isinstance(element["qty"], int)),
    "schema-6": lambda d: only(at for at, e in enumerate(d) if e in d[:at]),
    "schema-7": lambda d: where(d, lambda element: not {"t", "ok"} <= set(element)),
}


def broken_line(prompt: str) -> int:
    broken = []
    for number, text in re.findall(r"^line (\d+): (.*)$", prompt, flags=re.MULTILINE):
        try:
            json.loads(text)
        except ValueError:
            broken.append(int(number))
    return only(broken)


def test_every_math_answer_is_what_the_calculation_gives():
    probe = load_probe("math")
    assert {sample.sample_id: sample.answer for sample in probe.samples} == {
        sample_id: str(calculation()) for sample_id, calculation in MATH.items()
    }


def test_every_json_answer_is_what_the_document_in_the_question_says():
    for sample in load_probe("json").samples:
        if sample.sample_id == "schema-1":
            found = broken_line(sample.prompt)
        else:
            document, end = json.JSONDecoder().raw_decode(sample.prompt)
            assert sample.prompt[end:].startswith("\n\n"), sample.sample_id
            found = JSON[sample.sample_id](document)
        assert str(found) == sample.answer, sample.sample_id


def test_every_eq_question_says_what_makes_its_answer_right():
    for sample in load_probe("eq").samples:
        why = sample.metadata["why"]
        assert isinstance(why, str), sample.sample_id
        assert why.endswith("."), sample.sample_id


def test_every_eq_question_with_options_numbers_them_0_to_9():
    with_options = 0
    for sample in load_probe("eq").samples:
        if sample.category == "belief":
            continue
        with_options += 1
        assert tuple(re.findall(r"\b([0-9]) ", sample.prompt.rpartition("\n")[2])) == DIGITS, sample.sample_id
    assert with_options == 20


@pytest.mark.parametrize("name", INSTRUCT)
def test_a_built_in_probe_is_large_enough_labelled_and_in_several_categories(name):
    probe = load_probe(name)
    assert len(probe.samples) >= 24
    assert probe.is_labelled
    assert len(probe.categories()) >= 5
    assert len({sample.prompt for sample in probe.samples}) == len(probe.samples)


def first_digit(digits: list[str]) -> str:
    return digits[0]


def last_digit(digits: list[str]) -> str:
    return digits[-1]


def commonest_digit(digits: list[str]) -> str:
    return Counter(digits).most_common(1)[0][0]


@pytest.mark.parametrize("name", INSTRUCT)
def test_always_giving_one_digit_earns_no_more_than_chance(name):
    shares = Counter(sample.answer for sample in load_probe(name).samples)
    assert max(shares.values()) <= 0.2 * shares.total()
    assert set(shares) == set(DIGITS)


@pytest.mark.parametrize("guess", [first_digit, last_digit, commonest_digit])
@pytest.mark.parametrize("name", INSTRUCT)
def test_copying_a_digit_from_the_question_earns_little(name, guess):
    samples = load_probe(name).samples
    right = sum(
        guess(digits) == sample.answer for sample in samples if (digits := re.findall("[0-9]", sample.prompt))
    )
    assert right <= 0.2 * len(samples)


@pytest.mark.parametrize("name", INSTRUCT)
def test_the_text_ends_where_a_bare_digit_comes_next(name):
    probe = load_probe(name)
    assert all(probe.text_of(sample).endswith("\nanswer=") for sample in probe.samples)
