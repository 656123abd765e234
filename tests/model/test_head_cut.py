"""Heads, keys and values that a tensor rank holds and owns, against lists that are made head by head."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megaphi.model.forward.head_groups import HeadGroups, split_groups
from megaphi.model.rows.head_cut import HeadCut

PackedHead = tuple[int, str, int]
"""(group, "q" or "kv", number)"""


@st.composite
def cuts(draw: st.DrawFn) -> HeadCut:
    groups, per_group = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    heads = groups * per_group
    return HeadCut(heads, groups, draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0])))


def packed(cut: HeadCut, heads: range) -> list[PackedHead]:
    """The groups of some query heads: their queries among these heads, then the key and the value."""
    per_group = cut.heads // cut.groups
    found: list[PackedHead] = []
    for group in sorted({head // per_group for head in heads}):
        found += [(group, "q", head) for head in heads if head // per_group == group]
        found += [(group, "kv", 0), (group, "kv", 1)]
    return found


@given(cut=cuts())
def test_every_rank_holds_what_its_heads_need_and_owns_the_beginning(cut: HeadCut) -> None:
    whole, per_rank, per_group = packed(cut, range(cut.heads)), cut.heads // cut.tensor, cut.heads // cut.groups
    owned: list[PackedHead] = []
    for rank in range(cut.tensor):
        held = packed(cut, range(rank * per_rank, (rank + 1) * per_rank))
        queries = [
            sum(kind == "q" and of == group for of, kind, _ in held) for group in dict.fromkeys(h[0] for h in held)
        ]
        assert cut.queries(rank) == tuple(queries)
        assert len(held) <= cut.packed_heads_held
        own = held[: cut.owned(rank)]
        assert whole[cut.start(rank) : cut.start(rank + 1)] == own
        owned += own
        copied = {group for group, _, _ in held[len(own) :]}
        assert copied == {g for g, kind, _ in held if kind == "kv" and ((g + 1) * per_group - 1) // per_rank != rank}
        assert [cut.owner_of_copy(rank)] == ([((g + 1) * per_group - 1) // per_rank for g in copied] or [None])
        assert all(cut.owner_of_copy(other) == rank for other in cut.holders_of_copies(rank))
        if cut.holders_of_copies(rank):  # they hold the rank's first group
            first = next(group for group, _, _ in own)
            for other in cut.holders_of_copies(rank):
                assert packed(cut, range(other * per_rank, (other + 1) * per_rank))[-1][0] == first
    assert owned == whole
    assert any(cut.owner_of_copy(rank) is not None for rank in range(cut.tensor)) == cut.copies_groups


@pytest.mark.parametrize(
    ("tensor", "queries"),
    [
        (4, [(4, 4, 2), (2, 4, 4)] * 2),
        (5, [(4, 4)] * 5),
        (8, [(4, 1), (3, 2), (2, 3), (1, 4)] * 2),
        (20, [(2,)] * 20),
    ],
)
def test_phi4(tensor: int, queries: list[tuple[int, ...]]) -> None:
    cut = HeadCut(40, 10, tensor)
    assert [cut.queries(rank) for rank in range(tensor)] == queries
    assert cut.groups_held == len(queries[0])
    keys = {len(HeadGroups(of_rank).key_of_each) for of_rank in queries}
    assert keys == {cut.keys_of_kernel(rank) for rank in range(tensor)}


@pytest.mark.parametrize("queries", [(4, 4, 2), (3, 2), (1,), (2, 2), (6, 3)])
def test_each_query_meets_its_groups_key(queries: tuple[int, ...]) -> None:
    groups, heads = HeadGroups(queries), sum(queries)
    group_of = torch.tensor([group for group, number in enumerate(queries) for _ in range(number)])
    key_GK = torch.randn(5, len(queries), 3)
    repeated = groups.repeated(key_GK)
    assert torch.equal(repeated.repeat_interleave(heads // repeated.shape[1], 1), key_GK[:, group_of])
    assert heads // repeated.shape[1] == (queries[0] if groups.is_even else math.gcd(*queries))
    query_HK = torch.randn(5, heads, 3)
    padded = groups.padded(query_HK)
    assert padded.shape[1] == len(queries) * max(queries)
    of_padded = torch.arange(padded.shape[1]) // max(queries)
    assert torch.equal(padded[:, padded.any(-1).any(0)], query_HK)
    assert torch.equal(of_padded[padded.any(-1).any(0)], group_of)
    assert torch.equal(groups.without_padding(padded), query_HK)


def test_packed_heads_are_split() -> None:
    packed_NK = torch.arange(9.0)[:, None]  # q q k v, q k v, and room for a group too many
    query, key, value = split_groups(packed_NK, HeadGroups((2, 1)))
    assert [part.flatten().tolist() for part in (query, key, value)] == [[0, 1, 4], [2, 5], [3, 6]]
