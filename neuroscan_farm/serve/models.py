"""What the API takes and gives, as pydantic models: the OpenAPI description is made of them."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue

State: TypeAlias = Literal[
    "finished", "running", "queued", "paused", "stopped", "cancelled", "refused", "damaged"
]
Executor: TypeAlias = Literal["local", "farm"]


class ApiModel(BaseModel):
    """The common ground: nothing unknown is taken, nothing is changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Error(ApiModel):
    """Every answer that is no success."""

    error: str = Field(description="where, what was found, what is accepted")
    mend: str | None = Field(None, description="what to do about it")
    fields: dict[str, str] | None = Field(
        None, description="of a submission: what is wrong, by field, such as parameters.step"
    )


class Health(ApiModel):
    """A sign of life; asked without a token."""

    status: Literal["ok"] = "ok"
    name: Literal["neuroscan-farm"] = "neuroscan-farm"
    version: str


class Best(ApiModel):
    """The best configuration of a run, over its probes."""

    label: str
    path: str
    metric: str
    effect: float
    low: float | None
    high: float | None
    p_adjusted: float | None
    no_interval: str | None = Field(description="why there is no interval")
    effect_text: str = Field(description="the effect as the report writes it")
    interval_text: str
    unit: str
    tasks_measured: int = Field(description="on how many tasks it rests")


class Progress(ApiModel):
    """How a run stands."""

    id: str = Field(description="the run's name in this API: its folder among the runs")
    run_id: str
    state: State
    says: str | None = Field(
        description="what a person should know of the state: who waits for what, and the mend"
    )
    executor: Executor = Field(description="who carries it out: the farm's workers, or this machine")
    tasks: int
    tasks_finished: int
    tasks_failed: int
    share: float = Field(ge=0, le=1, description="of the planned tasks that are finished")
    plan_complete: bool = Field(description="false where a further stage may be planned")
    tasks_per_minute: float | None
    eta_seconds: float | None
    workers: list[str] = Field(description="of the farm, that work on it now")
    deaths: int = Field(description="of workers, so far")
    refusal: str | None = Field(description="why a worker refused the run")
    priority: int
    can: list[Literal["pause", "cancel", "resume", "retry"]]
    stamp: str = Field(description="changes whenever anything of this changes")
    rows_stamp: str = Field(
        description="changes whenever rows or plan change: figures and tables are as new as this"
    )


class RunSummary(Progress):
    """A run as the list shows it."""

    model: str
    depth: int
    analysis: str
    probes: list[str]
    metric: str
    created: str
    best: Best | None
    no_best: str | None = Field(description="why there is no best")


class LeftOut(ApiModel):
    """A folder among the runs that cannot be read."""

    id: str
    error: str


class RunsPage(ApiModel):
    """One page of the list of runs, the newest first."""

    runs: list[RunSummary]
    total: int = Field(description="of the runs that fit the filters")
    all: int = Field(description="of all runs")
    limit: int
    offset: int
    left_out: list[LeftOut]
    stamp: str


class Addition(ApiModel):
    """Probes that were added to a run later."""

    run_id: str
    probes: list[str]
    state: State
    tasks: int
    tasks_finished: int
    tasks_failed: int


class RunDetail(RunSummary):
    """A run with what it rests on."""

    location: str
    model_type: str
    model_fingerprint: str
    n_samples: dict[str, int]
    views: list[str] = Field(description="`*` is the mean over several probes; the first is the one to show")
    metrics: list[str] = Field(description="that figures and tables can be ranked by")
    outcomes: dict[str, int] = Field(description="rows by outcome")
    shards: int
    shards_finished: int
    evaluations: int
    evaluations_left: int
    versions: dict[str, str]
    request: dict[str, JsonValue]
    additions: list[Addition]
    can_materialize: bool


class Submission(ApiModel):
    """A request: what its YAML file says, as JSON."""

    analysis: str = Field(max_length=100)
    model: str = Field(
        min_length=1, max_length=4096, description="demo, a folder below NEUROSCAN_SERVE_MODELS, or a hub id"
    )
    revision: str | None = Field(None, max_length=4096)
    probes: list[str | dict[str, JsonValue]] = Field(
        min_length=1,
        max_length=100,
        description="built-in names, files below NEUROSCAN_SERVE_PROBES, or whole probes",
    )
    metric: str | None = Field(None, max_length=100)
    confirm: float | None = None
    parameters: dict[str, JsonValue] = {}
    engine: dict[str, JsonValue] = {}
    shard_size: int | None = None


class Submitted(ApiModel):
    """What a submission came to."""

    id: str
    run_id: str
    created: bool = Field(description="false where the same request was there already")
    executor: Executor
    says: str
    tasks: int
    run: RunSummary


class WorkerRow(ApiModel):
    """A worker of the farm, as it last described itself."""

    name: str
    host: str
    device: str
    state: str
    draining: bool
    run: str | None
    shard: str | None
    task: str | None
    busy_seconds: float | None = Field(description="since it began with the shard")
    model: str | None
    memory_mb: int | None
    heartbeat_age: float
    up_seconds: float | None
    version: str


class LocalWork(ApiModel):
    """What this machine carries out by itself, where no broker answers."""

    running: str | None = Field(description="the run in hand")
    queue: list[str] = Field(description="runs that wait for it, in order")


class Workers(ApiModel):
    """The farm's workers, and this machine's own work."""

    broker: Literal["up", "away"]
    says: str
    workers: list[WorkerRow]
    local: LocalWork


class Drained(ApiModel):
    """What was asked of a worker."""

    name: str
    draining: bool


class ModelChoice(ApiModel):
    """A model that may be submitted."""

    model: str = Field(description="what to write as `model`")
    name: str


class ProbeChoice(ApiModel):
    """A probe that may be submitted."""

    name: str
    samples: int | None
    description: str


class AnalysisChoice(ApiModel):
    """An analysis with its parameters as JSON schema."""

    name: str
    summary: str
    parameters: dict[str, Any]


class Options(ApiModel):
    """What may be submitted here."""

    analyses: list[AnalysisChoice]
    models: list[ModelChoice]
    hub_models: list[str] = Field(description="patterns of hub ids")
    probes: list[ProbeChoice]
    metrics: list[str]
    engine: dict[str, Any]
    executor: Executor = Field(description="who would carry a run out now")
    says: str
