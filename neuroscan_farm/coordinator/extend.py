"""Adding probes to a run that was made before: the plan of an addition has the run's paths, and the new probes alone."""

from __future__ import annotations

from collections.abc import Sequence

from neuroscan_farm.coordinator.prepare import Plan, load_probes
from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.errors import RequestError, RunError
from neuroscan_farm.planning.facts import check_weights
from neuroscan_farm.planning.model_of_run import facts_of_run
from neuroscan_farm.planning.packing import pack
from neuroscan_farm.planning.sizing import FIRST_SHARD_TASKS
from neuroscan_farm.store.additions import additions_of, first_of
from neuroscan_farm.store.run_directory import RunDirectory, make_run_id


def plan_addition(run: RunDirectory, probes: Sequence[str]) -> Plan:
    """Plan what a run lacks of some probes; nothing is written. The same probes again are the same addition.

    Args:
        run: finished or not, but with all stages planned.
        probes: built-in names, or files.

    Raises:
        RunError: further stages of the run may follow, it is an addition itself, or it was made by another version.
        RequestError: a probe is in the run already, or named twice.
        ProbeError: a probe is wrong, or lacks the answers that the run's metric needs.
        ModelError: the model is missing, or not the one of the run any more.
    """
    run.check_versions()
    first = first_of(run)
    if first is not run:
        raise RunError(f"{run.location}: was itself added to {first.location}; add probes to that one")
    if not run.plan_complete():
        raise RunError(
            f"{run.location}: a further stage will be planned from its rows; let it finish, then add probes"
        )
    request = run.request().model_copy(update={"probes": tuple(probes)})
    loaded = load_probes(request)
    manifest = run.manifest
    plain = make_run_id(
        request, model_name=manifest.model_name, model_fingerprint=manifest.model_fingerprint, probes=loaded
    )
    # Not the id of a run of these probes alone: its plan may hold other paths.
    name, _, _ = plain.rpartition("-")
    run_id = f"{name}-{content_digest([manifest.run_id, plain], length=10)}"
    others = [addition for addition in additions_of(run) if addition.manifest.run_id != run_id]
    for probe in loaded:
        for place in (run, *others):
            if probe.name in place.manifest.probes:
                same = place.manifest.probes[probe.name] == probe.digest
                raise RequestError(
                    f"probe {probe.name} is in the run {run.manifest.run_id} already"
                    + (
                        f"; `neuroscan-farm resume {place.location}` measures what is missing"
                        if same
                        else ", with other questions; give this one another name"
                    )
                )
    facts = facts_of_run(run)
    check_weights(facts.folder)
    digests = [probe.digest for probe in loaded]
    tasks = [
        Task.of(task.path, probe_digests=digests, block=task.block, stage=task.stage)
        for shard in run.shards()
        for task in shard.tasks
    ]
    shards = pack(tasks, most=request.shard_size or FIRST_SHARD_TASKS)
    return Plan(request, run_id, facts, loaded, tuple(shards), complete=True)
