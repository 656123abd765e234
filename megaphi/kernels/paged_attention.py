"""Paged attention for decoding: one query per sequence against a key-value cache in blocks, which are not gathered.

    y[t, h] = sum over j < lengths[t] of softmax_j(scale q[t, h] . k[t, j, g]) v[t, j, g],   g = h // (H / G)

Every query has a table of the blocks that hold its positions, in any order and anywhere in the cache, so sequences of
any length share one cache and grow by one block at a time. There is no gradient. The compiled kernel gives a query the
same result, bit for bit, whatever else is in the call; the CUDA kernel takes heads of up to 512 elements.

Legend: T queries, H heads, K head size, N blocks, P positions of a block, G key-value groups, M blocks of a table.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megaphi.kernels import definitions
from megaphi.kernels.checks import check_float, check_like, check_shape
from megaphi.kernels.loading import assert_agree, define, is_compiled, numbers, self_test

define(
    "paged_attention(Tensor query, Tensor keys, Tensor values, Tensor tables, Tensor lengths, float scale) -> Tensor"
)
_operators = torch.ops.megaphi


def paged_attention(
    query_THK: Tensor,
    keys_NPGK: Tensor,
    values_NPGK: Tensor,
    tables_TM: Tensor,
    lengths_T: Tensor,
    *,
    scale: float,
) -> Tensor:
    """[T, H, K] of query's type: query t sees the first lengths[t] positions of the blocks tables[t] (both int32).

    Table entries beyond a query's length may be anything, and so may positions of the cache that no query sees. The
    query may be a view into the packed QKV product: only its last dimension has to be contiguous.

    Raises:
        ValueError: shapes, types or devices do not fit; on the CPU also a length that is not in [1, M P], or a block
            number in use that is not in [0, N).
    """
    _check_query_and_cache(query_THK, keys_NPGK, values_NPGK)
    _check_tables(tables_TM, lengths_T, query_THK)
    if not is_compiled("paged_attention", query_THK):
        _check_contents(tables_TM, lengths_T, keys_NPGK)
        return definitions.paged_attention(query_THK, keys_NPGK, values_NPGK, tables_TM, lengths_T, scale=scale)
    try:
        return _operators.paged_attention(query_THK, keys_NPGK, values_NPGK, tables_TM, lengths_T, scale)
    except RuntimeError:
        _check_contents(tables_TM, lengths_T, keys_NPGK)  # raises a clear error for what the operator refused
        raise


def _check_query_and_cache(query: Tensor, keys: Tensor, values: Tensor) -> None:
    check_float("query", query)
    if query.dim() != 3:
        raise ValueError(f"query has shape {tuple(query.shape)}: expected [queries, heads, head size]")
    if keys.dim() != 4 or keys.shape[3] != query.shape[2] or 0 in keys.shape[1:]:
        raise ValueError(
            f"keys has shape {tuple(keys.shape)}: expected [blocks, positions, groups, {query.shape[2]}], the last as "
            "in query"
        )
    if query.shape[1] % keys.shape[2]:
        raise ValueError(f"query has {query.shape[1]} heads for {keys.shape[2]} groups in keys: expected a multiple")
    check_shape("values", values, tuple(keys.shape), what="as keys")
    for name, cache in (("keys", keys), ("values", values)):
        check_like(name, cache, "query", query)
        if not cache.is_contiguous():
            raise ValueError(f"{name} is not contiguous, and copying the whole cache would cost more than attention")


def _check_tables(tables: Tensor, lengths: Tensor, query: Tensor) -> None:
    if tables.dim() != 2 or tables.shape[0] != query.shape[0]:
        raise ValueError(f"tables has shape {tuple(tables.shape)}: expected [{query.shape[0]}, blocks of a query]")
    check_shape("lengths", lengths, (query.shape[0],), what="one for every query")
    for name, tensor in (("tables", tables), ("lengths", lengths)):
        if tensor.dtype != torch.int32:
            raise ValueError(f"{name} is {tensor.dtype}: expected int32")
        if tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device} but query is on {query.device}: move one of them")


def _check_contents(tables: Tensor, lengths: Tensor, keys: Tensor) -> None:
    """Check that lengths fit their tables, and blocks the cache; not on a GPU, where it would synchronise the
    stream.
    """
    if tables.device.type != "cpu" or torch.compiler.is_compiling():
        return
    blocks, positions = keys.shape[:2]
    capacity = tables.shape[1] * positions
    wrong_T = (lengths < 1) | (lengths > capacity)
    if wrong_T.any():
        query = int(wrong_T.nonzero()[0])
        raise ValueError(
            f"lengths[{query}] = {lengths[query].item()}: not in [1, {capacity}], the capacity of its table"
        )
    is_used_TM = torch.arange(0, capacity, positions) < lengths[:, None]
    wrong_TM = ((tables < 0) | (tables >= blocks)) & is_used_TM
    if wrong_TM.any():
        query, column = wrong_TM.nonzero()[0].tolist()
        raise ValueError(f"tables[{query}, {column}] = {tables[query, column].item()}: not in [0, {blocks})")


@torch.library.register_fake("megaphi::paged_attention")
def _shapes(query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor, scale: float) -> Tensor:
    return query.new_empty(query.shape)


@self_test("paged_attention")
def _try(device: torch.device, dtype: torch.dtype) -> None:
    """Test two queries that are views into a packed product, one with a single position and one with more than a
    chunk.
    """
    query = numbers(2, 8, 20, device=device, dtype=dtype)[:, 1:7]
    keys, values = (numbers(40, 4, 2, 20, device=device, dtype=dtype, seed=seed) for seed in (1, 2))
    tables = torch.arange(80, dtype=torch.int32, device=device).view(2, 40) * 7 % 40
    lengths = torch.tensor([1, 150], dtype=torch.int32, device=device)
    arguments = (query, keys, values, tables, lengths)
    assert_agree(_operators.paged_attention(*arguments, 0.3), definitions.paged_attention(*arguments, scale=0.3))
