"""Labels of layers, as neuro-scan's `report.json` has them, beside what a run found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from neuroscan_farm.errors import RequestError
from neuroscan_farm.report.ablation import UNKNOWN_LABEL
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.left_out import left_out_by
from neuroscan_farm.report.metric_text import METRIC_TEXT

_LONGEST_LABEL = 60


@dataclass(frozen=True, slots=True)
class LayerLabels:
    """What somebody said the layers of a model are for."""

    model: str | None  # as the file names it
    labels: tuple[str, ...]  # by layer; `unknown` where the file says nothing
    important: tuple[int, ...]  # the file's most important layers, the first most; empty where it names none

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that occur, in the order of their first layers; `unknown` comes last."""
        found = dict.fromkeys(self.labels)
        return tuple(sorted(found, key=lambda name: name == UNKNOWN_LABEL))


def read_labels(path: Path, *, depth: int) -> LayerLabels:
    """Read the labels of a model of `depth` layers from a file such as neuro-scan's `report.json`.

    Raises:
        RequestError: the file is missing or no such file, or it is of a model of another depth.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(
            f"{path}: cannot be read ({error.strerror}); name a neuro-scan report.json"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}: not JSON ({str(error)[:120]}); name a neuro-scan report.json") from None
    if not isinstance(data, dict):
        raise RequestError(f"{path}: holds {_kind(data)}; a report.json is an object with layer_labels")
    found = data.get("layer_labels")
    if not isinstance(found, dict):
        said = "layer_labels is missing" if "layer_labels" not in data else f"layer_labels is {_kind(found)}"
        raise RequestError(f'{path}: {said}; it maps layers to labels, as in {{"0": "early_processing"}}')
    if not found:
        raise RequestError(
            f"{path}: layer_labels is empty, so there is nothing to overlay; neuro-scan's `map` writes labels, "
            "and an ablation alone, as in our own report.json, tells none"
        )
    said_depth = data.get("total_layers")
    if said_depth is not None and said_depth != depth:
        raise RequestError(
            f"{path}: total_layers is {str(said_depth)[:40]}, but the run's model has {depth} layers; "
            "take the report of the same model"
        )
    labels = [UNKNOWN_LABEL] * depth
    for key, label in found.items():
        layer = int(key) if key.isdecimal() and len(key) < 9 else -1
        if not 0 <= layer < depth:
            raise RequestError(
                f"{path}: layer_labels names layer {key[:40]!r}, but the run's model has layers 0 to {depth - 1}; "
                "take the report of the same model"
            )
        if not isinstance(label, str) or not label.strip():
            raise RequestError(f"{path}: the label of layer {layer} is {_kind(label)}; a label is a text")
        labels[layer] = label.strip()[:_LONGEST_LABEL]
    important = data.get("top_important_layers")
    layers = [layer for layer in important if isinstance(layer, int)] if isinstance(important, list) else []
    model = data.get("model")
    return LayerLabels(
        model=model if isinstance(model, str) else None,
        labels=tuple(labels),
        important=tuple(layer for layer in layers if 0 <= layer < depth),
    )


def annotation_lines(
    findings: Findings, labels: LayerLabels, *, probe: str | None = None, top_k: int = 3
) -> list[str]:
    """Return a sentence for each of the best configurations: which labelled layers it runs again or leaves out.

    Args:
        findings: of the run.
        labels: of its model's layers.
        probe: whose best; None for the mean over the probes.
        top_k: how many of the best.
    """
    unknown = labels.labels.count(UNKNOWN_LABEL)
    lines = []
    if labels.model is not None and _short(labels.model) != findings.manifest.model_name:
        lines.append(
            f"The labels are of {labels.model}, the run is of {findings.manifest.model}: see that it is one model."
        )
    if unknown:
        lines.append(f"{unknown} of {len(labels.labels)} layers have no label there.")
    best = findings.ranked(probe)[:top_k]
    lines += [_sentence(c, findings, labels, probe) for c in best]
    if not best:
        lines.append("Nothing is ranked yet, so there is no winner to explain.")
    return lines


def _sentence(c: Configuration, findings: Findings, labels: LayerLabels, probe: str | None) -> str:
    depth, text = findings.manifest.depth, METRIC_TEXT[findings.metric]
    effect = c.results[probe].effects[findings.metric]
    start = f"Rank {c.results[probe].rank}, {c.label} ({text.change(effect.mean)} {text.unit})"
    visits = Counter(c.path.layers)
    again = sorted(layer for layer, count in visits.items() if count > 1)
    gone = left_out_by(c.path, depth)
    if again:
        what, layers = "duplicates", again
    elif gone:
        parts = " and ".join(sorted({f"the {one.component} of " for one in gone if one.component != "layer"}))
        what, layers = f"leaves out {parts}".rstrip(), sorted({one.layer for one in gone})
    else:
        return f"{start}, runs no layer twice, and in another order."
    said = f"{start}, {what} {_count(len(layers), 'layer')}: {_composition(layers, labels)}."
    if c.block is not None:
        said += _by_chance(layers, labels, depth)
    shared = [layer for layer in labels.important if layer in layers]
    if shared:
        said += (
            f" {len(shared)} of the {len(labels.important)} layers that the file calls most important "
            f"{'are' if len(shared) > 1 else 'is'} among them ({', '.join(map(str, sorted(shared)))})."
        )
    return said


def _composition(layers: Sequence[int], labels: LayerLabels) -> str:
    counts = _counts(layers, labels)
    return ", ".join(
        f"{count} labelled {name}" if name != UNKNOWN_LABEL else f"{count} without a label"
        for name, count in counts.items()
    )


def _by_chance(layers: Sequence[int], labels: LayerLabels, depth: int) -> str:
    """How many of the commonest label in the block any block of its length would hold."""
    named = {name: count for name, count in _counts(layers, labels).items() if name != UNKNOWN_LABEL}
    if not named:
        return ""
    name, count = next(iter(named.items()))
    length = len(layers)
    average = fmean(labels.labels[start : start + length].count(name) for start in range(depth - length + 1))
    total = labels.labels.count(name)
    return (
        f" The model has {_count(total, f'{name} layer')}, of which it duplicates {count}; a block of "
        f"{_count(length, 'layer')} placed anywhere holds {average:.1f} on average."
    )


def _counts(layers: Sequence[int], labels: LayerLabels) -> Mapping[str, int]:
    return dict(Counter(labels.labels[layer] for layer in layers).most_common())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _short(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2]


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
