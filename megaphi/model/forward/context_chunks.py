"""Rows that context ranks share: the places that a rank holds, and the keys of the others.

A row is cut into 2n chunks for n ranks, and rank r holds chunks r and 2n-1-r: under causal attention that is equal work
for all. Whatever is cut, tokens, labels, positions or rotary tables, is cut here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def chunks_of(rank: int, *, ranks: int) -> tuple[int, int]:
    """The two of 2 `ranks` chunks that a rank holds, in their order in the row."""
    return rank, 2 * ranks - 1 - rank


def places_of(rank: int, *, ranks: int, length: int) -> NDArray[np.int64]:
    """Places of a row of `length` tokens that a rank holds, ascending: token i of the rank is at place i of these."""
    if ranks == 1:
        return np.arange(length)
    chunks = np.arange(length).reshape(2 * ranks, -1)
    return chunks[list(chunks_of(rank, ranks=ranks))].reshape(-1)


def gather_rows(local: Tensor, group: Any) -> Tensor:
    """Whole rows, in order along dimension 0, from the parts that the ranks of `group` hold.

    The gradient of a part is the sum over all ranks that saw it.
    """
    gathered, ranks = _GatherRows.apply(local, group), group.size()
    chunks = gathered.view(ranks, 2, gathered.shape[0] // (2 * ranks), *gathered.shape[1:])
    first = [chunks[rank, 0] for rank in range(ranks)]
    second = [chunks[rank, 1] for rank in reversed(range(ranks))]
    return torch.cat(first + second)


class _GatherRows(torch.autograd.Function):
    """All-gather along dimension 0 over a group; the backward pass is the matching reduce-scatter."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, group: torch.distributed.ProcessGroup) -> Tensor:
        ctx.group = group
        gathered = local.new_empty((group.size() * local.shape[0], *local.shape[1:]))
        torch.distributed.all_gather_into_tensor(gathered, local.contiguous(), group=group)
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].contiguous()
        local = whole.new_empty((whole.shape[0] // ctx.group.size(), *whole.shape[1:]))
        torch.distributed.reduce_scatter_tensor(local, whole, group=ctx.group)
        return local, None


def sum_over_ranks(values: Tensor, group: Any) -> Tensor:
    """The sum over the ranks of `group`, on each of them; the gradient sums what each of them made of it."""
    return _Sum.apply(values, group)


class _Sum(torch.autograd.Function):
    """All-reduce forwards and backwards: every rank's loss depends on every rank's values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: torch.distributed.ProcessGroup) -> Tensor:
        ctx.group = group
        total = values.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=ctx.group)
        return total, None
