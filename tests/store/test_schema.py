"""The tables on disk, pinned: another name or type is another version, and old runs must say so."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.domain.paths import Block, LayerPath
from neuroscan_farm.domain.tasks import Shard, Task
from neuroscan_farm.store.run_directory import MANIFEST_VERSION, Manifest
from neuroscan_farm.store.schema import (
    CIRCUMSTANCES,
    MEASUREMENTS,
    MEASUREMENTS_VERSION,
    PLAN,
    PLAN_VERSION,
    plan_table,
    shards_of,
)

# A change here without a new version would make runs unreadable in silence: add a version, do not edit one.
MEASUREMENTS_BY_VERSION = {
    "1": """
        run_id string not null
        task_id string not null
        shard_id string not null
        analysis string not null
        path list<item: int16> not null
        i int16
        j int16
        skipped list<item: int16> not null
        n_layers_run int16 not null
        probe string not null
        sample_id string not null
        outcome string not null
        detail string
        log_odds double
        log_p_correct double
        correct bool
        expected_score double
        uncertainty double
        coverage double
        entropy double
        top_token string
        answer_probabilities list<item: float>
        seconds double not null
        attempt int16 not null
        worker string not null
        device string not null
        backend string not null
        dtype string not null
        engine_version string not null
        scoring_version string not null
    """,
    "2": """
        run_id string not null
        task_id string not null
        shard_id string not null
        analysis string not null
        path list<item: int16> not null
        i int16
        j int16
        skipped list<item: int16> not null
        n_layers_run int16 not null
        probe string not null
        sample_id string not null
        outcome string not null
        detail string
        log_odds double
        log_p_correct double
        correct bool
        expected_score double
        uncertainty double
        coverage double
        entropy double
        top_token string
        answer_probabilities list<item: float>
        seconds double not null
        attempt int16 not null
        worker string not null
        device string not null
        backend string not null
        dtype string not null
        residual_dtype string not null
        attention string not null
        lane string not null
        placement string not null
        engine_version string not null
        scoring_version string not null
    """,
}
PLAN_BY_VERSION = {
    "1": """
        task_id string not null
        shard_id string not null
        stage int16 not null
        path list<item: int16> not null
        i int16
        j int16
        n_layers_run int16 not null
        evaluations int32 not null
    """,
    "2": """
        task_id string not null
        shard_id string not null
        stage int16 not null
        path list<item: int16> not null
        i int16
        j int16
        n_layers_run int16 not null
        evaluations int32 not null
        planned_shard string not null
    """,
}
MANIFEST_BY_VERSION = {
    1: "run_id analysis model model_name model_folder model_fingerprint model_type depth hidden_size probes n_samples "
    "engine_version scoring_version created versions schema_version "
    "layer_parameters layer_kv_bytes"  # of version 1 too: both may be missing
}


def described(schema: pa.Schema) -> list[str]:
    return [f"{field.name} {field.type}{'' if field.nullable else ' not null'}" for field in schema]


def listed(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def test_the_columns_of_measurements_are_those_of_their_version() -> None:
    assert described(MEASUREMENTS) == listed(MEASUREMENTS_BY_VERSION[MEASUREMENTS_VERSION])
    assert MEASUREMENTS.metadata[b"neuroscan.schema_version"] == MEASUREMENTS_VERSION.encode()


def test_the_columns_of_the_plan_are_those_of_its_version() -> None:
    assert described(PLAN) == listed(PLAN_BY_VERSION[PLAN_VERSION])
    assert PLAN.metadata[b"neuroscan.schema_version"] == PLAN_VERSION.encode()


def test_the_fields_of_the_manifest_are_those_of_its_version() -> None:
    assert " ".join(Manifest.__dataclass_fields__) == MANIFEST_BY_VERSION[MANIFEST_VERSION]


def test_what_differs_between_two_attempts_is_named_and_is_there() -> None:
    assert set(CIRCUMSTANCES) < set(MEASUREMENTS.names)


@st.composite
def shards(draw: st.DrawFn) -> list[Shard]:
    depth = draw(st.integers(1, 9))
    paths = draw(
        st.lists(
            st.lists(st.integers(0, depth - 1), min_size=1, max_size=9).map(tuple), unique=True, max_size=12
        )
    )
    tasks = [Task.of(LayerPath(path), probe_digests=["d"], stage=draw(st.integers(0, 1))) for path in paths]
    block = Block(0, depth)
    if draw(st.booleans()):
        path = LayerPath.duplicating([block], depth)
        if path.layers not in paths:
            tasks.append(Task.of(path, probe_digests=["d"], block=block))
    size = draw(st.integers(1, 4))
    return [Shard.of(tasks[k : k + size]) for k in range(0, len(tasks), size)]


@given(shards(), st.booleans())
def test_a_plan_reads_back_as_its_shards_in_their_order(planned: list[Shard], complete: bool) -> None:
    assert shards_of(plan_table(planned, complete=complete)) == planned
