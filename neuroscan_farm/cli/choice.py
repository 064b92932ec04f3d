"""What people choose of a run that is there: one of its configurations, and the metric that ranks them."""

from __future__ import annotations

from typing import Annotated

import typer

from neuroscan_farm.domain.measurements import Metric
from neuroscan_farm.domain.paths import LayerPath, parse_blocks
from neuroscan_farm.errors import RequestError

BlockOption = Annotated[str | None, typer.Option(help="This block, as I,J or I,J;K,L.")]
PathOption = Annotated[str | None, typer.Option(help="This order, as 0..15,11..31.")]
MetricOption = Annotated[str | None, typer.Option(help="Rank by this metric instead of the request's.")]


def require_one(
    block: str | None, path: str | None, top: int | None = None, *, options: str, least: int
) -> None:
    """Refuse more options than one that name a configuration, and fewer than `least`.

    Args:
        block: what `--block` said.
        path: what `--path` said.
        top: what `--top` said, where the command has it.
        options: the command's options of this kind, for the message.
        least: 0 or 1.

    Raises:
        BadParameter: wrong usage, which ends with exit code 2 as a missing option does.
    """
    named = sum(one is not None for one in (block, path, top))
    if named > 1:
        raise typer.BadParameter(f"{options} each name a configuration; give one of them")
    if named < least:
        raise typer.BadParameter(f"no configuration is named; give one of {options}")


def path_named(block: str | None, path: str | None, *, depth: int) -> LayerPath | None:
    """Return the path that one of the two options names; None where neither does.

    Raises:
        RequestError: the text is none, or a block reaches beyond `depth`.
    """
    if block is not None:
        return LayerPath.duplicating(parse_blocks(block), depth)
    return LayerPath.parse(path) if path is not None else None


def metric_named(name: str | None) -> Metric | None:
    """Return the metric of that name; None where none is named.

    Raises:
        RequestError: there is none of that name.
    """
    if name is None:
        return None
    try:
        return Metric(name)
    except ValueError:
        raise RequestError(f"metric {name!r} is not known; there are: {', '.join(Metric)}") from None
