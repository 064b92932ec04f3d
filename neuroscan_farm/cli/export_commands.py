"""`materialize` and `verify`: a configuration as a checkpoint, and the proof that it is what was measured."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from neuroscan_farm.cli.choice import (
    BlockOption,
    MetricOption,
    PathOption,
    metric_named,
    path_named,
    require_one,
)
from neuroscan_farm.cli.progress import note
from neuroscan_farm.cli.run_commands import JsonOption, RunArgument
from neuroscan_farm.coordinator.overview import find_run
from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.memory import gigabytes, parse_megabytes
from neuroscan_farm.settings import load_settings

_SECONDS_BETWEEN_NOTES = 10.0


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (materialize, verify):
        app.command(command.__name__)(command)


def materialize(
    run: RunArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The new folder.")],
    block: BlockOption = None,
    path: PathOption = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="The configuration of this rank; 1 is the best.")
    ] = None,
    metric: MetricOption = None,
    shard_size: Annotated[
        str,
        typer.Option(
            help="Most bytes of a weight file: 500MB, 5GB; a plain number is megabytes; 1MB at least."
        ),
    ] = "5GB",
) -> None:
    """Write the model with its layers in the order of a configuration, as a checkpoint that transformers loads."""
    from neuroscan_farm.checkpoints.materialize import materialize as write_checkpoint
    from neuroscan_farm.report.export import path_of_rank

    require_one(block, path, top, options="--block, --path and --top", least=1)
    directory = find_run(run, load_settings().runs_dir)
    most_bytes = parse_megabytes(shard_size, name="shard-size") * 10**6
    chosen = path_named(block, path, depth=directory.manifest.depth)
    if chosen is None:
        chosen = path_of_rank(directory, top or 1, metric=metric_named(metric))
    told = _Told()
    made = write_checkpoint(directory, chosen, output, most_shard_bytes=most_bytes, on_bytes=told)
    print(made.folder)
    note(
        f"written: {made.depth} layers ({made.path}), {gigabytes(made.size_bytes)} of weights, digest {made.digest[:16]}"
    )
    note(
        f"prove that it is what was measured: neuroscan-farm verify {made.folder} --run {directory.location}"
    )


def verify(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that materialize or mergekit wrote.")],
    run: Annotated[str, typer.Option("--run", metavar="RUN", help="The run whose configuration it is.")],
    block: BlockOption = None,
    path: PathOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a checkpoint by plain transformers and compare it with the run; exit code 5 where they differ."""
    from neuroscan_farm.checkpoints.certificate import CERTIFICATE_FILE
    from neuroscan_farm.checkpoints.verify import keeps_certificate
    from neuroscan_farm.checkpoints.verify import verify as compare

    require_one(block, path, options="--block and --path", least=0)
    settings = load_settings()
    directory = find_run(run, settings.runs_dir)
    chosen = path_named(block, path, depth=directory.manifest.depth)
    certificate = compare(
        checkpoint,
        directory,
        path=chosen,
        cache_dir=settings.cache_dir,
        cache_bytes=int(settings.cache_gb * 10**9),
    )
    print(certificate.to_json() if as_json else certificate.text(), end="" if as_json else "\n")
    if keeps_certificate(checkpoint, directory, made_by=certificate.made_by):
        note(f"written: {checkpoint / CERTIFICATE_FILE}")
    else:
        note(
            f"{checkpoint} is not known to be made by materialize or mergekit, so nothing is written into it; --json prints "
            "the certificate"
        )
    if not certificate.is_equal:
        raise ModelError(
            f"{checkpoint}: is not the model that was measured: {'; '.join(certificate.reasons)}. Do not use it; "
            "neuroscan-farm materialize writes one that is"
        )


class _Told:
    """Says now and then how many bytes are written."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _SECONDS_BETWEEN_NOTES

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS_BETWEEN_NOTES
            note(f"{gigabytes(done)} of {gigabytes(total)} written")
