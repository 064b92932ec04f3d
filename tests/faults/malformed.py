"""Malformed input, made of sound input and a seed: text that was damaged, and data in which something else stands."""

from __future__ import annotations

import copy
import datetime
import math
from collections.abc import Callable
from random import Random
from typing import Any

# What breaks readers: of YAML, of JSON, of numbers, of text, of paths.
SNIPPETS = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\r", b"\t", b"\x85", b"\xe2\x80\xa8", b"\xed\xa0\x80",
    b"{", b"}", b"[", b"]", b"[[[[[[[[", b"'", b'"', b"\\", b"\\ud800", b"#", b": ", b"- ", b"? ", b"| ", b"> ",
    b"&a ", b"*a", b"*nobody", b"<<: *a", b"<<: 3", b"%YAML 9.9\n", b"---\n", b"...\n", b"@", b"`",
    b"!!python/object/apply:os.system ['true'] ", b"!!binary '*'", b"!!int x", b"!!int ''", b"!!float x", b"!!bool x",
    b"!!timestamp x", b"!!set [1]", b"!!omap 3", b"!!pairs 3", b"!!null x", b"!nothing x", b"!!map 3", b"!!seq {a: 1}",
    b"2026-13-45", b"2026-01-01T99:99:99Z", b".inf", b".nan", b"NaN", b"-Infinity", b"1e999", b"1_000", b"0x", b"0b2",
    b"9" * 5000, b"1:99:99", b"=", b"~", b"yes", b"null", b"[" * 3000, b"{a: " * 1500, b"../../../etc/passwd",
    b"'{}%s$(true)", b"x" * 70_000,
)  # fmt: skip

# What stands where something else is expected, as JSON or YAML can give it.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**40, -(10**400), 0.5, 1e308, math.inf, -math.inf, math.nan,
    "", " ", "x", "0", "-1", "\x00", "a\nb", "\ud800", "\u202e", "é" * 200, "x" * 100_000, "../..", "/", "~nobody/x", "NaN",
    [], {}, [[]], [None], [[[[[[]]]]]], {"": None}, {"a": {"b": []}}, ["x"] * 3, [1, "1", 1.0, True],
    datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), b"\x00bytes", {1, 2},
    {1: 2}, {None: 1}, {True: 1}, {(1, 2): 3}, (1, 2),
)  # fmt: skip


def damaged(sound: bytes, random: Random) -> bytes:
    """Return `sound` with one to three things done to its bytes."""
    data = bytearray(sound)
    for _ in range(random.randint(1, 3)):
        _DAMAGES[random.randrange(len(_DAMAGES))](data, random)
    return bytes(data)


def _flip(data: bytearray, random: Random) -> None:
    for _ in range(random.randint(1, 4)):
        if data:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _cut(data: bytearray, random: Random) -> None:
    del data[random.randint(0, len(data)) :]


def _take_out(data: bytearray, random: Random) -> None:
    start = random.randint(0, len(data))
    del data[start : start + random.randint(1, 40)]


def _twice(data: bytearray, random: Random) -> None:
    start = random.randint(0, len(data))
    piece = data[start : start + random.randint(1, 60)]
    where = random.randint(0, len(data))
    data[where:where] = piece


def _put_in(data: bytearray, random: Random) -> None:
    where = random.randint(0, len(data))
    data[where:where] = random.choice(SNIPPETS)


def _instead_of_a_word(data: bytearray, random: Random) -> None:
    words = bytes(data).split(b" ")
    words[random.randrange(len(words))] = random.choice(SNIPPETS)
    data[:] = b" ".join(words)


def _zeros(data: bytearray, random: Random) -> None:
    start = random.randint(0, len(data))
    size = min(random.randint(1, 64), len(data) - start)
    data[start : start + size] = bytes(size)


_DAMAGES: tuple[Callable[[bytearray, Random], None], ...] = (
    _flip, _cut, _take_out, _twice, _put_in, _put_in, _instead_of_a_word, _zeros,
)  # fmt: skip


def otherwise(sound: Any, random: Random) -> Any:
    """Return a copy of plain data in which one or two places hold something else, are gone, or are there in addition."""
    data = copy.deepcopy(sound)
    for _ in range(random.randint(1, 2)):
        if random.random() < 0.03:
            return _odd(random)
        places = list(_places(data))
        if not places:
            return data
        holder, key = random.choice(places)
        match random.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[f"{key}x" if isinstance(key, str) else "x"] = holder.pop(key)
            case 2 if isinstance(holder, dict):
                odd = random.choice(
                    ["", "nobody", "Model", 3, None, "x" * 3000, "a.b", "\ud800", ("a", "b"), True]
                )
                holder[odd] = _odd(random)
            case 3 if isinstance(holder, list):
                holder.insert(key, _odd(random))
            case _:
                holder[key] = _odd(random)
    return data


def _odd(random: Random) -> Any:
    return copy.deepcopy(random.choice(ODD_VALUES))  # a list of them must not be changed for the next one


def _places(data: Any) -> Any:
    if isinstance(data, dict):
        for key in list(data):
            yield data, key
            yield from _places(data[key])
    elif isinstance(data, list):
        for index in range(len(data)):
            yield data, index
            yield from _places(data[index])
