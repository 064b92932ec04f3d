"""`--memory-limit` and `--stream`: what they come to for a model and the workers of this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from neuroscan_farm.dispatch.devices import DeviceSet
from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.errors import ModelError, WorkerError
from neuroscan_farm.planning.facts import ModelFacts, read_facts
from neuroscan_farm.planning.memory import MemoryChoice, parse_megabytes, plan_memory
from neuroscan_farm.store.run_directory import RunDirectory


def megabytes_of(memory_limit: str | None) -> int | None:
    """Read the option.

    Raises:
        RequestError: it is no size.
    """
    return None if memory_limit is None else parse_megabytes(memory_limit, name="memory-limit")


def memory_of(facts: ModelFacts, options: EngineOptions, sets: Sequence[DeviceSet]) -> MemoryChoice:
    """Foretell what the workers will choose; a model that does not fit is named in a plan, and refused by a worker."""
    try:
        return plan_memory(
            facts,
            options,
            gpu_memory_mb=sets[0].memory_mb,
            memory_limit_mb=sets[0].memory_limit_mb,
            stream=sets[0].stream,
            workers=len(sets),
        )
    except (WorkerError, ModelError) as error:
        return MemoryChoice(None, str(error))


def shared_out(sets: Sequence[DeviceSet], run: RunDirectory) -> list[DeviceSet]:
    """Give each of several workers its share of the memory, where they could not all hold the model.

    Alone, each would find the memory free that another is about to take.
    """
    if len(sets) < 2 or sets[0].memory_limit_mb is not None:
        return list(sets)
    try:
        facts = read_facts(Path(run.manifest.model_folder))
        choice = memory_of(facts, run.request().engine, sets)
    except ModelError:  # a worker will say what is wrong with the model
        return list(sets)
    if sets[0].memory_mb or not choice.streamed or choice.room_bytes is None:
        return list(sets)
    share = choice.room_bytes // 10**6
    return [dataclasses.replace(device_set, memory_limit_mb=share) for device_set in sets]
