"""What prompts share is found where it is worth finding, packed once and never lost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.engine.lanes.fused_layer import rotary_of
from neuroscan_farm.engine.lanes.shared_prefix import Arrangement, Layout, arrange

LAYOUTS = st.integers(2, 12).flatmap(
    lambda tokens: st.builds(Layout, st.integers(1, 5), st.just(tokens), st.integers(0, tokens - 1))
)


@pytest.mark.parametrize(
    ("samples", "tokens", "shared", "prefix"),
    [
        (4, 20, 12, 12),
        (4, 20, 7, 0),  # too short
        (1, 20, 20, 0),  # nobody to share with
        (4, 20, 20, 19),  # the last token is each sample's own
        (2, 400, 10, 0),  # saves too little
        (3, 1, 1, 0),
    ],
)
def test_a_prefix_is_shared_where_it_saves_something(
    samples: int, tokens: int, shared: int, prefix: int
) -> None:
    token_ids = torch.arange(samples * tokens).view(samples, tokens)
    token_ids[:, :shared] = token_ids[:1, :shared]
    assert arrange([token_ids]) == Arrangement((Layout(samples, tokens, prefix),))
    assert arrange([token_ids], by_position=False).prefix == 0


def sharing(layout: Layout, width: int = 3) -> torch.Tensor:
    residual = torch.randn(layout.samples, layout.tokens, width)
    residual[:, : layout.prefix] = residual[:1, : layout.prefix]
    return residual


@given(LAYOUTS, st.integers(1, 3))
def test_every_sample_finds_all_of_its_rows_in_a_packed_stack(layout: Layout, copies: int) -> None:
    residuals = [sharing(layout) for _ in range(copies)]
    stack = Arrangement((layout,)).by_unit(torch.cat([layout.pack(residual) for residual in residuals]))
    assert stack.shape == (copies, layout.rows, 3)
    whole = torch.cat(residuals)
    assert torch.equal(layout.ends(stack).reshape(-1, 3), whole[:, -1])
    by_head = stack[:, :, None]  # of one head
    assert torch.equal(layout.heads_of_all(by_head)[:, 0], whole)
    assert torch.equal(layout.heads_of_own(by_head)[:, 0], whole[:, layout.prefix :])
    prefixes = torch.stack([residual[0, : layout.prefix] for residual in residuals])
    assert torch.equal(layout.heads_of_prefix(by_head)[:, 0], prefixes)


@given(LAYOUTS)
def test_halves_are_units_of_their_own_and_join_again(layout: Layout) -> None:
    if layout.samples == 1:
        return
    residual = sharing(layout)
    unit, middle = layout.pack(residual), layout.samples // 2
    first, second = layout.split(unit)
    layouts = layout.halves()
    assert torch.equal(first, layouts[0].pack(residual[:middle]))
    assert torch.equal(second, layouts[1].pack(residual[middle:]))
    assert torch.equal(layout.join(first, second), unit)
    assert torch.equal(layout.join(residual[:middle, -1:], residual[middle:, -1:]), residual[:, -1:])


@given(LAYOUTS)
def test_what_is_known_of_positions_is_spread_over_rows(layout: Layout) -> None:
    table = torch.randn(1, layout.tokens, 2)
    spread = rotary_of([table], [table], Arrangement((layout,)), interleaved=False).cos[:, 0]
    assert torch.equal(spread, layout.pack(table.repeat(layout.samples, 1, 1)).reshape(-1, 2))


ARRANGEMENTS = st.integers(0, 6).flatmap(
    lambda prefix: st.lists(
        st.builds(Layout, st.integers(1, 3), st.integers(prefix + 1, prefix + 6), st.just(prefix)),
        min_size=1,
        max_size=4,
    ).map(lambda layouts: Arrangement(tuple(layouts)))
)


def sharing_all(arrangement: Arrangement) -> list[torch.Tensor]:
    residuals = [torch.randn(layout.samples, layout.tokens, 3) for layout in arrangement.layouts]
    for residual in residuals:
        residual[:, : arrangement.prefix] = residuals[0][:1, : arrangement.prefix]
    return residuals


@given(ARRANGEMENTS, st.integers(1, 3))
def test_every_batch_finds_its_rows_in_a_unit_of_several_lengths(
    arrangement: Arrangement, copies: int
) -> None:
    each = [sharing_all(arrangement) for _ in range(copies)]
    stack = arrangement.by_unit(torch.cat([arrangement.pack(*residuals) for residuals in each]))
    assert stack.shape == (copies, arrangement.rows, 3)
    for number, (layout, part) in enumerate(zip(arrangement.layouts, arrangement.parts(stack), strict=True)):
        whole = torch.cat([residuals[number] for residuals in each])
        assert torch.equal(layout.heads_of_all(part[:, :, None])[:, 0], whole)
    ends = torch.stack([torch.cat([residual[:, -1] for residual in residuals]) for residuals in each])
    assert torch.equal(arrangement.ends(stack), ends)


@given(ARRANGEMENTS)
def test_halves_of_several_lengths_join_again(arrangement: Arrangement) -> None:
    if arrangement.samples == 1:
        return
    residuals = sharing_all(arrangement)
    unit = arrangement.pack(*residuals)
    first, second = arrangement.split(unit)
    for half, part in zip(arrangement.halves(), (first, second), strict=True):
        assert half.by_unit(part).shape == (1, half.rows, 3)
    assert torch.equal(arrangement.join(first, second).reshape(unit.shape), unit)
    ends = arrangement.ends(arrangement.by_unit(unit)).reshape(-1, 1, 3)
    parts = [
        half.ends(half.by_unit(part)).reshape(-1, 1, 3)
        for half, part in zip(arrangement.halves(), (first, second), strict=True)
    ]
    assert torch.equal(arrangement.join(*parts), ends)
