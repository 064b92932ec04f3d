"""The fused lane: layers of the common shape with fewer, larger operations, and a shared prompt prefix run once.

What a layer computes is read from its shape (`layer_shapes`); masks and rotary inputs are those that the model itself
made for the batch. A shape is a claim: `FusedLane.prove` compares every layer to the model's own module on real
prompts, and the lane is not used where one differs. One lane serves the whole model; there is no mixing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from neuroscan_farm.domain.paths import Component
from neuroscan_farm.engine.anatomy import Anatomy
from neuroscan_farm.engine.components import Components
from neuroscan_farm.engine.lanes.fused_layer import Masks, Rotary, masks_of, rotary_of, run_shape
from neuroscan_farm.engine.lanes.general import GeneralInputs, GeneralLane
from neuroscan_farm.engine.lanes.lane import Inputs
from neuroscan_farm.engine.lanes.layer_arguments import (
    Arguments,
    agree,
    by_position,
    half_of,
    read_arguments,
)
from neuroscan_farm.engine.lanes.layer_shapes import LayerShape, Unrecognised, recognise
from neuroscan_farm.engine.lanes.shared_prefix import Arrangement, Layout, arrange
from neuroscan_farm.engine.replay import prepare

_PROVEN_SAMPLES = 2
_SUM_ROUNDINGS = 4  # of the dtype's precision, by which the sum with the residual may differ


@dataclass(slots=True)
class FusedInputs:
    """Batches as the fused lane keeps them."""

    prompts: tuple[torch.Tensor, ...]  # [samples, tokens] of each length
    embedded: torch.Tensor  # the unit at boundary 0
    layout: Arrangement
    # Of each batch, one for each layer; layers share their tensors.
    arguments: tuple[Sequence[Arguments], ...]
    end_dtype: torch.dtype  # in which the head takes the residual
    _rotary: dict[object, Rotary] = field(default_factory=dict)
    _masks: dict[object, Masks] = field(default_factory=dict)

    def rotary(self, k: int, shape: LayerShape, like: torch.Tensor) -> Rotary | None:
        """The rotary inputs of layer k, in the dtype and on the device of `like`."""
        tables = [(one[k].cos, one[k].sin) for one in self.arguments]
        first = tables[0]
        if first[0] is None:
            return None
        key = (id(first[0]), id(first[1]), like.device, like.dtype, shape.attention.interleaved)
        if key not in self._rotary:
            cos, sin = (
                [table.to(like) for table in part if table is not None] for part in zip(*tables, strict=True)
            )
            self._rotary[key] = rotary_of(cos, sin, self.layout, interleaved=shape.attention.interleaved)
        return self._rotary[key]

    def masks(self, k: int, shape: LayerShape, like: torch.Tensor) -> list[Masks]:
        """The masks of layer k for each batch, in the dtype and on the device of `like`."""
        return [
            self._masks_of(one[k].mask, layout, shape.attention.causal, like)
            for one, layout in zip(self.arguments, self.layout.layouts, strict=True)
        ]

    def _masks_of(self, mask: torch.Tensor | None, layout: Layout, causal: bool, like: torch.Tensor) -> Masks:
        key = (id(mask), layout, like.device, like.dtype, causal)
        if key not in self._masks:
            self._masks[key] = masks_of(mask, layout, causal=causal, like=like)
        return self._masks[key]


class FusedLane:
    """Runs layers whose shape is known; see `Lane`."""

    name = "fused"
    mixes_lengths = True

    def __init__(
        self, anatomy: Anatomy, shapes: Sequence[LayerShape], *, residual_dtype: torch.dtype | None = None
    ) -> None:
        self._anatomy = anatomy
        self._shapes = tuple(shapes)
        self._residual_dtype = residual_dtype
        self.components: Components | None = None

    def inputs(self, *prompts: torch.Tensor) -> FusedInputs:
        """See `Lane.inputs`.

        Raises:
            Unrecognised: the model calls its layers with something that is not understood.
        """
        prepared = [prepare(self._anatomy, token_ids) for token_ids in prompts]
        arguments = tuple(read_arguments(self._anatomy, calls) for _, calls in prepared)
        causal = all(
            one.mask is not None or shape.attention.causal
            for of_batch in arguments
            for one, shape in zip(of_batch, self._shapes, strict=True)
        )
        layout = arrange(prompts, by_position=causal and by_position(arguments))
        if layout.prefix and not agree(arguments, layout.prefix):
            layout = arrange(prompts, by_position=False)
        embedded = layout.pack(*(residual for residual, _ in prepared))
        end_dtype = embedded.dtype
        if self._residual_dtype is not None:
            embedded = embedded.to(self._residual_dtype)
        return FusedInputs(prompts, embedded, layout, arguments, end_dtype)

    def stackable(self, inputs: Inputs) -> bool:  # noqa: ARG002
        """See `Lane.stackable`."""
        return True

    def run(
        self, inputs: Inputs, k: int, stack: torch.Tensor, copies: int, only: Component | None = None
    ) -> torch.Tensor:
        """See `Lane.run`."""
        return self._run(inputs, k, stack, copies, only, last_only=False).view(stack.shape)

    def run_last(
        self, inputs: Inputs, k: int, stack: torch.Tensor, copies: int, only: Component | None = None
    ) -> torch.Tensor:
        """See `Lane.run_last`: keys and values of all tokens, and all else of the last one alone."""
        assert isinstance(inputs, FusedInputs)
        ends = self._run(inputs, k, stack, copies, only, last_only=True)
        return ends.to(inputs.end_dtype).reshape(-1, 1, ends.shape[-1])

    def _run(
        self,
        inputs: Inputs,
        k: int,
        stack: torch.Tensor,
        copies: int,
        only: Component | None,
        *,
        last_only: bool,
    ) -> torch.Tensor:
        assert isinstance(inputs, FusedInputs)
        shape, layout = self._shapes[k], inputs.layout
        weight = shape.attention.query.weight
        units = stack.to(weight.device).reshape(copies, layout.rows, -1)
        with torch.inference_mode():
            return run_shape(
                shape,
                units,
                layout,
                inputs.rotary(k, shape, weight),
                inputs.masks(k, shape, weight),
                last_only=last_only,
                only=only,
            )

    def end(self, inputs: Inputs, unit: torch.Tensor) -> torch.Tensor:
        """See `Lane.end`."""
        assert isinstance(inputs, FusedInputs)
        ends = inputs.layout.ends(inputs.layout.by_unit(unit))
        return ends.to(inputs.end_dtype).reshape(-1, 1, ends.shape[-1])

    def halves(self, inputs: Inputs) -> tuple[Inputs, Inputs]:
        """See `Lane.halves`; both keep the prefix."""
        assert isinstance(inputs, FusedInputs)
        layouts, units = inputs.layout.halves(), inputs.layout.split(inputs.embedded)
        if len(inputs.prompts) > 1:
            middle = len(layouts[0].layouts)
            of_halves = [
                (inputs.prompts[:middle], inputs.arguments[:middle]),
                (inputs.prompts[middle:], inputs.arguments[middle:]),
            ]
        else:
            (token_ids,), (arguments,) = inputs.prompts, inputs.arguments
            middle = layouts[0].samples
            of_halves = [
                ((token_ids[:middle],), (half_of(arguments, 0, middle),)),
                ((token_ids[middle:],), (half_of(arguments, 1, middle),)),
            ]
        first, second = (
            FusedInputs(prompts, unit, layout, arguments, inputs.end_dtype)
            for (prompts, arguments), unit, layout in zip(of_halves, units, layouts, strict=True)
        )
        return first, second

    def split(self, inputs: Inputs, unit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Lane.split`."""
        assert isinstance(inputs, FusedInputs)
        return inputs.layout.split(unit)

    def join(self, inputs: Inputs, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """See `Lane.join`."""
        assert isinstance(inputs, FusedInputs)
        return inputs.layout.join(first, second)

    def understands(self, prompts: Sequence[torch.Tensor]) -> str | None:
        """Return what the model calls its layers with on these prompts that is not understood, or None.

        Args:
            prompts: batches of prompts of equal length, [samples, tokens] each; one of each length is looked at.
        """
        try:
            self.inputs(*{batch.shape[1]: batch[:_PROVEN_SAMPLES] for batch in prompts}.values())
        except Unrecognised as error:
            return str(error)
        return None

    def prove(
        self,
        prompts: Sequence[torch.Tensor],
        *,
        tolerance: float,
        ensure: Callable[[int], None] = lambda k: None,
        components: Components | None = None,
    ) -> str | None:
        """Compare every layer to the model's own module, on the residual that real prompts arrive with.

        Args:
            prompts: batches of prompts of equal length, [samples, tokens] each; two samples of the longest and of the
                shortest are used.
            tolerance: the largest difference, as a share of the largest number that a layer adds to the residual.
            ensure: called with each layer's number before it runs, in order: where weights come and go.
            components: compare each layer with one of its components silent, and not the whole layer.

        Returns:
            Why the lane must not be used, or None.
        """
        general = GeneralLane(self._anatomy)
        general.components = components
        by_length = {batch.shape[1]: batch[:_PROVEN_SAMPLES] for batch in prompts}
        chosen = [by_length[length] for length in sorted({min(by_length), max(by_length)})]
        try:
            ours, theirs = self.inputs(*chosen), [general.inputs(batch) for batch in chosen]
            residuals = [one.embedded for one in theirs]
            for k in range(len(self._shapes)):
                ensure(k)
                after = [
                    general.run(one, k, residual, 1) for one, residual in zip(theirs, residuals, strict=True)
                ]
                if components is None and (
                    part := self._differs(ours, theirs, k, residuals, after, tolerance)
                ):
                    return f"{part} differs from the model's own"
                for only in Component if components is not None else ():
                    alone = [
                        general.run(one, k, residual, 1, only)
                        for one, residual in zip(theirs, residuals, strict=True)
                    ]
                    if part := self._differs(ours, theirs, k, residuals, alone, tolerance, only):
                        return f"{part} with its {only} alone differs from the model's own"
                residuals = after
        except Unrecognised as error:
            return str(error)
        except Exception as error:  # the shape claimed what is not so; the model's own layers can still run
            return f"{type(error).__name__}: {error}"
        return None

    def _differs(
        self,
        ours: FusedInputs,
        theirs: Sequence[GeneralInputs],
        k: int,
        residuals: Sequence[torch.Tensor],
        expected: Sequence[torch.Tensor],
        tolerance: float,
        only: Component | None = None,
    ) -> str | None:
        """Run layer k on residuals of real prompts; say what of it is not as expected, or None."""
        general, layout = GeneralLane(self._anatomy), ours.layout
        before, after = layout.pack(*residuals), layout.pack(*expected)
        unit = before.to(ours.embedded.dtype)
        if not _close(self.run(ours, k, unit, 1, only), after, before, tolerance):
            return f"layer {k}"
        starts, ends = (
            torch.cat([general.end(one, residual) for one, residual in zip(theirs, found, strict=True)])
            for found in (residuals, expected)
        )
        if not _close(self.run_last(ours, k, unit, 1, only), ends, starts, tolerance):
            return f"the last token of layer {k}"
        return None


class Offer(NamedTuple):
    """A fused lane, or why there is none."""

    lane: FusedLane | None
    reason: str


def fused_lane(
    anatomy: Anatomy,
    *,
    residual_dtype: torch.dtype | None = None,
    ensure: Callable[[int], None] = lambda k: None,
) -> Offer:
    """Offer a fused lane for a model whose every layer has a known shape; it is yet to be proven.

    Args:
        anatomy: the model.
        residual_dtype: keep the residual stream in this dtype, such as float32 where weights are bfloat16.
        ensure: called with each layer's number before it is looked at, in order: where weights come and go.
    """
    shapes = []
    for k, layer in enumerate(anatomy.layers):
        ensure(k)
        try:
            shapes.append(recognise(layer))
        except Unrecognised as error:
            return Offer(None, f"layer {k} ({type(layer).__name__}): {error}")
    return Offer(FusedLane(anatomy, shapes, residual_dtype=residual_dtype), "")


def _close(ours: torch.Tensor, theirs: torch.Tensor, before: torch.Tensor, tolerance: float) -> bool:
    """Whether two residuals are equal up to rounding: of what the layer adds, and of the sum."""
    ours, theirs, before = (one.to(theirs.device) for one in (ours, theirs, before))
    rounding = torch.finfo(theirs.dtype).eps
    ours, theirs, before = ours.float(), theirs.float(), before.float()
    finite = torch.isfinite(theirs)
    if not torch.equal(torch.isfinite(ours), finite):
        return False
    theirs, before = theirs[finite], before[finite]
    if not theirs.numel():
        return True
    allowed = tolerance * (theirs - before).abs().max() + _SUM_ROUNDINGS * rounding * theirs.abs()
    return bool(((ours[finite] - theirs).abs() <= allowed).all())
