"""YAML to plain data, from people whom nobody knows: whatever is wrong with a text is one `NotYaml`, and nothing else.

PyYAML fails on wrong text with a dozen kinds of errors, recurses as deep as the text does, and gives aliases that unfold
to more values than a machine can print.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import yaml

_MOST_VALUES = 1_000_000  # with every alias written out: far beyond any request or probe, and quickly walked
_LONGEST_WHY = 300  # characters: PyYAML repeats what it found
_MOST_BITS = 4_096  # of an integer: Python refuses to print one of many more


class NotYaml(ValueError):
    """The text is no YAML, or none that plain data comes of. Says why in one line.

    Attributes:
        line: where, from 1; None where the whole is meant.
        column: likewise.
    """

    def __init__(self, why: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(why if len(why) <= _LONGEST_WHY else f"{why[: _LONGEST_WHY - 3]}...")
        self.line = line
        self.column = column

    @property
    def place(self) -> str:
        """Where it is, as ` at line 2, column 3`; empty where the whole is meant."""
        return "" if self.line is None else f" at line {self.line}, column {self.column}"


def read_yaml(text: str, *, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> object:
    """Return what the text says.

    Args:
        text: one YAML document.
        loader: PyYAML's safe one, or a stricter one.

    Raises:
        NotYaml: it says nothing that plain data could be made of.
    """
    try:
        data = cast(object, yaml.load(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = str(error.problem or error.context)
        raise NotYaml(why, mark.line + 1, mark.column + 1) if mark else NotYaml(why) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = error.position - (before.rfind("\n") + 1) + 1
        raise NotYaml(error.reason, before.count("\n") + 1, column) from None
    except RecursionError:
        raise NotYaml("nested too deeply; few levels are needed") from None
    except yaml.YAMLError as error:
        raise NotYaml(str(error).splitlines()[0]) from None
    except ValueError as error:  # a date such as 2026-13-45, an integer of thousands of digits
        raise NotYaml(str(error)) from None
    except (AttributeError, LookupError, TypeError, OverflowError):  # !!timestamp x, !!int, !!bool x
        raise NotYaml("a value does not fit the tag (!!) before it") from None
    _count(data, {}, [])
    return data


def _count(value: object, known: dict[int, int], above: list[int]) -> int:
    """Return how many values there are in `value` when every alias is written out."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise NotYaml(f"an integer of {value.bit_length()} bits; numbers here are small")
    if not isinstance(value, Mapping | list | tuple | set):
        return 1
    if id(value) in above:
        raise NotYaml("an alias stands inside of what it names")
    if id(value) not in known:
        above.append(id(value))
        inner: Iterable[object] = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        known[id(value)] = 1 + sum(_count(one, known, above) for one in inner)
        above.pop()
    if known[id(value)] > _MOST_VALUES:
        raise NotYaml(f"its aliases unfold to more than {_MOST_VALUES:,} values; write them out")
    return known[id(value)]
