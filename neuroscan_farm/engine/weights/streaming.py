"""Layers that are in memory only while they are needed: a model larger than the memory, one layer after another.

Everything but the decoder layers stays. The layers' weights are absent, and computing with them is an error, until
`ensure` makes one layer's weights present; at most `slots` layers are present, in memory that is allocated
once. A thread reads the next layer while the present one computes. Whoever calls a layer as a module needs not know:
a hook makes its weights present first. Weights are the same bytes in the same alignment, so rows are the same too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from neuroscan_farm.engine.weights.checkpoint import Checkpoint
from neuroscan_farm.engine.weights.layer_sources import Sources

_ALIGNMENT = 64  # of torch's own CPU tensors


class LayerWeights(Protocol):
    """Whether and how a layer's weights come into memory."""

    streamed: bool

    def follow(self, layers: Sequence[nn.Module]) -> None:
        """Count these modules, the model's decoder layers, as layers 0, 1, ..."""

    def ensure(self, k: int, then: int | None = None) -> None:
        """Make the weights of layer k present until the next call, and begin to load those of layer `then`."""

    def close(self) -> None:
        """Give memory and files back; no layer can run afterwards where layers are streamed."""


class ResidentLayers:
    """All layers are in memory all the time."""

    streamed = False

    def follow(self, layers: Sequence[nn.Module]) -> None:
        """See `LayerWeights.follow`; there is nothing to do."""

    def ensure(self, k: int, then: int | None = None) -> None:
        """See `LayerWeights.ensure`; there is nothing to do."""

    def close(self) -> None:
        """See `LayerWeights.close`; there is nothing to do."""


# What may be asked of a weight that is not in memory.
_HARMLESS = {
    "shape", "dtype", "device", "layout", "ndim", "size", "numel", "dim", "stride", "element_size", "itemsize", "nbytes",
    "is_meta", "is_cpu", "is_cuda", "is_sparse", "is_quantized", "is_leaf", "is_contiguous", "is_floating_point",
    "is_complex", "requires_grad", "requires_grad_", "grad", "grad_fn", "__repr__",
}  # fmt: skip


class AbsentWeight(nn.Parameter):
    """What stands in the place of a weight that is not in memory: it has a shape, and computing with it raises.

    A tensor on the meta device alone would not do: torch 2.13 multiplies a CPU tensor with it in inference mode and
    returns whatever the memory of the result held before.
    """

    @classmethod
    def of(cls, weight: torch.Tensor) -> AbsentWeight:
        """Return the stand-in of a weight on the meta device."""
        absent: AbsentWeight = torch.Tensor._make_subclass(cls, weight.detach(), False)
        return absent

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let the shape be asked for, and nothing be computed."""
        name = func.__self__.__name__ if func.__name__ == "__get__" else func.__name__
        if name not in _HARMLESS:
            raise RuntimeError(
                f"{name} of a weight that is not in memory: its layer was not asked for (ensure)"
            )
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True)
class StreamedWeight:
    """One weight of a layer that is not in memory all the time."""

    name: str  # in the model
    places: tuple[tuple[nn.Module, str], ...]  # the modules that hold it, and under which name
    absent: AbsentWeight  # what stands there otherwise
    offset: int  # bytes from the start of a slot


@dataclass(frozen=True, slots=True)
class StreamedLayer:
    """A decoder layer whose weights come and go."""

    module: nn.Module
    weights: tuple[StreamedWeight, ...]
    sources: tuple[Sources, ...]
    size_bytes: int  # in a slot

    def leave(self) -> None:
        """Put what is absent in the place of every weight."""
        for weight in self.weights:
            for module, attribute in weight.places:
                # In the dictionary itself, which the copies of a rebuilt layer list share.
                module._parameters[attribute] = weight.absent

    def come(self, memory: torch.Tensor) -> None:
        """Put the weights that a slot holds in their places."""
        with torch.inference_mode(False):
            views = self.views(memory)
            for weight in self.weights:
                present = nn.Parameter(views[weight.name], requires_grad=False)
                for module, attribute in weight.places:
                    module._parameters[attribute] = present

    def views(self, memory: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the layer's weights as views of a slot's bytes."""
        views = {}
        for weight in self.weights:
            size = weight.absent.numel() * weight.absent.element_size()
            flat = memory[weight.offset : weight.offset + size].view(weight.absent.dtype)
            views[weight.name] = flat.view(weight.absent.shape)
        return views


def laid_out(
    module: nn.Module,
    named: Sequence[tuple[str, torch.Tensor, tuple[tuple[nn.Module, str], ...]]],
    sources: Sequence[Sources],
) -> StreamedLayer:
    """Give each weight of a layer its place in a slot."""
    weights, offset = [], 0
    for name, on_meta, places in named:
        weights.append(StreamedWeight(name, places, AbsentWeight.of(on_meta), offset))
        size = on_meta.numel() * on_meta.element_size()
        offset += -(-size // _ALIGNMENT) * _ALIGNMENT
    return StreamedLayer(module, tuple(weights), tuple(sources), offset)


@dataclass(slots=True)
class _Slot:
    memory: torch.Tensor  # bytes on the device
    layer: StreamedLayer | None = None
    loading: Future[None] | None = None
    attached: bool = False
    asked: int = 0  # when it was last asked for, to find the slot to give away
    free: Any = None  # CUDA event: the work that read this slot is done


@dataclass(slots=True)
class Traffic:
    """What streaming has cost so far."""

    loads: int = 0
    prefetched: int = 0  # loads that had begun before the layer was asked for
    read_seconds: float = 0.0
    waited_seconds: float = 0.0
    most_present: int = 0  # layers whose weights were in memory at the same time


class StreamedLayers:
    """Brings layers' weights into memory when they are needed, one ahead."""

    streamed = True

    def __init__(
        self,
        model: nn.Module,
        lists: Sequence[Sequence[StreamedLayer]],
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        slots: int = 2,
    ) -> None:
        """Allocate the slots and hook the layers.

        Args:
            model: the model; its streamed weights are on the meta device, and are replaced by absent ones.
            lists: its lists of layers, each in the order in which they are usually called.
            checkpoint: where the weights are.
            device: where they go.
            slots: how many layers may be in memory: the present one, and those loaded ahead.
        """
        self.traffic = Traffic()
        self._model = model
        self._checkpoint = checkpoint
        self._device = device
        cuda: Any = torch.cuda  # which is not typed
        self._cuda: Any = cuda if device.type == "cuda" else None
        self._stream: Any = cuda.Stream(device) if self._cuda else None
        layers = [layer for group in lists for layer in group]
        self._layers = {id(layer.module): layer for layer in layers}
        heaviest = max(lists, key=lambda group: sum(layer.size_bytes for layer in group))
        self._followed: list[StreamedLayer | None] = list(heaviest)
        largest = max(layer.size_bytes for layer in layers)
        self._slots = [_Slot(torch.empty(largest, dtype=torch.uint8, device=device)) for _ in range(slots)]
        # On a GPU the file is read into memory that the device can copy from by itself.
        self._host = torch.empty(largest, dtype=torch.uint8, pin_memory=True) if self._cuda else None
        self._thread = ThreadPoolExecutor(1, "layer-loader")
        self._clock = 0
        self._hooks = []
        for layer in layers:
            layer.leave()
        for group in lists:
            for layer, following in zip(group, [*group[1:], None], strict=True):
                self._hooks.append(self._hook(layer, following))

    @property
    def slot_bytes(self) -> int:
        """Bytes of all slots, on the device."""
        return sum(slot.memory.numel() for slot in self._slots)

    def present(self) -> int:
        """How many layers have, or are just getting, their weights in memory."""
        return sum(slot.layer is not None for slot in self._slots)

    def follow(self, layers: Sequence[nn.Module]) -> None:
        """See `LayerWeights.follow`; until then it is the list with the most weights that counts."""
        self._followed = [self._layers.get(id(layer)) for layer in layers]

    def ensure(self, k: int, then: int | None = None) -> None:
        """See `LayerWeights.ensure`.

        Raises:
            ModelError: the weights cannot be read.
        """
        self._ensure(self._followed[k], None if then is None else self._followed[then])

    def _ensure(self, wanted: StreamedLayer | None, following: StreamedLayer | None) -> None:
        if wanted is None:  # all its weights stay
            return
        slot = self._holding(wanted)
        if slot is None:
            slot = self._begin(wanted)
        elif slot.loading is not None:
            self.traffic.prefetched += 1
        self._asked(slot)
        self._finish(slot)
        if following is not None and self._holding(following) is None and len(self._slots) > 1:
            self._asked(self._begin(following))

    def close(self) -> None:
        """See `LayerWeights.close`."""
        for hook in self._hooks:
            hook.remove()
        for slot in self._slots:
            if slot.loading is not None:
                slot.loading.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)
        for slot in self._slots:
            self._detach(slot)
        self._slots = []
        self._layers, self._followed = {}, []
        self._host = None
        self._checkpoint.close()

    def _hook(self, layer: StreamedLayer, following: StreamedLayer | None) -> Any:
        own = layer.module.__dict__.get("forward")

        def before(module: nn.Module, _: object) -> None:
            # Where something else stands in for the layer, its weights are not needed; see Anatomy.intercepted.
            if module.__dict__.get("forward") is own:
                self._ensure(layer, following)

        return layer.module.register_forward_pre_hook(before)

    def _holding(self, layer: StreamedLayer) -> _Slot | None:
        return next((slot for slot in self._slots if slot.layer is layer), None)

    def _asked(self, slot: _Slot) -> None:
        self._clock += 1
        slot.asked = self._clock

    def _begin(self, layer: StreamedLayer) -> _Slot:
        """Take the slot that was asked for longest ago, and begin to load a layer into it."""
        slot = min(self._slots, key=lambda slot: slot.asked)
        if slot.loading is not None:  # loaded ahead for nothing; the thread does one after the other
            slot.loading.cancel()
        self._detach(slot)
        slot.layer = layer
        slot.loading = self._thread.submit(self._load, layer, slot)
        self.traffic.loads += 1
        self.traffic.most_present = max(self.traffic.most_present, self.present())
        return slot

    def _finish(self, slot: _Slot) -> None:
        """Wait until a slot's layer is loaded, and put its weights in their places."""
        if slot.loading is not None:
            began = time.perf_counter()
            try:
                slot.loading.result()
            except BaseException:
                slot.layer = None  # so that another try reads again
                raise
            finally:
                slot.loading = None
                self.traffic.waited_seconds += time.perf_counter() - began
        if slot.attached or slot.layer is None:
            return
        slot.layer.come(slot.memory)
        slot.attached = True

    def _detach(self, slot: _Slot) -> None:
        if slot.attached and slot.layer is not None:
            slot.layer.leave()
            if self._cuda:
                slot.free = self._cuda.Event()
                slot.free.record(self._cuda.current_stream(self._device))
        slot.layer, slot.loading, slot.attached = None, None, False

    def _load(self, layer: StreamedLayer, slot: _Slot) -> None:
        """Read a layer's weights into a slot; runs in the thread."""
        began = time.perf_counter()
        views = layer.views(slot.memory if self._host is None else self._host)
        for sources in layer.sources:
            sources.fill({name: views[name] for name in sources.targets}, self._checkpoint, self._model)
        if self._host is not None:
            with self._cuda.stream(self._stream):
                if slot.free is not None:
                    self._stream.wait_event(slot.free)
                slot.memory[: layer.size_bytes].copy_(self._host[: layer.size_bytes], non_blocking=True)
            self._stream.synchronize()
        self.traffic.read_seconds += time.perf_counter() - began
