"""Attention to a cache in blocks: exactness, any cut into blocks, nothing else looked at, nothing else that matters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from megaphi.kernels import definitions
from megaphi.kernels.paged_attention import paged_attention
from tests.kernels.exactness import assert_error_at_most_twice, numbers

FORMATS = [torch.float32, torch.bfloat16]
SCALE = 0.37
RAGGED = [1, 2, 5, 16, 31, 127, 128, 129, 300]
SHAPES = {  # heads, groups, head size, positions of a block, lengths
    "phi4": (40, 10, 128, 16, [70, 3]),
    "three heads share a group": (9, 3, 64, 16, RAGGED),
    "seven heads, a size that is no vector": (7, 1, 37, 5, RAGGED),
    "every head its own group": (5, 5, 6, 1, RAGGED),
    "a long one": (2, 1, 8, 64, [4_096]),
    "none": (4, 2, 8, 16, []),
}


Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""(query, keys, values, tables, lengths) as `paged_attention` takes them."""


def attention(*inputs: Tensor) -> Tensor:
    return paged_attention(*inputs, scale=SCALE)  # pyright: ignore[reportCallIssue]


def make(
    heads: int, groups: int, size: int, positions: int, lengths: list[int], *, seed: int = 0, **options: Any
) -> Inputs:
    """Shuffled blocks; NaN in every position that no query sees and around the queries, -1 in every unused entry."""
    counts = [-(-length // positions) for length in lengths]
    blocks = torch.randperm(sum(counts) + 2, generator=torch.Generator().manual_seed(seed))[: sum(counts)]
    tables = torch.full((len(lengths), max(counts, default=1) + 1), -1, dtype=torch.int32)
    keys, values = (torch.full((len(blocks) + 2, positions, groups, size), torch.nan, **options) for _ in range(2))
    for t, (own, length) in enumerate(zip(blocks.split(counts), lengths, strict=True)):
        tables[t, : len(own)] = own
        place = torch.arange(length)
        rows = numbers(2, length, groups, size, seed=seed + t, **options)
        keys[own[place // positions], place % positions] = rows[0]
        values[own[place // positions], place % positions] = rows[1]
    packed = torch.full((len(lengths), heads + 2, size), torch.nan, **options)
    packed[:, 1:-1] = numbers(len(lengths), heads, size, seed=seed, spread=3.0, **options)
    tables, lengths_T = (x.to(keys.device) for x in (tables, torch.tensor(lengths, dtype=torch.int32)))
    return packed[:, 1:-1], keys, values, tables, lengths_T


def torch_attention(query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor) -> Tensor:
    """PyTorch's, one query at a time, on nothing but the positions that it sees."""
    rows = []
    for q, table, length in zip(query, tables.long(), lengths.tolist(), strict=True):
        blocks = table[: -(-length // keys.shape[1])]
        own_keys, own_values = (x[blocks].flatten(0, 1)[:length].transpose(0, 1) for x in (keys, values))
        rows.append(scaled_dot_product_attention(q[:, None], own_keys, own_values, scale=SCALE, enable_gqa=True)[:, 0])
    return torch.stack(rows) if rows else torch.empty_like(query)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_is_as_exact_as_pytorch(shape, dtype, device):
    assert_error_at_most_twice(
        attention,
        torch_attention,
        torch_attention,
        lambda seed: make(*SHAPES[shape], seed=seed, dtype=dtype, device=device),
        with_gradients=False,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_definition_is_pytorchs_attention_too(shape):
    inputs = make(*SHAPES[shape], dtype=torch.float64)
    torch.testing.assert_close(definitions.paged_attention(*inputs, scale=SCALE), torch_attention(*inputs))
    torch.testing.assert_close(attention(*inputs), torch_attention(*inputs))


def test_a_number_format_without_a_kernel_gets_the_definition():
    inputs = make(*SHAPES["phi4"], dtype=torch.float16)
    assert torch.equal(attention(*inputs), definitions.paged_attention(*inputs, scale=SCALE))


@given(
    heads=st.tuples(st.integers(1, 9), st.integers(1, 3)),
    size=st.integers(1, 40),
    positions=st.integers(1, 20),
    lengths=st.lists(st.integers(1, 300), max_size=4),
)
def test_any_cut_into_heads_and_blocks(heads, size, positions, lengths):
    sharing, groups = heads
    inputs = make(sharing * groups, groups, size, positions, lengths, dtype=torch.float32)
    torch.testing.assert_close(attention(*inputs), torch_attention(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_query_gets_the_same_bits_alone_in_any_order_and_with_any_threads(dtype, device):
    query, keys, values, tables, lengths = make(9, 3, 37, 16, RAGGED, dtype=dtype, device=device)
    together = attention(query, keys, values, tables, lengths)
    order = torch.randperm(len(RAGGED), generator=torch.Generator().manual_seed(5))
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(attention(query[order], keys, values, tables[order], lengths[order]), together[order])
        for t in range(len(RAGGED)):
            one = slice(t, t + 1)
            assert torch.equal(attention(query[one], keys, values, tables[one], lengths[one]), together[one])
    torch.set_num_threads(before)


def test_where_the_blocks_lie_and_their_size_change_no_bit(device):
    query, keys, values, tables, lengths = make(6, 2, 24, 4, [41, 130], dtype=torch.float32, device=device)
    expected = attention(query, keys, values, tables, lengths)
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(9)).to(device)
    moved = torch.where(tables >= 0, order.argsort().int()[tables.long()], -1).int()
    assert torch.equal(attention(query, keys[order], values[order], moved, lengths), expected)
    halves = torch.stack((tables * 2, tables * 2 + 1), dim=-1).flatten(1)
    keys, values = (cache.view(-1, 2, *cache.shape[2:]) for cache in (keys, values))
    assert torch.equal(attention(query, keys, values, halves, lengths), expected)


def test_queries_of_any_strides(device):
    query, *cache = make(6, 2, 24, 4, [41, 130], dtype=torch.float32, device=device)
    expected = attention(query.contiguous(), *cache)
    by_head = torch.empty(6, 2, 24, device=device).transpose(0, 1).copy_(query)
    by_element = torch.empty(24, 6, 2, device=device).permute(2, 1, 0).copy_(query)
    for other in (query, by_head, by_element):
        found = attention(other, *cache)
        assert found.is_contiguous()
        assert torch.equal(found, expected)
    one = query[:1].expand(2, -1, -1)
    assert torch.equal(attention(one, *cache), attention(one.contiguous(), *cache))


def test_a_nan_that_is_seen_is_not_hidden_and_stays_with_its_query(device):
    query, keys, values, tables, lengths = make(4, 2, 16, 4, [200, 200], dtype=torch.float32, device=device)
    for cache in (keys, values):
        kept = cache.clone()
        cache[tables[0, 35].item(), 3, 1, 5] = torch.nan
        found = attention(query, keys, values, tables, lengths)
        assert found[0, 2:].isnan().any(-1).all()
        assert found[0, :2].isfinite().all()
        assert found[1].isfinite().all()
        cache.copy_(kept)


def test_large_scores_do_not_overflow_and_one_position_is_its_value(device):
    query, keys, values, tables, lengths = make(4, 2, 16, 4, [300, 1], dtype=torch.float32, device=device)
    found = paged_attention(query, keys, values, tables, lengths, scale=1e4)
    assert found.isfinite().all()
    assert torch.equal(found[1], values[tables[1, 0].item(), 0].repeat_interleave(2, dim=0))


def test_the_largest_score_may_be_in_any_piece(device):
    for place in (0, 127, 128, 299):
        query, keys, values, tables, lengths = make(2, 1, 16, 4, [300], dtype=torch.float32, device=device)
        keys[tables[0, place // 4].item(), place % 4, 0] = query[0, 0] * 100
        found = attention(query, keys, values, tables, lengths)
        assert torch.equal(found[0, 0], values[tables[0, place // 4].item(), place % 4, 0])


def test_shapes_without_numbers():
    inputs = [x.to("meta") for x in make(9, 3, 64, 16, [3, 4], dtype=torch.bfloat16)]
    y = torch.ops.megaphi.paged_attention(*inputs, SCALE)
    assert y.is_meta
    assert (y.shape, y.dtype, y.is_contiguous()) == ((2, 9, 64), torch.bfloat16, True)


NAMES = ("query", "keys", "values", "tables", "lengths")
GOOD = dict(zip(NAMES, make(4, 2, 6, 8, [3, 9], dtype=torch.float32), strict=True))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"query": torch.ones(2, 24)}, r"query has shape \(2, 24\)"),
        ({"query": torch.ones(2, 5, 6)}, "query has 5 heads for 2 groups"),
        ({"query": torch.ones(2, 4, 7)}, r"keys has shape .* expected \[blocks, positions, groups, 7\]"),
        ({"query": torch.ones(2, 4, 6, dtype=torch.int32)}, r"query is torch\.int32"),
        ({"query": torch.ones(3, 4, 6)}, r"tables has shape \(2, 3\): expected \[3, "),
        ({"keys": GOOD["keys"].double()}, r"keys is torch\.float64 but query is torch\.float32"),
        ({"keys": GOOD["keys"][:, :0]}, r"keys has shape \(5, 0, 2, 6\)"),
        ({"keys": GOOD["keys"][..., :1].expand(-1, -1, -1, 6)}, "keys is not contiguous"),
        ({"values": GOOD["values"][:4]}, r"values has shape \(4, 8, 2, 6\): expected \(5, 8, 2, 6\), as keys"),
        ({"values": GOOD["values"].half()}, r"values is torch\.float16"),
        ({"tables": GOOD["tables"].long()}, r"tables is torch\.int64: expected int32"),
        ({"lengths": GOOD["lengths"].long()}, r"lengths is torch\.int64: expected int32"),
        ({"lengths": GOOD["lengths"][:1]}, r"lengths has shape \(1,\): expected \(2,\), one for every query"),
        ({"lengths": torch.tensor([3, 0]).int()}, r"lengths\[1\] = 0: not in \[1, 24\]"),
        ({"lengths": torch.tensor([25, 3]).int()}, r"lengths\[0\] = 25: not in \[1, 24\]"),
        ({"lengths": torch.tensor([3, 17]).int()}, r"tables\[1, 2\] = -1: not in \[0, 5\)"),
        ({"tables": torch.tensor([[0, 5, 5], [4, 5, 5]]).int()}, r"tables\[1, 1\] = 5: not in \[0, 5\)"),
    ],
)
def test_what_does_not_fit_is_named(changed, named, monkeypatch):
    with pytest.raises(ValueError, match=named):
        attention(*(GOOD | changed).values())
    monkeypatch.setattr("megaphi.kernels.paged_attention.is_compiled", lambda *_: False)
    with pytest.raises(ValueError, match=named):
        attention(*(GOOD | changed).values())
