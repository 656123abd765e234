"""Variants of attention, each a small class that owns its `attend`.

Here are the two of plain causal attention: in one rank, and with the sequence spread over the ranks of a context
parallel group. `segments.py` has isolated documents and shared prefixes, `paged_cache.py` the passes of generation. A
variant is given the core product, softmax(q k^T / sqrt(K) + mask) v by `scaled_dot_product_attention` or by its
definition (`model.attention`), and decides which keys a query may see. It makes no [S, S] mask unless it must.

A variant of your own (a sliding window, a prefix LM) is one class like these, made by your objective; nothing else has
to know it (tests/model/own_variants.py).

Legend: S queries, L keys, B batch, H query heads, G key-value groups, K head size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class CoreProduct(Protocol):
    """A layer's implementation of the attention product."""

    layer_number: int
    """Megatron's, from 1 through all pipeline stages."""
    scale: float
    """Factor of q k^T."""

    def product(self, query_SBHK: Tensor, key_LBGK: Tensor, value_LBGK: Tensor, visible_SL: Tensor | None) -> Tensor:
        """Attended values `[S, B, H K]`.

        `visible_SL` is True where a query may see a key; None: causal, with as many keys as queries.
        """
        ...


class Attention(ABC):
    """One variant of attention for one forward pass; the same object serves every layer."""

    @property
    def context_ranks(self) -> int:
        """Number of ranks that share a sequence; the model refuses a pass with another number than its own."""
        return 1

    @abstractmethod
    def attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, core: CoreProduct) -> Tensor:
        """Attended values `[S, B, H K]` of the tokens of this context rank; rotary positions are already applied."""


class Causal(Attention):
    """Every token sees the row up to itself."""

    def attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, core: CoreProduct) -> Tensor:
        return core.product(query_SBHK, key_SBGK, value_SBGK, None)


@dataclass(frozen=True, slots=True)
class CausalAcrossRanks(Causal):
    """Causal attention over a sequence of 2n chunks, of which rank r of n holds r and 2n-1-r: equal work for all.

    Keys and values are gathered over the group and put back in order; each chunk attends to itself and to the chunks
    before it. Megatron's own local attention does not support this.
    """

    group: Any

    @property
    def context_ranks(self) -> int:
        return self.group.size()

    def attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, core: CoreProduct) -> Tensor:
        ranks, rank = self.group.size(), self.group.rank()
        key_value = _GatherSequence.apply(torch.stack((key_SBGK, value_SBGK), 1), self.group)
        whole_key, whole_value = in_sequence_order(key_value, ranks=ranks).unbind(1)
        chunk = query_SBHK.shape[0] // 2
        attended = []
        for chunk_query, position in zip(query_SBHK.split(chunk), (rank, 2 * ranks - 1 - rank), strict=True):
            end = (position + 1) * chunk
            visible = causally_visible(chunk, end, device=query_SBHK.device)
            attended.append(core.product(chunk_query, whole_key[:end], whole_value[:end], visible))
        return torch.cat(attended)


def causally_visible(queries: int, keys: int, *, device: torch.device) -> Tensor:
    """Causal mask, bool `[queries, keys]`, in which the last query sees every key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def in_sequence_order(gathered: Tensor, *, ranks: int) -> Tensor:
    """Undo the balanced split: rank r brought chunks r and 2 ranks - 1 - r, in that order, along dimension 0."""
    chunks = gathered.view(ranks, 2, gathered.shape[0] // (2 * ranks), *gathered.shape[1:])
    first = [chunks[rank, 0] for rank in range(ranks)]
    second = [chunks[rank, 1] for rank in reversed(range(ranks))]
    return torch.cat(first + second)


class _GatherSequence(torch.autograd.Function):
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
