"""A request: what a person asks for. Frozen when submitted; the same request is the same run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from neuroscan_farm.domain.measurements import Metric

_LONGEST_NAME = 4096  # no path is longer


class Parameters(BaseModel):
    """The parameters of one analysis; each file in `analyses/` has its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineOptions(BaseModel):
    """How forward passes are run. Recorded in every row, because a row depends on them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: Literal["transformers"] = "transformers"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto is float32 on a CPU and the checkpoint's own dtype on a GPU"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto is cuda where there is one")
    attention: Literal["auto", "eager", "sdpa"] = Field(
        "auto", description="attention implementation of transformers"
    )
    lane: Literal["auto", "general", "fused"] = Field(
        "auto",
        description="auto runs layers by fewer, larger operations of our own where they are proven equal to the model's "
        "(fused), else by the model's own modules (general)",
    )
    residual: Literal["auto", "float32"] = Field(
        "auto",
        description="float32 adds up the residual stream in float32 whatever the dtype; fused lane only",
    )
    batch_size: int = Field(16, ge=1, description="most samples of equal token length in one forward pass")
    prompt_format: Literal["raw", "chat"] = Field(
        "raw", description="chat wraps each prompt in the tokenizer's chat template"
    )
    trust_remote_code: bool = Field(False, description="run the model folder's own Python code")

    @model_validator(mode="after")
    def _lane_has_the_residual(self) -> EngineOptions:
        if self.lane == "general" and self.residual != "auto":
            raise ValueError(
                "residual is float32, which the general lane does not do; use lane auto or fused, or residual auto"
            )
        return self


class AnalysisRequest(BaseModel):
    """A request: model, analysis and its parameters, probes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    analysis: str
    model: str = Field(
        min_length=1,
        max_length=_LONGEST_NAME,
        description="a folder, a hub id, or `demo` for the bundled model",
    )
    revision: str | None = Field(
        None, max_length=_LONGEST_NAME, description="branch, tag or commit of a hub id"
    )
    probes: tuple[Annotated[str, Field(max_length=_LONGEST_NAME)], ...] = Field(
        min_length=1, description="built-in names or JSON/YAML files"
    )
    metric: Metric = Field(Metric.LOG_ODDS, description="what configurations are ranked by")
    confirm: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of each probe's samples that is held out of all choices, and tells afterwards what the best "
        "configurations are worth; none holds nothing out",
    )
    parameters: SerializeAsAny[Parameters]
    engine: EngineOptions = EngineOptions()
    shard_size: int | None = Field(
        None, ge=1, description="most tasks in one shard; null is what makes one to three minutes of work"
    )
