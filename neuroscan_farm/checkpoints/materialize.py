"""Materialize: the checkpoint along a layer path, as a folder that transformers loads. Whole, or not there at all.

Weights are copied byte by byte from the source's safetensors files, a few megabytes at a time; the config is rewritten
(`config_rewrite`) and proven (`engine.relayering`) before a byte of them is. What transformers needs besides (tokenizer,
generation config, chat template, the model's own code) is copied; the old weights and their index are not.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

import neuroscan_farm
from neuroscan_farm.checkpoints.config_rewrite import rewritten, text_parts
from neuroscan_farm.checkpoints.layer_names import NewTensor, tensors_along
from neuroscan_farm.checkpoints.model_card import model_card
from neuroscan_farm.checkpoints.record import RECORD_FILE, Record, digest_of
from neuroscan_farm.checkpoints.weight_writer import write_file, write_header_only, write_weights
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.errors import ModelError, RequestError, StorageError
from neuroscan_farm.planning.facts import read_config
from neuroscan_farm.planning.memory import gigabytes
from neuroscan_farm.planning.model_of_run import facts_of_run
from neuroscan_farm.planning.weight_files import stored_tensors
from neuroscan_farm.report.findings import read_findings
from neuroscan_farm.store.atomic import flush_folder, storage_errors
from neuroscan_farm.store.run_directory import RunDirectory

log = logging.getLogger(__name__)

SHARD_BYTES = 5_000_000_000
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
# Weights in any form, and what is written anew. Everything else at the top of the folder is the model's.
_LEFT_OUT = (
    *(
        "*.safetensors",
        "*.safetensors.index.json",
        "*.bin",
        "*.bin.index.json",
        "*.pt",
        "*.pth",
        "*.ckpt",
        "*.h5",
    ),
    *("*.msgpack", "*.gguf", "*.onnx", "*.onnx_data", "*.ot", "*.tflite", "*.mlmodel", "*.npz"),
    *(".*", CONFIG_FILE, CARD_FILE, RECORD_FILE, "verification.json", "mergekit_config.yml"),
)
_FOLDERS = ("additional_chat_templates",)
_MOST_COPIED_BYTES = 1_000_000_000  # a file that is larger is no tokenizer


@dataclass(frozen=True, slots=True)
class Materialized:
    """What was written."""

    folder: Path
    path: LayerPath
    depth: int
    size_bytes: int  # of the weights
    files: tuple[str, ...]
    digest: str


def materialize(
    run: RunDirectory,
    path: LayerPath,
    output: Path,
    *,
    most_shard_bytes: int = SHARD_BYTES,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> Materialized:
    """Write the checkpoint of the run's model along `path` to the folder `output`.

    Args:
        run: whose model it is; it need not be finished, nor have measured the path.
        path: the order of the layers.
        output: a folder that is not there yet, or is empty.
        most_shard_bytes: most bytes of tensors in one weight file.
        on_bytes: told now and then how many bytes of weights are written, and of how many.

    Raises:
        RequestError: the path leaves the model, or runs layers in part; or the output is in use.
        ModelError: the source is missing, changed since, pickled or damaged, or its family's config cannot describe the
            path; the message says why.
        StorageError: the disk is full or refuses. Nothing half is left.
    """
    manifest, request = run.manifest, run.request()
    path.require_whole("a checkpoint")
    path.check_depth(manifest.depth)
    output = output.expanduser().absolute()
    with storage_errors(output):
        _require_room_for_a_folder(output)
    source = facts_of_run(run, on_found=_require_safetensors).folder
    tensors = stored_tensors(source)
    planned, layers = tensors_along(tensors, path, depth=manifest.depth, where=source)
    size_bytes = sum(tensor.size_bytes for tensor in planned)
    findings = read_findings(run)
    with _aside(output) as folder:
        _write_config(source, folder, planned, path, manifest.depth, request.engine.trust_remote_code)
        files = _copy_the_rest(source, folder)
        files[CONFIG_FILE] = write_file(folder / CONFIG_FILE, (folder / CONFIG_FILE).read_bytes())
        free = shutil.disk_usage(folder).free
        if size_bytes > free:
            raise StorageError(
                f"{output}: the weights take {gigabytes(size_bytes)}, and the disk has {gigabytes(free)} free; free some "
                "space, or choose another place with --output"
            )
        files |= write_weights(planned, folder, most_shard_bytes=most_shard_bytes, on_bytes=on_bytes)
        record = Record(
            run_id=manifest.run_id,
            model=manifest.model,
            revision=request.revision,
            source_fingerprint=manifest.model_fingerprint,
            source_depth=manifest.depth,
            path=str(path),
            depth=len(path),
            layer_list=layers.name,
            files=dict(sorted(files.items())),
            digest=digest_of(files),
            tool=f"neuroscan-farm {neuroscan_farm.__version__}",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        card = model_card(
            findings,
            path,
            model=manifest.model,
            revision=request.revision,
            parameters=sum(_elements(tensor) for tensor in planned),
            source_parameters=sum(tensor.numel for tensor in tensors.values()),
        )
        write_file(folder / CARD_FILE, card.encode())
        write_file(folder / RECORD_FILE, record.to_json().encode())
    return Materialized(
        folder=output,
        path=path,
        depth=len(path),
        size_bytes=size_bytes,
        files=tuple(sorted([*files, CARD_FILE, RECORD_FILE])),
        digest=record.digest,
    )


def _require_safetensors(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    mend = (
        "pickled weights (.bin) are not read, because they can run code. Convert them once, where you trust them: "
        f"python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{folder}', "
        "dtype='auto').save_pretrained('converted')\", and start a run of that folder"
        if any(folder.glob("*.bin"))
        else "fetch the model again"
    )
    raise ModelError(f"model {folder}: no .safetensors file; {mend}")


def _require_room_for_a_folder(output: Path) -> None:
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        what = "the folder is there and not empty" if output.is_dir() else "a file is in the way"
        raise RequestError(f"{output}: {what}; nothing is overwritten: choose another place with --output")


@contextmanager
def _aside(output: Path) -> Iterator[Path]:
    """Give a new folder beside `output`; on success it gets that name, on failure it is removed with all that is in it.

    Raises:
        StorageError: the disk refused.
    """
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        aside = output.with_name(f".tmp-{uuid.uuid4().hex}-{output.name}")
        aside.mkdir()
        try:
            yield aside
            flush_folder(aside)
            aside.rename(output)  # takes the place of an empty folder, and of nothing else
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        flush_folder(output.parent)


def _write_config(
    source: Path,
    folder: Path,
    planned: list[NewTensor],
    path: LayerPath,
    depth: int,
    trust_remote_code: bool,
) -> None:
    """Write the config along `path` and prove it, on files that hold no weights yet.

    Raises:
        ModelError: no config of this family describes the path.
    """
    from neuroscan_farm.engine.relayering import lists_to_write, prove_relayered

    config = rewritten(read_config(source), path, depth=depth)
    for code in source.glob("*.py"):
        shutil.copyfile(code, folder / code.name)

    def write() -> None:
        write_file(folder / CONFIG_FILE, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())

    write()
    lists = lists_to_write(source, folder, path, depth=depth, trust_remote_code=trust_remote_code)
    if lists:  # what transformers would derive from numbers, said outright
        part = text_parts(config)[-1]
        part.update(lists)
        log.info("%s: the config says outright: %s", folder.name, ", ".join(lists))
        write()
    headers = write_header_only(planned, folder)
    try:
        prove_relayered(source, folder, path, depth=depth, trust_remote_code=trust_remote_code)
    finally:
        headers.unlink()


def _copy_the_rest(source: Path, folder: Path) -> dict[str, str]:
    """Copy what is neither weights nor written anew; return the digests."""
    found = [path for path in source.iterdir() if path.is_file()]
    found += [path for name in _FOLDERS for path in source.glob(f"{name}/*") if path.is_file()]
    digests = {}
    for path in sorted(found):
        name = path.relative_to(source).as_posix()
        if (
            any(fnmatch(path.name, pattern) for pattern in _LEFT_OUT)
            or path.stat().st_size > _MOST_COPIED_BYTES
        ):
            continue
        (folder / name).parent.mkdir(exist_ok=True)
        digests[name] = write_file(folder / name, path.read_bytes())
    return digests


def _elements(tensor: NewTensor) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    return count
