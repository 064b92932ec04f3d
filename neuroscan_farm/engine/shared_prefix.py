"""Batches whose prompts begin alike: the tokens that all samples share are kept, and run, once.

In a causal model, what stands before a token decides its residual: where prompts share their first tokens, these have
the same residual in every sample. A packed unit has one row for each token of the shared prefix, then each sample's
own rows, sample by sample.
"""

from __future__ import annotations

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

    def by_unit(self, stack: torch.Tensor) -> torch.Tensor:
        """View a stack of units as [copies, rows, width]."""
        return stack.reshape(-1, self.rows, stack.shape[-1])

    def by_token(self, table: torch.Tensor) -> torch.Tensor:
        """Repeat what is known of each position, [1 or samples, tokens, width], for each row: [rows, width]."""
        return self.pack(table.expand(self.samples, -1, -1)).reshape(self.rows, -1)

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


def find_layout(token_ids: torch.Tensor, *, by_position: bool = True) -> Layout:
    """Say how to lay out prompts [samples, tokens].

    Args:
        token_ids: prompts of equal length.
        by_position: whether the model's masks and rotary inputs are the same for every sample; else nothing is shared.
    """
    samples, tokens = token_ids.shape
    same = (token_ids == token_ids[:1]).all(dim=0).tolist()
    shared = min(same.index(False) if False in same else tokens, tokens - 1)
    worth = shared >= _FEWEST_TOKENS and (samples - 1) * shared > _LEAST_SAVING * samples * tokens
    return Layout(samples, tokens, shared if worth and by_position else 0)
