"""The door through which probe files come in: JSON or YAML text to data, and `parse_probe` on that."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.errors import ProbeError
from neuroscan_farm.probes.plain_data import show
from neuroscan_farm.probes.reader import parse_probe
from neuroscan_farm.yaml_text import NotYaml, read_yaml

__all__ = ["FILE_SUFFIXES", "load_probe_file", "parse_probe", "read_probe"]

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
    return read_probe(content, where=str(path))


def read_probe(content: bytes, *, where: str) -> Probe:
    """Read the probe in what a file holds; `where` names the file, and its ending tells JSON from YAML.

    Raises:
        ProbeError: see `load_probe_file`.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProbeError(f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    data = _read_json(text, where=where) if where.lower().endswith(".json") else _read_yaml(text, where=where)
    return parse_probe(data, where=where)


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
        return read_yaml(text, loader=_UniqueKeyLoader)
    except NotYaml as error:
        raise ProbeError(f"{where}: not valid YAML{error.place}: {error}") from None
