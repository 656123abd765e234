"""Attention of each context rank against the mask written out: by parts on a CPU, and in one launch on a GPU.

The launch is flash attention's, which is not here: its place takes the definition of what it computes, sequence by
sequence, with the last query seeing the last key.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from megaphi.model.forward import flash_launch as module
from megaphi.model.forward.context_chunks import places_of
from megaphi.model.forward.flash_launch import FlashLaunch
from megaphi.model.forward.head_groups import HeadGroups
from megaphi.model.forward.segments import document_segments, parts_of, row_segments

ROWS, LENGTH = 2, 24


@st.composite
def tables(draw: st.DrawFn) -> NDArray[np.int32]:
    """Segments of two rows; one after the first of its row may have any stretch before it in the row as its prefix."""
    found = []
    for row in range(ROWS):
        cuts = draw(st.sets(st.integers(1, LENGTH - 1), max_size=6))
        for start, end in pairwise([0, *sorted(cuts), LENGTH]):
            prefix = sorted(draw(st.tuples(st.integers(0, start), st.integers(0, start))))
            found.append(np.array([start, end, *prefix]) + row * LENGTH)
    return np.array(found, dtype=np.int32)


def mask_of(table_N4: NDArray[np.integer]) -> NDArray[np.bool_]:
    """[T, T], place by place."""
    visible = np.zeros((ROWS * LENGTH, ROWS * LENGTH), dtype=bool)
    for start, end, prefix_start, prefix_end in table_N4.tolist():
        for query in range(start, end):
            visible[query, start : query + 1] = True
            visible[query, prefix_start:prefix_end] = True
    return visible


def places_in_rows(rank: int, ranks: int) -> NDArray[np.int64]:
    own = places_of(rank, ranks=ranks, length=LENGTH)
    return np.concatenate([own + row * LENGTH for row in range(ROWS)])


@settings(deadline=None)
@given(tables(), st.sampled_from([1, 2, 3, 4, 6]))
def test_parts_of_all_ranks_are_the_mask(table_N4: NDArray[np.int32], ranks: int) -> None:
    expected = mask_of(table_N4)
    seen_by = np.zeros(ROWS * LENGTH, dtype=int)
    for rank in range(ranks):
        places = places_in_rows(rank, ranks)
        parts_N6 = parts_of(table_N4, length=LENGTH, rank=rank, ranks=ranks)
        assert parts_N6[0, 0] == 0
        assert parts_N6[-1, 1] == len(places)
        np.testing.assert_array_equal(parts_N6[1:, 0], parts_N6[:-1, 1])
        visible = np.zeros((len(places), ROWS * LENGTH), dtype=bool)
        for start, end, prefix_start, prefix_end, key_start, key_end in parts_N6.tolist():
            visible[start:end, prefix_start:prefix_end] = True
            for query in range(start, end):
                visible[query, key_start : key_end - (end - 1 - query)] = True
        np.testing.assert_array_equal(visible, expected[places])
        seen_by[places] += 1
    assert (seen_by == 1).all()


@settings(deadline=None, max_examples=25)
@given(tables(), st.sampled_from([1, 2, 4]), st.sampled_from([(2, 2), (3, 1)]))
def test_one_launch_attends_as_the_parts_do(table_N4: NDArray[np.int32], ranks: int, queries: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (
        torch.randn(ROWS * LENGTH, heads, 8, generator=generator, dtype=torch.float64) for heads in (4, 2, 2)
    )
    visible = torch.from_numpy(mask_of(table_N4))
    of_each = [0] * queries[0] + [1] * queries[1]
    expected = by_definition(query, key[:, of_each], value[:, of_each], visible)
    for rank in range(ranks):
        places = places_in_rows(rank, ranks)
        parts_N6 = parts_of(table_N4, length=LENGTH, rank=rank, ranks=ranks)
        launch = FlashLaunch.of(parts_N6, device=torch.device("cpu"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.varlen, "varlen_attn", flash_attention)
            found = launch(query[places], key, value, scale=8**-0.5, groups=HeadGroups(queries))
        torch.testing.assert_close(found, expected[places])


def test_what_needs_no_other_keys_is_launched_on_those_there_are() -> None:
    table_N4 = document_segments(np.repeat([[0, 1, 2]], 8, axis=1))
    assert FlashLaunch.of(parts_of(table_N4, length=LENGTH), device=torch.device("cpu")).seen_L is None


def test_a_torch_that_need_not_be_told_of_shared_keys_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11 has windows, and no `enable_gqa`."""

    def launched(query: Tensor, *_: object, scale: float, window_size: tuple[int, int]) -> Tensor:
        assert (scale, window_size) == (0.5, (-1, 0))
        return query

    monkeypatch.setattr(module.varlen, "varlen_attn", launched)
    monkeypatch.setattr(module, "_NAMES_GROUPS", False)
    query, key = torch.randn(3, 4, 8), torch.randn(3, 2, 8)
    launch = FlashLaunch.of_lengths([3], [3], None, device=torch.device("cpu"))
    assert launch(query, key, key, scale=0.5, groups=HeadGroups((2, 2))).shape == (3, 32)


def test_ranks_have_equal_work() -> None:
    """Scores that causal attention computes in whole rows."""
    visible = mask_of(row_segments(ROWS, length=LENGTH))
    assert len({int(visible[places_in_rows(rank, 4)].sum()) for rank in range(4)}) == 1


def by_definition(query_THK: Tensor, key_LGK: Tensor, value_LGK: Tensor, visible_TL: Tensor) -> Tensor:
    shared = query_THK.shape[1] // key_LGK.shape[1]
    key_LHK, value_LHK = (part.repeat_interleave(shared, dim=1) for part in (key_LGK, value_LGK))
    scores_HTL = torch.einsum("thk,lhk->htl", query_THK, key_LHK) * query_THK.shape[-1] ** -0.5
    weights_HTL = scores_HTL.masked_fill(~visible_TL, -torch.inf).softmax(-1)
    return torch.einsum("htl,lhk->thk", weights_HTL, value_LHK).flatten(1)


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    longest_query: int,
    longest_key: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """Stands in for torch's `varlen_attn`, as it is documented."""
    assert (query_ends.dtype, key_ends.dtype, window_size) == (torch.int32, torch.int32, (-1, 0))
    assert enable_gqa is (query.shape[1] != key.shape[1])
    assert (len(query), len(key)) == (int(query_ends[-1]), int(key_ends[-1]))
    found = []
    for (start, end), (key_start, key_end) in zip(
        pairwise(query_ends.tolist()), pairwise(key_ends.tolist()), strict=True
    ):
        queries, keys = end - start, key_end - key_start
        assert 0 < queries <= longest_query
        assert queries <= keys <= longest_key
        visible = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        own = slice(key_start, key_end)
        attended = by_definition(query[start:end], key[own], value[own], visible)
        found.append(attended.unflatten(1, query.shape[1:]))
    return torch.cat(found)
