"""Which tensors of the checkpoint become which weights of a layer, by transformers' own rules for this model.

Names in a checkpoint and in the model differ: prefixes come and go, names changed between versions, and experts that
are stored one by one are held in one tensor. transformers applies such rules while it loads; here the same rules say
beforehand what a layer is made of, so that it can be loaded when it is needed. What they do not say for certain is
refused by name.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from neuroscan_farm.engine.weights.checkpoint import Checkpoint
from neuroscan_farm.errors import ModelError


@dataclass(slots=True)
class Sources:
    """The tensors of the checkpoint that are loaded together, and the conversion that makes weights of them."""

    first_target: str  # the weight by which transformers knows the conversion
    converter: Any  # a WeightConverter; None where the tensor only has another name
    pieces: list[tuple[str, str]] = field(
        default_factory=list
    )  # name in the checkpoint, pattern that it matched
    targets: tuple[str, ...] = ()

    def fill(self, weights: Mapping[str, torch.Tensor], checkpoint: Checkpoint, model: nn.Module) -> None:
        """Load the weights called `targets` into these CPU tensors."""
        if self.converter is None:
            checkpoint.read_into(self.pieces[0][0], weights[self.first_target])
            return
        placed = self._placed(weights, checkpoint)
        if placed is not None:
            for name, part in placed:
                checkpoint.read_into(name, part)
            return
        dtype = weights[self.first_target].dtype
        made = self._convert(lambda name: checkpoint.read(name, dtype), model)
        for target in self.targets:
            weights[target].copy_(made[target])

    def needs_room(self, weights: Mapping[str, torch.Tensor], checkpoint: Checkpoint) -> int:
        """Return the bytes that loading needs besides the weights themselves."""
        if self.converter is None or self._placed(weights, checkpoint) is not None:
            return 0
        # The tensors as they are in the checkpoint, and what each step of the conversion makes of them.
        return 2 * sum(weights[target].numel() * weights[target].element_size() for target in self.targets)

    def resolve(self, weights: Mapping[str, torch.Tensor], checkpoint: Checkpoint, model: nn.Module) -> None:
        """Set `targets`, and check by a conversion without data that it makes weights of the model's shapes.

        Raises:
            ModelError: it does not.
        """
        stored = checkpoint.tensors
        if self.converter is None:
            made = {self.first_target: torch.empty(stored[self.pieces[0][0]].shape, device="meta")}
        else:
            try:
                made = self._convert(lambda name: torch.empty(stored[name].shape, device="meta"), model)
            except Exception as error:  # the conversions are transformers' own, and may do anything
                raise ModelError(
                    f"{type(model).__name__}: {self.first_target} is made by a conversion ({self._operations()}) that "
                    f"cannot be done layer by layer ({type(error).__name__}: {error}); run without --stream on a machine "
                    "with more memory, or save the model with save_pretrained in its converted form"
                ) from error
        for name, tensor in made.items():
            if name not in weights or weights[name].shape != tensor.shape:
                needed = f"{list(weights[name].shape)}" if name in weights else "no such weight"
                raise ModelError(
                    f"{checkpoint.folder}: {', '.join(piece for piece, _ in self.pieces[:3])} would make {name} of shape "
                    f"{list(tensor.shape)}, the model has {needed}; fetch the model again"
                )
        self.targets = tuple(made)

    def _convert(self, read: Any, model: nn.Module) -> dict[str, torch.Tensor]:
        converter = copy.deepcopy(self.converter)
        for name, pattern in self.pieces:
            converter.add_tensor(self.first_target, name, pattern, functools.partial(read, name))
        made = converter.convert(self.first_target, model=model, config=model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    def _placed(
        self, weights: Mapping[str, torch.Tensor], checkpoint: Checkpoint
    ) -> list[tuple[str, torch.Tensor]] | None:
        """Return where in the weight each tensor goes, if the conversion does no more than put them side by side."""
        from transformers.core_model_loading import Concatenate, MergeModulelist

        operations = self.converter.operations
        kinds = [type(operation) for operation in operations]
        if kinds not in ([MergeModulelist], [Concatenate], [MergeModulelist, Concatenate]):
            return None
        groups = [
            [name for name, pattern in self.pieces if pattern == wanted]
            for wanted in self.converter.source_patterns
        ]
        groups = [group for group in groups if group]
        views = [weights[self.first_target]]
        stacked = kinds[0] is MergeModulelist
        if kinds[-1] is Concatenate:
            if not stacked:
                groups = [[name] for group in groups for name in group]
            joined: int = operations[-1].dim
            widths = []
            for group in groups:
                shape = list(checkpoint.tensors[group[0]].shape)
                if stacked:
                    shape.insert(operations[0].dim, len(group))
                widths.append(shape[joined])
            if sum(widths) != views[0].shape[joined]:
                return None
            views = list(torch.split(views[0], widths, dim=joined))
        if len(groups) != len(views):
            return None
        if not stacked:
            return [(group[0], view) for group, view in zip(groups, views, strict=True)]
        return [
            (name, view.select(operations[0].dim, place))
            for group, view in zip(groups, views, strict=True)
            for place, name in enumerate(group)
        ]

    def _operations(self) -> str:
        return ", ".join(type(operation).__name__ for operation in self.converter.operations)


def sources_of(skeleton: nn.Module, checkpoint: Checkpoint) -> list[Sources]:
    """Say of every weight of `skeleton` which tensors of the checkpoint it is made of.

    Follows `convert_and_load_state_dict_in_model` of transformers' core_model_loading, less the loading.

    Raises:
        ModelError: the version of transformers has other rules, or two tensors claim one weight.
    """
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, dot_natural_key, rename_source_key
    except ImportError as error:
        raise ModelError(
            f"this version of transformers keeps its loading rules elsewhere ({error}), so layers cannot be streamed; "
            "use transformers 5.23, or a machine with more memory"
        ) from error
    rules = get_model_conversion_mapping(skeleton)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    known = skeleton.state_dict()
    prefix = skeleton.base_model_prefix
    found: dict[str, Sources] = {}
    for name in sorted(checkpoint.tensors, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if target not in known and name in known:
            target, pattern = rename_source_key(name, [], [], base_model_prefix=prefix, meta_state_dict=known)
        if target not in known:
            continue  # transformers ignores it too, and its report names it
        converter = by_pattern[pattern] if pattern is not None else None
        sources = found.setdefault(target, Sources(target, converter))
        if sources.pieces and (converter is None or sources.converter is None):
            raise ModelError(
                f"{checkpoint.folder}: {sources.pieces[0][0]} and {name} both claim {target}; fetch the model again"
            )
        sources.pieces.append((name, pattern or name))
    return list(found.values())
