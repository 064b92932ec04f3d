"""What a model's folder says of itself without loading it: depth, width, family, and a fingerprint of its content."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.layer_costs import layer_kv_bytes, layer_parameters
from neuroscan_farm.planning.weight_files import StoredTensor, stored_tensors

DEPTH_NAMES = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_KINDS = ("layers_block_type", "layer_types")  # one entry for each layer
_WIDTH = ("hidden_size", "n_embd", "d_model", "n_embed")
_LENGTH = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SAMPLES_PER_FILE = 16
_SAMPLE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the plan needs to know of a model."""

    folder: Path
    name: str
    model_type: str
    depth: int
    hidden_size: int
    max_tokens: int | None  # longest prompt; None where the family has no limit
    dtype: str  # of the checkpoint
    weight_bytes: int
    fingerprint: str
    layer_parameters: tuple[int, ...] | None = None  # of each layer; None where the weight files do not tell
    layer_kv_bytes: tuple[int, ...] | None = None  # a token's, in the cache of each layer; see `layer_costs`


def read_facts(folder: Path, *, name: str | None = None) -> ModelFacts:
    """Read a model's facts from its folder; no weight is loaded.

    Raises:
        ModelError: the folder is no model, is damaged, or holds no decoder.
    """
    config = read_config(folder)
    check_decoder(config, folder)
    nested = config.get("text_config")
    text = {**config, **(nested if isinstance(nested, dict) else {})}
    depth = _first_number(text, DEPTH_NAMES) or _length_of_a_list(text)
    if depth is None:
        raise ModelError(
            f"{folder}/config.json: the number of layers is missing; expected one of {', '.join(DEPTH_NAMES)}"
        )
    dtype = str(text.get("dtype") or text.get("torch_dtype") or "float32")
    tensors = _tensors(folder)
    return ModelFacts(
        folder=folder,
        name=name or folder.name,
        model_type=str(text.get("model_type") or config.get("model_type") or "unknown"),
        depth=depth,
        hidden_size=_first_number(text, _WIDTH) or 0,
        max_tokens=_first_number(text, _LENGTH),
        dtype=dtype,
        weight_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        fingerprint=fingerprint(folder),
        layer_parameters=layer_parameters(tensors, depth=depth),
        layer_kv_bytes=layer_kv_bytes(tensors, text, depth=depth, dtype=dtype.removeprefix("torch.")),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Return the folder's config.json.

    Raises:
        ModelError: it is missing or is no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"model {folder}: config.json is missing; give a folder in Hugging Face's form")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); fetch the model again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a JSON object; fetch the model again")
    return config


def check_decoder(config: dict[str, Any], folder: Path) -> None:
    """Refuse encoders and encoder-decoders by what the config says; the gate proves the rest on the model itself.

    Raises:
        ModelError: the config describes no decoder.
    """
    found = config.get("architectures")
    architectures = found if isinstance(found, list) else []
    model_type = config.get("model_type", "unknown")
    if config.get("is_encoder_decoder"):
        raise ModelError(
            f"model {folder}: {model_type} is an encoder-decoder; only decoder-only models can be scanned"
        )
    if architectures and not any(str(name).endswith(_CAUSAL_ENDINGS) for name in architectures):
        raise ModelError(
            f"model {folder}: {', '.join(map(str, architectures))} is no decoder language model; "
            "a class such as LlamaForCausalLM is needed"
        )


def check_weights(folder: Path) -> None:
    """Refuse a folder without weights that can be read.

    Raises:
        ModelError: there is no .safetensors file.
    """
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model {folder}: no .safetensors file; fetch the model again, or convert its weights (load with "
            "transformers, then save_pretrained): pickled ones are not read, because they can run code"
        )


def is_hub_snapshot(folder: Path) -> bool:
    """Whether a folder is a commit in the hub's cache."""
    return folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) is not None


def fingerprint(folder: Path) -> str:
    """Return a digest of the model's content: config, tokenizer, and the weights' headers and samples.

    Weight files are not read whole (a 70B model has 140 GB): of each, its size, its first and last 64 KiB and
    sixteen blocks spread evenly between enter the digest. A snapshot from the hub is known by its commit.
    """
    if is_hub_snapshot(folder):
        return f"hub-{folder.name}"
    digest = hashlib.blake2b(digest_size=16)
    small = (
        "config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
    )
    for path in sorted(folder / name for name in small):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for k in range(_SAMPLES_PER_FILE + 2):
                file.seek(math.floor(max(size - _SAMPLE_BYTES, 0) * k / (_SAMPLES_PER_FILE + 1)))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return what the weight files hold; nothing where they are not fetched, or damaged, which loading will say."""
    try:
        return stored_tensors(folder)
    except ModelError:
        return {}


def _length_of_a_list(config: dict[str, Any]) -> int | None:
    """Return how many layers a list of their kinds names, for families that save no number."""
    lists = (config.get(name) for name in _KINDS)
    return next((len(kinds) for kinds in lists if isinstance(kinds, list) and kinds), None)


def _first_number(config: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the first of these entries that is a positive whole number; `true` is none, though Python counts it."""
    return next((config[name] for name in names if type(config.get(name)) is int and config[name] > 0), None)
