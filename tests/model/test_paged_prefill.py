"""Prefill over the paged cache: each chunk against the mask written out, by products on a CPU and in one launch.

The cache is filled through `PagedPass` itself, some chunks in several passes, with blocks in any order. The launch is
flash attention's, which is not here: `tests/model/test_segments.py` has what stands in for it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megaphi.model.forward import flash_launch, paged_cache
from megaphi.model.forward.head_groups import HeadGroups
from megaphi.model.forward.paged_cache import PagedCache, PagedPass, Prefill
from tests.model.test_segments import by_definition, flash_attention

HEADS, GROUPS, SIZE, BLOCK = 4, 2, 8, 4


@st.composite
def texts(draw: st.DrawFn) -> list[list[int]]:
    """For each sequence the lengths of its chunks, one to a pass; the last one has at least two tokens."""
    return draw(st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=3), min_size=1, max_size=4))


@pytest.mark.parametrize("launched", [False, True])
@settings(deadline=None, max_examples=25)
@given(texts(), st.integers(0, 2**16))
def test_chunks_see_their_own_sequence_up_to_themselves(launched: bool, chunks: list[list[int]], seed: int) -> None:
    generator = np.random.default_rng(seed)
    totals = [sum(lengths) for lengths in chunks]
    needed = [-(-total // BLOCK) for total in totals]
    order = generator.permutation(sum(needed))
    blocks = np.split(order, np.cumsum(needed)[:-1])
    draw = torch.Generator().manual_seed(seed)
    wholes = [
        [torch.randn(total, heads, SIZE, generator=draw, dtype=torch.float64) for heads in (HEADS, GROUPS, GROUPS)]
        for total in totals
    ]
    cache = PagedCache({1: tuple(torch.full((len(order), BLOCK, GROUPS, SIZE), torch.nan).double() for _ in range(2))})  # pyright: ignore[reportArgumentType]
    done = [0] * len(chunks)
    with pytest.MonkeyPatch.context() as patch:
        if launched:
            patch.setattr(paged_cache, "is_launched", lambda _: True)
            patch.setattr(flash_launch.varlen, "varlen_attn", flash_attention)
        for turn in range(3):
            present = [number for number, lengths in enumerate(chunks) if turn < len(lengths)]
            if not present:
                break
            spans = [(number, done[number], done[number] + chunks[number][turn]) for number in present]
            found = attended(cache, spans, wholes, blocks)
            expected = [
                by_definition(query[:end], key[:end], value[:end], torch.ones(end, end).tril().bool())[start:]
                for (number, start, end), (query, key, value) in ((span, wholes[span[0]]) for span in spans)
            ]
            torch.testing.assert_close(found, torch.cat(expected))
            for number, _, end in spans:
                done[number] = end


def attended(
    cache: PagedCache, spans: list[tuple[int, int, int]], wholes: list[list[Tensor]], blocks: list[Any]
) -> Tensor:
    """[tokens, H K] of one pass over tokens [start, end) of some sequences."""
    rows = [(blocks[number][:, None] * BLOCK + np.arange(BLOCK)).reshape(-1) for number, _, _ in spans]
    seen = [own[:end] for own, (_, _, end) in zip(rows, spans, strict=True)]
    lengths = [end - start for _, start, end in spans]
    stored = np.concatenate([own[start:end] for own, (_, start, end) in zip(rows, spans, strict=True)])
    device = torch.device("cpu")
    attention = PagedPass(
        cache=cache,
        cache_rows_T=torch.from_numpy(stored),
        decodes=0,
        tables=torch.empty(0, 0, dtype=torch.int32),
        lengths=torch.empty(0, dtype=torch.int32),
        prefill=Prefill.of(lengths, seen, start=0, device=device),
    )
    query, key, value = (
        torch.cat([wholes[number][part][start:end] for number, start, end in spans])[:, None] for part in range(3)
    )
    return attention.attend(query, key, value, core_of(query, key)).squeeze(1)


def core_of(query: Tensor, key: Tensor) -> Any:
    """A layer's core attention whose groups have equally many queries."""
    groups = HeadGroups((query.shape[-2] // key.shape[-2],) * key.shape[-2])
    return SimpleNamespace(layer_number=1, is_flash=True, scale=SIZE**-0.5, product=product, head_groups=groups)


def product(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
    """The core product by its definition; without a mask it is causal, with as many keys as queries."""
    if visible is None:
        assert len(query) == len(key)
        visible = torch.ones(len(query), len(key)).tril().bool()
    return by_definition(query[:, 0], key[:, 0], value[:, 0], visible)[:, None]


def test_decodes_before_the_chunks_change_nothing() -> None:
    """Tokens that attend by themselves come first in the row; the launch begins after them."""
    draw = torch.Generator().manual_seed(0)
    tokens, blocks, device = 9, 6, torch.device("cpu")
    query, key, value = (torch.randn(tokens, 1, heads, SIZE, generator=draw) for heads in (HEADS, GROUPS, GROUPS))
    stored = tuple(torch.randn(blocks, BLOCK, GROUPS, SIZE, generator=draw) for _ in range(2))
    rows = [np.array([0, 1, 2, 3, 8, 9, 10]), np.array([16, 17, 18, 19, 20])]  # 3 of 7 and 4 of 5 are new
    new = torch.from_numpy(np.concatenate(([12, 7], rows[0][-3:], rows[1][-4:])))
    core = core_of(query, key)
    found = []
    for launched in (False, True):
        attention = PagedPass(
            cache=PagedCache({1: (stored[0].clone(), stored[1].clone())}),
            cache_rows_T=new,
            decodes=2,
            tables=torch.tensor([[2, 3], [1, 0]], dtype=torch.int32),
            lengths=torch.tensor([5, 4], dtype=torch.int32),
            prefill=Prefill.of([3, 4], rows, start=2, device=device),
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(paged_cache, "is_launched", lambda _, launched=launched: launched)
            patch.setattr(flash_launch.varlen, "varlen_attn", flash_attention)
            found.append(attention.attend(query, key, value, core))
    assert found[0].shape == (tokens, 1, HEADS * SIZE)
    torch.testing.assert_close(found[1], found[0])
