"""A layer path as a mergekit passthrough file, and back.

One slice for each maximal ascending run of the path, with one source; `layer_range` is half-open, as ours
are. mergekit ignores keys that it does not know, so that it accepts a file proves nothing: `path_of_mergekit`
reads back what was written, and the tests hold the two together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import yaml

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.errors import RequestError
from neuroscan_farm.yaml_text import NotYaml, read_yaml

TRIED_WITH = "mergekit 0.1.5 with transformers 5.23"

# Tiny models of each family, as transformers saves them, with a block run twice: merged by mergekit-yaml, and scored by
# `verify`. `make mergekit` does it again.
_EXACT = frozenset(
    {"gemma", "gpt2", "granite", "internlm3", "llama", "mistral", "mixtral", "olmo2", "phi", "phi3", "stablelm",
     "starcoder2"}
)  # fmt: skip
_LAYER_TYPES = frozenset({"gemma2", "gemma3", "gemma3_text", "qwen2", "qwen3"})
_MISSING = frozenset({"cohere", "falcon", "gpt_neox", "qwen3_moe"})
_SILENT = frozenset(
    {"bloom", "deepseek_v3", "exaone4", "glm", "gpt_neo", "gpt_oss", "gptj", "mpt", "olmo", "opt", "qwen2_moe", "smollm3"}
)  # fmt: skip
_WRONG: Mapping[str, str] = {
    **dict.fromkeys(
        _LAYER_TYPES,
        "it fails (exit 1) when the number of layers changes, because layer_types keeps its old length",
    ),
    **dict.fromkeys(
        _MISSING,
        "it fails (exit 1), because it asks for tensors that checkpoints of this family need not have",
    ),
    **dict.fromkeys(
        _SILENT, "it exits with 0 and the merged model is SILENTLY WRONG: its config keeps the old depth"
    ),
}
_NO_LAYER_TYPES = (
    "mergekit never writes layer_types: where layers differ in attention (sliding or full), the merged model "
    "may differ from what was measured"
)
_INSTEAD = "neuroscan-farm materialize writes this configuration as a checkpoint, also for families that mergekit cannot"
_CHECK = "neuroscan-farm verify compares the merged model with what was measured"

MergekitVerdict: TypeAlias = Literal["exact", "fails", "silently wrong", "not tried"]


def mergekit_verdict(model_type: str) -> MergekitVerdict:
    """What `TRIED_WITH` makes of a family, by its `model_type`, when the number of layers changes."""
    if model_type in _EXACT:
        return "exact"
    if model_type in _SILENT:
        return "silently wrong"
    return "fails" if model_type in _WRONG else "not tried"


def mergekit_warnings(model_type: str) -> list[str]:
    """What is known to go wrong when mergekit merges this family; empty where merges were found exact."""
    verdict = mergekit_verdict(model_type)
    if verdict == "exact":
        return []
    if verdict == "not tried":
        first = (
            f"family {model_type} was not tried with {TRIED_WITH}: verify the merged model before you use it."
        )
    else:
        first = f"{TRIED_WITH}, family {model_type}: {_WRONG[model_type]}."
    return [first, f"{_NO_LAYER_TYPES}.", f"{_INSTEAD}; {_CHECK}."]


def mergekit_yaml(
    path: LayerPath,
    *,
    model: str,
    revision: str | None = None,
    dtype: str,
    model_type: str,
    notes: Sequence[str] = (),
) -> str:
    """Return the passthrough file of `path`.

    Args:
        path: the order in which the merged model holds the layers.
        model: a hub id, or an absolute folder.
        revision: of a hub id.
        dtype: of the stored weights, in torch's words; another one would round them.
        model_type: the family, for the warnings.
        notes: comments for the top, such as which run and what effect.
    """
    path.require_whole("a mergekit file")
    comments = [f"# {_one_line(note)}" for note in notes]
    if mergekit_verdict(model_type) == "exact":
        comments.append(f"# {TRIED_WITH}, family {model_type}: exact; {_CHECK}.")
    comments += [f"# WARNING: {_one_line(warning)}" for warning in mergekit_warnings(model_type)]
    lines = [*comments, "merge_method: passthrough", f"dtype: {dtype}"]
    lines.append("slices:")
    for start, end in path.runs():
        lines += [
            "  - sources:",
            f"      - model: {_reference(model, revision)}",
            f"        layer_range: [{start}, {end}]",
        ]
    return "\n".join(lines) + "\n"


def path_of_mergekit(yaml_text: str) -> LayerPath:
    """Read back the path that a passthrough file describes.

    Raises:
        RequestError: the text is no single passthrough merge of one source per slice.
    """
    try:
        data = read_yaml(yaml_text)
    except NotYaml as error:
        raise RequestError(f"mergekit file: not one YAML document ({error})") from error
    if not isinstance(data, dict) or data.get("merge_method") != "passthrough":
        raise RequestError("mergekit file: merge_method must be passthrough")
    layers: list[int] = []
    models = set()
    try:
        for part in data["slices"]:
            (source,) = part["sources"]
            start, end = source["layer_range"]
            layers.extend(range(int(start), int(end)))
            models.add(str(source["model"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            "mergekit file: each slice needs one source with model and layer_range: [first, end)"
        ) from error
    if len(models) > 1:
        raise RequestError(f"mergekit file: slices of {len(models)} models; a layer path has one")
    return LayerPath(tuple(layers))


def _reference(model: str, revision: str | None) -> str:
    """The model on one line. mergekit splits a plain text at `+` (LoRA) and `@` (revision), a mapping not."""
    if "+" in model or "@" in model:
        path = f"path: {_scalar(model)}" + (f", revision: {_scalar(revision)}" if revision else "")
        return f"{{model: {{{path}}}}}"
    return _scalar(f"{model}@{revision}" if revision else model)


def _scalar(text: str) -> str:
    """`text` as one YAML scalar on one line, quoted where it must be, also inside flow collections."""
    return yaml.safe_dump([text], default_flow_style=True, allow_unicode=True, width=2**31)[1:-2]


def _one_line(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip()
