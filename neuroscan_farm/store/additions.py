"""Probes that were added to a run later. Each addition is a run of its own in the folder `additions/` of the first.

Its plan has the very paths of the first run, so that nothing is measured twice; its parts hold the rows of the new
probes. Whoever reads results reads a run together with its additions; whoever measures works on one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.errors import RunError
from neuroscan_farm.store.places import inside
from neuroscan_farm.store.run_directory import Manifest, RunDirectory

FOLDER = "additions"


class Whole(NamedTuple):
    """A run together with its additions."""

    manifest: Manifest  # of the first run, with all probes
    rows: pa.Table  # of all probes; a path has one task id, the first run's
    unfinished: tuple[str, ...]  # of each addition that is not finished, how far it is


def place_of_addition(run: RunDirectory, run_id: str) -> str:
    """Where the addition with this id is, or would be."""
    return inside(inside(run.location, FOLDER), run_id)


def first_of(run: RunDirectory) -> RunDirectory:
    """Return the run that this one was added to; the run itself where it is no addition."""
    path, mark, query = run.location.partition("?")
    above, _, name = path.rstrip("/").rpartition("/")
    first, _, folder = above.rpartition("/")
    if folder != FOLDER or name != run.manifest.run_id or not RunDirectory.exists(f"{first}{mark}{query}"):
        return run
    return RunDirectory.open(f"{first}{mark}{query}")


def additions_of(run: RunDirectory) -> list[RunDirectory]:
    """Return the additions of a run, in the order in which they were made.

    Raises:
        RunError: one of them is damaged.
        StorageError: the disk or the store failed.
    """
    folder = run.place.below(FOLDER)
    found = [
        RunDirectory.open(place)
        for place in (place_of_addition(run, name) for name in folder.folders())
        if RunDirectory.exists(place)  # one that was interrupted before its manifest came is no run yet
    ]
    return sorted(found, key=lambda addition: (addition.manifest.created, addition.manifest.run_id))


def with_additions(run: RunDirectory) -> list[RunDirectory]:
    """Return a run and its additions, as `additions_of` does."""
    return [run, *additions_of(run)]


def all_probes(run: RunDirectory) -> tuple[Probe, ...]:
    """Return the probes of a run and of its additions.

    Raises:
        ProbeError: a probe is missing or damaged.
        RunError: a probe was changed since, or an addition is damaged.
    """
    return tuple(probe for one in with_additions(run) for probe in one.probes())


def read_whole(run: RunDirectory, columns: Sequence[str]) -> Whole:
    """Read the rows of a run and of its additions.

    Args:
        run: the first run.
        columns: of the measurements table, `task_id` and `probe` among them.

    Raises:
        RunError: a plan is damaged, or an addition holds a path or a probe that does not belong to it.
        StorageError: the disk or the store failed.
    """
    added = additions_of(run)
    rows = run.parts.read(list(columns))
    if not added:
        return Whole(run.manifest, rows, ())
    manifest = run.manifest
    tasks = {task.path: task.task_id for shard in run.shards() for task in shard.tasks}
    tables, unfinished = [rows], []
    for addition in added:
        doubled = manifest.probes.keys() & addition.manifest.probes.keys()
        if doubled:
            raise RunError(
                f"{addition.location}: probe {min(doubled)} is in the run already; remove this folder"
            )
        theirs = [task for shard in addition.shards() for task in shard.tasks]
        strangers = [task for task in theirs if task.path not in tasks]
        if strangers:
            raise RunError(
                f"{addition.location}: path {strangers[0].path} is not in the plan of {run.location}; remove this folder"
            )
        table = addition.parts.read(list(columns))
        tables.append(_renamed(table, {task.task_id: tasks[task.path] for task in theirs}))
        manifest = replace(
            manifest,
            probes={**manifest.probes, **addition.manifest.probes},
            n_samples={**manifest.n_samples, **addition.manifest.n_samples},
        )
        done = len(addition.parts.look().done)
        if done < len(theirs):
            names = ", ".join(addition.manifest.probes)
            unfinished.append(
                f"Of the probes that were added ({names}), {done} of {len(theirs)} tasks are measured; if nobody works "
                f"on them any more, go on with `neuroscan-farm resume {addition.location}`"
            )
    return Whole(manifest, pa.concat_tables(tables), tuple(unfinished))


def _renamed(table: pa.Table, names: dict[str, str]) -> pa.Table:
    """Give rows the first run's task ids; rows of tasks that nobody planned are left out."""
    theirs = pa.array(list(names), pa.string())
    table = table.filter(pc.is_in(table["task_id"], value_set=theirs))
    at = pc.index_in(table["task_id"], value_set=theirs)
    ids = pa.array(list(names.values()), pa.string()).take(at.combine_chunks())
    return table.set_column(table.schema.get_field_index("task_id"), table.schema.field("task_id"), ids)
