"""Verify: is a checkpoint what the run measured? Answered by plain transformers, and certified.

The checkpoint's own forward answers the run's questions. Its logits are compared with the executor's on the source along
the path, its scores with the rows of the run. Digests, tokenizer and the number of layers are looked at too.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

import neuroscan_farm
from neuroscan_farm.checkpoints.certificate import (
    CERTIFICATE_FILE,
    DIFFERENT,
    EQUAL,
    Certificate,
    LogitsCompared,
    RowsCompared,
)
from neuroscan_farm.checkpoints.record import Record, changed_files, read_record
from neuroscan_farm.domain.measurements import Outcome, Score
from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.errors import ModelError, RequestError
from neuroscan_farm.planning.facts import check_weights, read_facts
from neuroscan_farm.report.mergekit import path_of_mergekit
from neuroscan_farm.store.additions import all_probes, read_whole
from neuroscan_farm.store.atomic import storage_errors, unreadable, write_text
from neuroscan_farm.store.run_directory import RunDirectory

if TYPE_CHECKING:
    from neuroscan_farm.engine.rescoring import Rescored

MERGEKIT_FILE = "mergekit_config.yml"
_SCORES = ("log_odds", "log_p_correct", "expected_score")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a checkpoint says that it is."""

    path: LayerPath
    made_by: str | None
    record: Record | None


def claimed(checkpoint: Path, run: RunDirectory, path: LayerPath | None) -> Claim:
    """Return the path that a checkpoint is to be, as its folder or the user says.

    Raises:
        ModelError: the record is damaged, or of another model than the run's.
        RequestError: nobody says the path; the user says another than the folder; or it does not fit the model.
    """
    record = read_record(checkpoint)
    made_by, said = None, None
    if record is not None:
        made_by, said = record.tool, record.layer_path
        if record.source_fingerprint != run.manifest.model_fingerprint:
            raise ModelError(
                f"{checkpoint}: made of {record.model} (fingerprint {record.source_fingerprint[:12]}), and run "
                f"{run.manifest.run_id} is of {run.manifest.model} ({run.manifest.model_fingerprint[:12]}); name the run "
                f"that it was made from, {record.run_id}"
            )
    elif (checkpoint / MERGEKIT_FILE).is_file():
        try:
            text = (checkpoint / MERGEKIT_FILE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{checkpoint / MERGEKIT_FILE}: cannot be read ({error})") from error
        made_by = "mergekit"
        if path is None:
            said = path_of_mergekit(text)
    if path is not None and said is not None and path != said:
        raise RequestError(
            f"{checkpoint}: was made along {said}, and {path} is asked for; leave --path and --block out, or take another "
            "checkpoint"
        )
    path = path or said
    if path is None:
        raise RequestError(
            f"{checkpoint}: neither neuroscan.json nor {MERGEKIT_FILE} says which layers it holds; give --block or --path"
        )
    path.require_whole("a checkpoint")
    path.check_depth(run.manifest.depth)
    return Claim(path, made_by, record)


def verify(
    checkpoint: Path, run: RunDirectory, *, path: LayerPath | None = None, cache_dir: Path, cache_bytes: int
) -> Certificate:
    """Compare a checkpoint with the run; write the certificate into its folder where that `keeps_certificate`.

    Args:
        checkpoint: a folder that `materialize` or mergekit made.
        run: finished or not; rows that it has of the path are compared.
        path: what the checkpoint is to be, where its folder does not say.
        cache_dir: the machine's cache.
        cache_bytes: most bytes of boundaries kept there.

    Raises:
        RequestError: see `claimed`.
        ModelError: the checkpoint is no model, or the source is not that of the run any more.
        StorageError: the certificate cannot be written, or a file not read.
        WorkerError: there is too little memory.
    """
    from neuroscan_farm.engine.rescoring import rescore  # imports torch

    checkpoint = checkpoint.expanduser().absolute()
    if not checkpoint.is_dir():
        raise ModelError(f"{checkpoint}: no such folder; give the folder that materialize or mergekit wrote")
    claim = claimed(checkpoint, run, path)
    facts = read_facts(checkpoint)
    check_weights(checkpoint)
    reasons = []
    if claim.record is not None:
        try:
            changed = changed_files(checkpoint, claim.record)
        except OSError as error:
            raise unreadable(checkpoint, error) from error
        if changed:
            reasons.append(
                f"{len(changed)} of its files are not what was written, such as {changed[0]}; materialize it again"
            )
    if facts.depth != len(claim.path):
        reasons.append(f"its config says {facts.depth} layers, the path has {len(claim.path)}")
    found = rescore(run, checkpoint, claim.path, facts, cache_dir=cache_dir, cache_bytes=cache_bytes)
    reasons += found.reasons
    rows, wrong = _compare_rows(run, claim.path, found)
    reasons += wrong
    manifest = run.manifest
    certificate = Certificate(
        verdict=DIFFERENT if reasons else EQUAL,
        reasons=tuple(reasons),
        checkpoint=checkpoint.name,
        made_by=claim.made_by,
        run_id=manifest.run_id,
        model=manifest.model,
        path=str(claim.path),
        layers_expected=len(claim.path),
        layers_found=facts.depth,
        source_fingerprint=manifest.model_fingerprint,
        checkpoint_fingerprint=facts.fingerprint,
        checkpoint_digest=claim.record.digest if claim.record is not None else None,
        logits=_logits(found),
        rows=rows,
        dtype=found.dtype,
        device=found.device,
        attention=found.attention,
        relative_latency=found.relative_latency,
        relative_latency_note=found.latency_note,
        relative_layers=len(claim.path) / manifest.depth,
        versions=_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if keeps_certificate(checkpoint, run, made_by=claim.made_by):
        with storage_errors(checkpoint):
            write_text(checkpoint / CERTIFICATE_FILE, certificate.to_json())
    return certificate


def keeps_certificate(checkpoint: Path, run: RunDirectory, *, made_by: str | None) -> bool:
    """Whether the certificate is written into the checkpoint's folder.

    Only into one that says that `materialize` or mergekit made it, and never into that of the run's own model: other
    folders belong to somebody else.
    """
    folder = checkpoint.expanduser().resolve()
    return made_by is not None and folder != Path(run.manifest.model_folder).expanduser().resolve()


def _logits(found: Rescored) -> LogitsCompared | None:
    if found.logits is None:
        return None
    probe, sample = found.logits.worst or (None, None)
    return LogitsCompared(
        samples=len(found.scores),
        largest_absolute=found.logits.absolute,
        largest_relative=found.logits.relative,
        allowed_relative=found.logits.allowed,
        largest_logit=found.logits.largest_logit,
        probe=probe,
        sample_id=sample,
    )


def _compare_rows(run: RunDirectory, path: LayerPath, found: Rescored) -> tuple[RowsCompared, list[str]]:
    """Compare scores with the rows of the path's task; return what was compared, and what is wrong."""
    tasks = {task.task_id for shard in run.shards() for task in shard.tasks if task.path == path}
    columns = ["task_id", "probe", "sample_id", "outcome", "dtype", *_SCORES]
    table = read_whole(run, columns).rows
    rows = table.filter(
        pc.is_in(table["task_id"], value_set=pa.array(sorted(tasks), pa.string()))
    ).to_pylist()
    if not found.scores:
        return RowsCompared(0, "not compared: the checkpoint could not be run"), []
    if not rows:
        why = "the run has not measured it yet" if tasks else "it is not in the run's plan"
        return RowsCompared(0, f"none of this path: {why}"), []
    spans = {
        probe.name: max(probe.values) - min(probe.values)
        for probe in all_probes(run)
        if probe.values is not None
    }
    wrong: list[str] = []
    compared = 0
    # As a share of what is allowed: difference, allowed, column, row.
    worst: tuple[float, float, float, str, Mapping[str, Any]] | None = None
    for row in rows:
        score = found.scores.get((row["probe"], row["sample_id"]))
        if (row["probe"], row["sample_id"]) not in found.scores or row["outcome"] not in (
            Outcome.OK.value,
            Outcome.NON_FINITE.value,
        ):
            continue
        compared += 1
        if (row["outcome"] == Outcome.OK.value) != (score is not None):
            wrong.append(
                f"{row['sample_id']} of {row['probe']}: {row['outcome']} in the run, "
                f"{'finite' if score is not None else 'not finite'} in the checkpoint"
            )
            continue
        allowed = _allowed(found, row["dtype"])
        for column, difference in _differences(score, row).items():
            most = allowed * (spans.get(row["probe"], 1.0) if column == "expected_score" else 2.0)
            share = difference / most if most else (math.inf if difference else 0.0)
            if worst is None or share > worst[0]:
                worst = (share, difference, most, column, row)
    note = f"{compared} of the run's {len(rows)} rows of this path"
    if worst is None:
        return RowsCompared(compared, note), wrong[:3]
    share, difference, most, column, row = worst
    if share > 1:
        wrong.append(
            f"its scores differ from the run's rows by {difference:.1e} in {column} of {row['sample_id']} of "
            f"{row['probe']} (allowed {most:.0e})"
        )
    return RowsCompared(compared, note, difference, most, column, row["probe"], row["sample_id"]), wrong[:3]


def _allowed(found: Rescored, dtype_of_row: str) -> float:
    """Return by how much a logit may differ where the run's dtype, or this one, is the coarser."""
    from neuroscan_farm.engine.gate import tolerance_of

    if found.logits is None:
        return 0.0
    relative = max(found.logits.allowed, tolerance_of(dtype_of_row))
    return relative * found.logits.largest_logit


def _differences(score: Score | None, row: Mapping[str, Any]) -> dict[str, float]:
    if score is None:
        return {}
    pairs = {column: (getattr(score, column), row[column]) for column in _SCORES}
    return {
        column: math.inf if one is None or other is None else abs(one - other)
        for column, (one, other) in pairs.items()
        if one is not None or other is not None
    }


def _versions() -> dict[str, str]:
    names = ("torch", "transformers", "safetensors")
    return {
        "neuroscan-farm": neuroscan_farm.__version__,
        **{name: importlib.metadata.version(name) for name in names},
    }
