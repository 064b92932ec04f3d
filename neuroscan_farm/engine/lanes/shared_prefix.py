"""Batches whose prompts begin alike: the tokens that all samples share are kept, and run, once.

In a causal model, what stands before a token decides its residual: where prompts share their first tokens, these have
the same residual in every sample. A packed unit has one row for each token of the shared prefix, then each sample's
own rows, sample by sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_FEWEST_TOKENS = 8  # a shorter prefix is not worth its own attention
_LEAST_SAVING = 0.05  # of all tokens


@dataclass(frozen=True, slots=True)
class Layout:
    """How the tokens of a batch lie in a unit."""

    samples: int
    tokens: int  # of each sample
    prefix: int = 0  # tokens that are kept once; fewer than `tokens`

    @property
    def own(self) -> int:
        """Tokens that each sample has of its own."""
        return self.tokens - self.prefix

    @property
    def rows(self) -> int:
        """Rows of one unit."""
        return self.prefix + self.samples * self.own

    def pack(self, residual: torch.Tensor) -> torch.Tensor:
        """Make a unit of [samples, tokens, width]: itself without a prefix, else [1, rows, width]."""
        if not self.prefix:
            return residual
        own = residual[:, self.prefix :].reshape(1, -1, residual.shape[-1])
        return torch.cat([residual[:1, : self.prefix], own], dim=1)

    def ends(self, packed: torch.Tensor) -> torch.Tensor:
        """Take the last token's rows out of [copies, rows, width]: [copies, samples, width]."""
        own = packed[:, self.prefix :].reshape(len(packed), self.samples, self.own, -1)
        return own[:, :, -1]

    def heads_of_prefix(self, packed: torch.Tensor) -> torch.Tensor:
        """Give the prefix of [copies, rows, heads, width] as attention reads it: [copies, heads, prefix, width]."""
        return packed[:, : self.prefix].transpose(1, 2)

    def heads_of_own(self, packed: torch.Tensor) -> torch.Tensor:
        """Give the samples' own rows of [copies, rows, heads, width]: [copies * samples, heads, own, width]."""
        own = packed[:, self.prefix :].reshape(-1, self.own, *packed.shape[2:])
        return own.transpose(1, 2)

    def heads_of_all(self, packed: torch.Tensor) -> torch.Tensor:
        """Give every sample all of its rows of [copies, rows, heads, width]: [copies * samples, heads, tokens, width]."""
        if not self.prefix:
            return self.heads_of_own(packed)
        copies, _, heads, width = packed.shape
        shared = packed[:, None, : self.prefix].expand(-1, self.samples, -1, -1, -1)
        own = packed[:, self.prefix :].reshape(copies, self.samples, self.own, heads, width)
        return torch.cat([shared, own], dim=2).view(-1, self.tokens, heads, width).transpose(1, 2)

    def halves(self) -> tuple[Layout, Layout]:
        """Give the layouts of the first and of the second half of the samples; the prefix stays."""
        first = self.samples // 2
        return Layout(first, self.tokens, self.prefix), Layout(self.samples - first, self.tokens, self.prefix)

    def split(self, unit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Split a unit into the units of the two halves."""
        first = self.samples // 2
        if not self.prefix:
            return unit[:first], unit[first:]
        shared, own = unit[:, : self.prefix], unit[:, self.prefix :]
        middle = first * self.own
        return torch.cat([shared, own[:, :middle]], dim=1), torch.cat([shared, own[:, middle:]], dim=1)

    def join(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Join the units of the two halves, or their ends [samples, 1, width]."""
        if not self.prefix or first.shape[1] == 1:
            return torch.cat([first, second])
        return torch.cat([first, second[:, self.prefix :]], dim=1)


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How batches of different lengths lie in one unit: what all of them share first, then each one's own rows."""

    layouts: tuple[Layout, ...]  # of each batch, with the same prefix

    @property
    def prefix(self) -> int:
        """Tokens that are kept once for all samples."""
        return self.layouts[0].prefix

    @property
    def samples(self) -> int:
        """Samples of all batches."""
        return sum(layout.samples for layout in self.layouts)

    @property
    def rows(self) -> int:
        """Rows of one unit."""
        return self.prefix + sum(layout.samples * layout.own for layout in self.layouts)

    def pack(self, *residuals: torch.Tensor) -> torch.Tensor:
        """Make a unit of [samples, tokens, width] for each batch: itself where it stands alone, else [1, rows, width]."""
        if len(residuals) == 1:
            return self.layouts[0].pack(residuals[0])
        width = residuals[0].shape[-1]
        shared = residuals[0][:1, : self.prefix]
        own = [residual[:, self.prefix :].reshape(1, -1, width) for residual in residuals]
        return torch.cat([shared, *own], dim=1)

    def by_unit(self, stack: torch.Tensor) -> torch.Tensor:
        """View a stack of units as [copies, rows, width]."""
        return stack.reshape(-1, self.rows, stack.shape[-1])

    def parts(self, packed: torch.Tensor) -> list[torch.Tensor]:
        """Give each batch its rows of [copies, rows, ...], as its layout has them: [copies, prefix + own rows, ...]."""
        if len(self.layouts) == 1:
            return [packed]
        own = torch.split(packed[:, self.prefix :], [one.samples * one.own for one in self.layouts], dim=1)
        return (
            [torch.cat([packed[:, : self.prefix], rows], dim=1) for rows in own] if self.prefix else list(own)
        )

    def ends(self, packed: torch.Tensor) -> torch.Tensor:
        """Take the last token's rows out of [copies, rows, width]: [copies, samples, width]."""
        parts = zip(self.layouts, self.parts(packed), strict=True)
        ends = [layout.ends(part) for layout, part in parts]
        return ends[0] if len(ends) == 1 else torch.cat(ends, dim=1)

    def halves(self) -> tuple[Arrangement, Arrangement]:
        """Give the first and the second half of the batches, or of the only one's samples; the prefix stays."""
        if len(self.layouts) == 1:
            first, second = self.layouts[0].halves()
            return Arrangement((first,)), Arrangement((second,))
        middle = len(self.layouts) // 2
        return Arrangement(self.layouts[:middle]), Arrangement(self.layouts[middle:])

    def split(self, unit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Split a unit into the units of the two halves."""
        if len(self.layouts) == 1:
            return self.layouts[0].split(unit)
        first, second = self.halves()
        middle = first.rows
        later = unit[:, middle:]
        if self.prefix:
            later = torch.cat([unit[:, : self.prefix], later], dim=1)
        return first._alone(unit[:, :middle]), second._alone(later)

    def join(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Join the units of the two halves, or their ends [samples, 1, width]."""
        if len(self.layouts) == 1:
            return self.layouts[0].join(first, second)
        if all(
            part.shape[:2] == (half.samples, 1)
            for part, half in zip((first, second), self.halves(), strict=True)
        ):
            return torch.cat([first, second])
        width = first.shape[-1]
        second = second.reshape(1, -1, width)[:, self.prefix :]
        return torch.cat([first.reshape(1, -1, width), second], dim=1)

    def _alone(self, unit: torch.Tensor) -> torch.Tensor:
        """Give a unit the form that a single batch has."""
        layout = self.layouts[0]
        if len(self.layouts) > 1 or layout.prefix:
            return unit
        return unit.reshape(layout.samples, layout.tokens, -1)


def arrange(prompts: Sequence[torch.Tensor], *, by_position: bool = True) -> Arrangement:
    """Say how to lay out batches of prompts, each [samples, tokens].

    Args:
        prompts: batches of prompts of equal length.
        by_position: whether the model's masks and rotary inputs are the same for every sample; else nothing is shared.
    """
    shortest = min(token_ids.shape[1] for token_ids in prompts)
    begin = torch.cat([token_ids[:, :shortest] for token_ids in prompts])
    same = (begin == begin[:1]).all(dim=0).tolist()
    shared = min(same.index(False) if False in same else shortest, shortest - 1)
    saved = (len(begin) - 1) * shared
    worth = shared >= _FEWEST_TOKENS and saved > _LEAST_SAVING * sum(ids.numel() for ids in prompts)
    prefix = shared if worth and by_position else 0
    return Arrangement(tuple(Layout(len(ids), ids.shape[1], prefix) for ids in prompts))
