"""The options that say what is asked for: written once, shared by `run`, `submit` and `plan`."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from neuroscan_farm.analyses import ANALYSES
from neuroscan_farm.cli.layers import request_from
from neuroscan_farm.domain.requests import AnalysisRequest

_GRID = "Duplication"
_LAYERS = "Ablation and circuits"
_ENGINE = "Engine"
_ANALYSES = "; ".join(f"{analysis.name}: {analysis.summary}" for analysis in ANALYSES.values())


def _flags(
    analysis: Annotated[
        str | None,
        typer.Argument(help=f"What to scan. {_ANALYSES}. May come from --config.", show_default=False),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A folder, a hub id, or `demo` for the bundled model.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    probes: Annotated[
        list[str] | None,
        typer.Option("--probe", "-p", help="A built-in probe or a JSON/YAML file; repeatable."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Rank by log_odds (default), log_p_correct, correct or expected_score.")
    ] = None,
    confirm: Annotated[
        float | None,
        typer.Option(
            help="Share of each probe's samples, such as 0.5, that is held out of all choices to confirm the best."
        ),
    ] = None,
    min_block: Annotated[
        int | None, typer.Option(help="Shortest block, in layers.", rich_help_panel=_GRID)
    ] = None,
    max_block: Annotated[
        int | None, typer.Option(help="Longest block, in layers.", rich_help_panel=_GRID)
    ] = None,
    step: Annotated[int | None, typer.Option(help="Stride of i and j.", rich_help_panel=_GRID)] = None,
    skip_early: Annotated[
        int | None,
        typer.Option(
            help="Layers at the start that no block touches, and that are never left out.",
            rich_help_panel=_GRID,
        ),
    ] = None,
    skip_late: Annotated[
        int | None,
        typer.Option(
            help="Layers at the end that no block touches, and that are never left out.",
            rich_help_panel=_GRID,
        ),
    ] = None,
    times: Annotated[
        int | None, typer.Option(help="How often each block of the grid runs in all.", rich_help_panel=_GRID)
    ] = None,
    blocks: Annotated[
        list[str] | None,
        typer.Option(
            "--block",
            help="A block I,J instead of the grid: 31,34 or 31,34;43,45 or 31,34x3; repeatable.",
            rich_help_panel=_GRID,
        ),
    ] = None,
    paths: Annotated[
        list[str] | None,
        typer.Option(
            "--path", help="Any order instead of the grid: 0..15,11..31; repeatable.", rich_help_panel=_GRID
        ),
    ] = None,
    controls: Annotated[
        int | None,
        typer.Option(
            help="For each --block, so many random windows of the same length, to compare with.",
            rich_help_panel=_GRID,
        ),
    ] = None,
    sparse_first: Annotated[
        bool | None,
        typer.Option(
            "--sparse-first", help="Scan coarsely, then refine around the best.", rich_help_panel=_GRID
        ),
    ] = None,
    sparse_step: Annotated[
        int | None, typer.Option(help="Stride of the coarse stage.", rich_help_panel=_GRID)
    ] = None,
    refine_top: Annotated[
        int | None,
        typer.Option(help="How many of the best coarse blocks are refined.", rich_help_panel=_GRID),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Ablation: which layers to leave out, such as 0..5,9; default is all.",
            rich_help_panel=_LAYERS,
        ),
    ] = None,
    components: Annotated[
        list[str] | None,
        typer.Option(
            "--component",
            help="Ablation: what of a layer is left out: layer (default), attention or mlp; repeatable.",
            rich_help_panel=_LAYERS,
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="Circuits: which pairs: fast (default), thorough or exhaustive.", rich_help_panel=_LAYERS
        ),
    ] = None,
    top_layers: Annotated[
        int | None,
        typer.Option(
            help="Circuits: how many layers, by how far their absence moves scores, make pairs; default is 10.",
            rich_help_panel=_LAYERS,
        ),
    ] = None,
    similarity: Annotated[
        float | None,
        typer.Option(
            help="Circuits: the cosine above which thorough takes layers for similar; default is 0.95.",
            rich_help_panel=_LAYERS,
        ),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--pair",
            help="Circuits: a pair to try besides, such as 3,7; repeatable.",
            rich_help_panel=_LAYERS,
        ),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="transformers.", rich_help_panel=_ENGINE)] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=_ENGINE)
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", rich_help_panel=_ENGINE)] = None,
    attention: Annotated[
        str | None, typer.Option(help="auto, eager or sdpa.", rich_help_panel=_ENGINE)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Most samples of equal length in one pass.", rich_help_panel=_ENGINE)
    ] = None,
    prompt_format: Annotated[
        str | None, typer.Option(help="raw, or chat for the model's chat template.", rich_help_panel=_ENGINE)
    ] = None,
    trust_remote_code: Annotated[
        bool | None,
        typer.Option(
            "--trust-remote-code", help="Run the model folder's own Python code.", rich_help_panel=_ENGINE
        ),
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(help="Most tasks in one shard.", rich_help_panel=_ENGINE)
    ] = None,
) -> None:
    """Carry the signature; never called."""


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a request; it receives the request that they come to as `request`."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "request"]
    shared = list(inspect.signature(_flags).parameters.values())
    config_option = Annotated[Path | None, typer.Option("--config", "-c", help="A request as YAML.")]
    set_option = Annotated[
        list[str] | None, typer.Option("--set", help="Any field of the request, as a.b=c; repeatable.")
    ]
    doors = [
        inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=config_option),
        inspect.Parameter("set_", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=set_option),
    ]

    @functools.wraps(command)
    def wrapper(*, config: Path | None, set_: list[str] | None, **values: Any) -> None:
        flags = {parameter.name: values.pop(parameter.name) for parameter in shared}
        command(request=_read(flags, config, set_), **values)

    hints = inspect.get_annotations(_flags, eval_str=True) | inspect.get_annotations(command, eval_str=True)
    hints |= {"config": config_option, "set_": set_option}
    parameters = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name])
        for p in [*shared, *doors, *own]
    ]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: hints[p.name] for p in parameters}
    return wrapper


def _read(flags: dict[str, Any], config: Path | None, sets: list[str] | None) -> AnalysisRequest:
    return request_from(flags, config=config, sets=sets or [], environment=os.environ)
