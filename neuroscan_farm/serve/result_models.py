"""What the API gives of a run's results, as pydantic models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, JsonValue

from neuroscan_farm.serve.models import ApiModel


class Findings(ApiModel):
    """What the report says of a run in words and in short tables."""

    stamp: str
    progress: str
    notices: list[str]
    views: list[dict[str, str]] = Field(description="each with `view` (of the queries) and `name`")
    baseline: list[dict[str, str]]
    best: list[dict[str, JsonValue]]
    noise: str | None
    chance: str | None
    confirmation: list[str]
    controls: str | None
    circuit: str | None
    across_probes: str | None
    cross_probe: str | None
    summary: dict[str, JsonValue] = Field(description="the same as `summary.json` of the report")


class Block(ApiModel):
    """Layers i to j - 1 run `times` times."""

    i: int
    j: int
    times: int


class ConfigurationRow(ApiModel):
    """One configuration on one probe, or over the probes (`*`): the columns of `configurations.csv`, and more."""

    rank: int | None
    unranked: str | None
    task_id: str
    probe: str
    label: str
    path: str
    block: Block | None
    i: int | None
    j: int | None
    times: int | None
    block_size: int | None
    n_layers_run: int
    stage: int
    baseline: bool
    samples_ok: int
    samples_failed: int
    outcomes: str
    detail: str | None
    log_odds: float | None
    log_p_correct: float | None
    accuracy: float | None
    expected_score: float | None
    uncertainty: float | None
    coverage: float | None
    entropy: float | None
    effect_metric: str
    effect: float | None
    effect_low: float | None
    effect_high: float | None
    effect_standard_error: float | None
    effect_samples: int | None
    accuracy_effect: float | None
    accuracy_effect_low: float | None
    accuracy_effect_high: float | None
    p: float | None
    p_adjusted: float | None
    q: float | None
    no_interval: str | None
    accuracy_p_adjusted: float | None
    added_layers: int | None
    added_parameters: int | None
    added_kv_bytes_per_token: int | None
    relative_latency: float | None


class ConfigurationsPage(ApiModel):
    """One page of the table of configurations."""

    configurations: list[ConfigurationRow]
    total: int
    limit: int
    offset: int
    probe: str
    metric: str
    unit: str
    scale: float = Field(description="effects are shown multiplied by this")
    decimals: int
    tasks_planned: int
    tasks_measured: int
    stamp: str


class SampleEffect(ApiModel):
    """One sample on one configuration, beside the untouched model."""

    probe: str
    sample_id: str
    prompt: str | None = Field(description="what the model read; text, never markup")
    answer: str | None
    outcome: str | None = Field(description="null where it is not measured")
    detail: str | None
    value: float | None = Field(description="of the metric, on this configuration")
    baseline: float | None = Field(description="of the metric, on the untouched model")
    effect: float | None
    correct: bool | None
    baseline_correct: bool | None
    top_token: str | None


class ConfigurationDetail(ApiModel):
    """One configuration with everything that is known of it."""

    task_id: str
    label: str
    path: str
    steps: list[int] = Field(
        description="10,000 more where only the attention runs, 20,000 more where only the mlp runs"
    )
    layers: list[int]
    runs: list[list[int]] = Field(
        description="ascending runs [first, end), in the order in which they are visited"
    )
    skipped: list[int]
    depth: int
    whole: bool = Field(
        description="false where a layer runs in part: then there is no merge and no checkpoint"
    )
    block: Block | None
    views: list[ConfigurationRow]
    metric: str
    unit: str
    scale: float = Field(description="effects are shown multiplied by this")
    decimals: int
    cost_text: str
    samples: list[SampleEffect]
    stamp: str


class FigureHead(ApiModel):
    """A figure that a run has."""

    name: str
    title: str
    square: bool
    wide: bool
    of_a_view: bool = Field(description="false where it is over all probes, whatever the view")


class Figures(ApiModel):
    """The figures of one view of a run."""

    figures: list[FigureHead]
    config: dict[str, JsonValue] = Field(description="for Plotly")
    stamp: str


class FigureData(ApiModel):
    """A figure as Plotly takes it: the very one of the report."""

    name: str
    title: str
    subtitle: str
    square: bool
    wide: bool
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    stamp: str
    config: dict[str, JsonValue]


class FailureRow(ApiModel):
    """Failures with the same outcome and the same message."""

    outcome: str
    message: str
    configurations: int
    samples: int
    example: str


class Failures(ApiModel):
    """What went wrong in a run, commonest first."""

    groups: list[FailureRow]
    tasks_failed: int
    can_retry: bool
    stamp: str


class RowsPage(ApiModel):
    """One page of the measured rows; their fields are the columns of `parts/*.parquet`."""

    rows: list[dict[str, Any]]
    total: int
    limit: int
    offset: int
    stamp: str


class Materialize(ApiModel):
    """Which configuration to write as a checkpoint; exactly one of the three is given."""

    path: str | None = Field(None, max_length=20_000)
    block: str | None = Field(None, max_length=2000, description="I,J or I,J;K,L")
    top: int | None = Field(None, ge=1, le=1_000_000)


class Job(ApiModel):
    """A checkpoint that is written, by a process of its own."""

    id: str
    run: str
    path: str
    folder: str
    state: Literal["running", "finished", "failed", "interrupted"]
    says: str
    started: str


class Jobs(ApiModel):
    """The jobs of a run, the newest first."""

    jobs: list[Job]


class Comparison(ApiModel):
    """Two runs side by side; fields as those of `neuroscan-farm compare --json`."""

    schema_version: int
    metric: str
    matched_by: str
    runs: list[dict[str, JsonValue]]
    views: list[dict[str, JsonValue]]
    text: str = Field(description="the comparison for a terminal")
