"""Where a model is: a folder, the bundled demo model, or a hub id that huggingface_hub finds or fetches."""

from __future__ import annotations

import re
from pathlib import Path

from neuroscan_farm import demo
from neuroscan_farm.errors import ModelError

DEMO = "demo"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_CONFIG_ONLY = ["*.json"]
_EVERYTHING = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]


def find_model(model: str, *, revision: str | None = None, weights: bool) -> Path:
    """Return the folder of a model, fetching it from the hub when it is a hub id (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE).

    Args:
        model: a folder, a hub id, or `demo`.
        revision: branch, tag or commit of a hub id.
        weights: whether the weights are needed too; without them, only the small JSON files are fetched.

    Raises:
        ModelError: there is no such folder, or the hub does not have the model or cannot be reached.
    """
    try:
        folder = Path(model).expanduser()
        is_folder, exists = folder.is_dir(), folder.exists()
    except (
        OSError,
        RuntimeError,
    ):  # a name that is too long, a ~user that is not there: it may still be a hub id
        is_folder = exists = False
    if is_folder:
        return folder.resolve()
    if model == DEMO:
        return demo.MODEL_DIR
    if exists:
        raise ModelError(f"model {model}: this is a file; give the folder that holds config.json")
    if _HUB_ID.fullmatch(model) is None:
        raise ModelError(
            f"model {model}: no such folder; give a folder with config.json, a hub id, or `demo`"
        )
    return _from_hub(model, revision, weights)


def _from_hub(model: str, revision: str | None, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = _EVERYTHING if weights else _CONFIG_ONLY
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model {model}: no such folder, and the hub gave no such model ({reason}); check the spelling, "
            "HF_TOKEN for a gated model, and HF_HUB_OFFLINE; or give a local folder"
        ) from error
