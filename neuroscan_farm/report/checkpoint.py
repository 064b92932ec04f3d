"""What a merge file must say of the model: where it is, and the dtype of its stored weights."""

from __future__ import annotations

import json
import struct
from collections import Counter
from pathlib import Path

from neuroscan_farm.domain.requests import AnalysisRequest
from neuroscan_farm.store.run_directory import Manifest

_SAFETENSORS_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
_LARGEST_HEADER = 100_000_000  # bytes; the format's own limit


def model_reference(manifest: Manifest, request: AnalysisRequest) -> tuple[str, str | None]:
    """Return the model as mergekit finds it, and its revision: the hub id as given, or the folder."""
    folder = Path(manifest.model_folder)
    in_hub_cache = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
    if in_hub_cache and folder.parent.parent.name == "models--" + manifest.model.replace("/", "--"):
        return manifest.model, request.revision
    return str(folder.absolute()), None


def checkpoint_dtype(folder: Path) -> str | None:
    """Return the dtype of most of the stored weights, in torch's words; None where the folder does not say.

    The weights' own headers are believed before `config.json`, because a merge in another dtype would round.
    """
    sizes: Counter[str] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        sizes.update(_header_sizes(path))
    known = Counter({name: size for name, size in sizes.items() if name in _SAFETENSORS_DTYPES})
    if known:
        return _SAFETENSORS_DTYPES[known.most_common(1)[0][0]]
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for place in (config, config.get("text_config") or {}):
        said = place.get("dtype") or place.get("torch_dtype")
        if isinstance(said, str) and said.removeprefix("torch.") in _SAFETENSORS_DTYPES.values():
            return said.removeprefix("torch.")
    return None


def _header_sizes(path: Path) -> Counter[str]:
    """Bytes by dtype, from a safetensors header; empty where it cannot be read."""
    sizes: Counter[str] = Counter()
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= _LARGEST_HEADER else {}
        for name, tensor in header.items():
            if name != "__metadata__":
                start, end = tensor["data_offsets"]
                sizes[tensor["dtype"]] += end - start
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError):
        return Counter()
    return sizes
