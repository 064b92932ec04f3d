"""The door through which probe files come in: JSON or YAML text to data, and `parse_probe` on that."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import yaml

from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.errors import ProbeError
from neuroscan_farm.probes.plain_data import show
from neuroscan_farm.probes.reader import parse_probe

__all__ = ["FILE_SUFFIXES", "load_probe_file", "parse_probe"]

FILE_SUFFIXES = (".json", ".yaml", ".yml")


def load_probe_file(path: str | Path) -> Probe:
    """Read the probe in a `.json`, `.yaml` or `.yml` file.

    Raises:
        ProbeError: the file cannot be read, is not UTF-8, is not valid JSON or YAML, or holds a probe with
            problems; the message lists all of these.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FILE_SUFFIXES:
        raise ProbeError(f"{path}: not a probe file; accepted: a name ending in {', '.join(FILE_SUFFIXES)}")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ProbeError(f"{path}: no such file; give the path of an existing probe file") from None
    except OSError as error:
        raise ProbeError(f"{path}: cannot be read ({error.strerror}); give a readable file") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProbeError(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    data = _read_json(text, where=str(path)) if suffix == ".json" else _read_yaml(text, where=str(path))
    return parse_probe(data, where=str(path))


def _read_json(text: str, *, where: str) -> object:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ProbeError(f"{where}: the key {show(twice)} stands twice in one object; keep one of them")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ProbeError(
            f"{where}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except RecursionError:
        raise ProbeError(f"{where}: nested too deeply; a probe needs few levels") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ProbeError(f"{where}: not valid JSON: {error}") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which would let the second of two equal keys win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        written = list(node.value)  # before a merge key (<<) adds its own, which may repeat
        mapping = super().construct_mapping(node, deep=deep)
        seen: set[object] = set()
        for key_node, _ in written:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {show(key_node.value)} stands twice in one mapping",
                    key_node.start_mark,
                )
            seen.add(key_node.value)
        return mapping


def _read_yaml(text: str, *, where: str) -> object:
    try:
        return cast(object, yaml.load(text, Loader=_UniqueKeyLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ProbeError(f"{where}: not valid YAML{place}: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
        raise ProbeError(f"{where}: not valid YAML at line {line}, column {column}: {error.reason}") from None
    except RecursionError:
        raise ProbeError(f"{where}: nested too deeply; a probe needs few levels") from None
    except ValueError as error:  # a date such as 2026-13-45
        raise ProbeError(f"{where}: not valid YAML: {error}") from None
