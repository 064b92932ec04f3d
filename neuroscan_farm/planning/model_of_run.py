"""The model of a run that is there: found again on this machine, and still what the run measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neuroscan_farm.errors import ModelError
from neuroscan_farm.planning.facts import ModelFacts, read_facts
from neuroscan_farm.planning.model_source import find_model
from neuroscan_farm.store.run_directory import RunDirectory


def facts_of_run(
    run: RunDirectory,
    *,
    here: Callable[[str], str] = lambda name: name,
    on_found: Callable[[Path], None] = lambda folder: None,
) -> ModelFacts:
    """Return the facts of a run's model, its folder among them.

    Args:
        run: whose model it is. The folder that its coordinator found is tried before the name in its request, because a
            relative path means nothing in another process.
        here: what a folder of the coordinator's machine is called on this one.
        on_found: told the folder before its content is looked at.

    Raises:
        ModelError: the model is missing or damaged, or was changed since.
    """
    manifest, request = run.manifest, run.request()
    known = here(manifest.model_folder)
    name = known if Path(known).is_dir() else here(request.model)
    folder = find_model(name, revision=request.revision, weights=True)
    on_found(folder)
    facts = read_facts(folder, name=manifest.model_name)
    if facts.fingerprint != manifest.model_fingerprint:
        raise ModelError(
            f"model {folder}: its content is not that of the run (fingerprint {facts.fingerprint[:12]}, the run's is "
            f"{manifest.model_fingerprint[:12]}); restore the model, or start a new run"
        )
    return facts
