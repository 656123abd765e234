"""Attention behind Megatron's core-attention slot, on torch's `scaled_dot_product_attention`.

Grouped-query attention without repeating keys; causal by default; an attention mask from the caller (True = hidden,
Megatron's convention) isolates documents inside a window. Under context parallelism every rank holds two chunks of
the sequence, r and 2n-1-r, so that all ranks do the same work: keys and values are gathered over the group, put back
in order, and each local chunk attends to the keys before it. Megatron's own local attention refuses that.

Legend: S sequence, B batch, H query heads, G key-value groups, K head size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from megatron.core import parallel_state
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from torch import Tensor


class ScaledDotProductAttention(MegatronModule):
    """softmax(q k^T / sqrt(K) + mask) v, the signature is what Megatron's `SelfAttention` calls."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
        **_: Any,
    ) -> None:
        super().__init__(config=config)
        self.attn_mask_type = attn_mask_type
        self.softmax_scale = softmax_scale
        group = pg_collection.cp if pg_collection is not None else parallel_state.get_context_parallel_group()
        self.context_group: Any = group

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """query `[S, B, H, K]`, key and value `[S, B, G, K]` -> context `[S, B, H * K]`."""
        if attention_bias is not None or packed_seq_params is not None:
            raise ValueError("this attention takes a mask, neither a bias nor packed sequence parameters")
        if self.context_group.size() > 1:
            if attention_mask is not None:
                raise ValueError("document isolation is not available under context parallelism")
            return self._across_ranks(query, key, value)
        return self._attend(query, key, value, _visible(query, key, attention_mask))

    def _attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, visible: Tensor | None) -> Tensor:
        query_BHSK, key_BGSK, value_BGSK = (part.permute(1, 2, 0, 3) for part in (query_SBHK, key_SBGK, value_SBGK))
        context_BHSK = functional.scaled_dot_product_attention(
            query_BHSK,
            key_BGSK,
            value_BGSK,
            attn_mask=visible,
            is_causal=visible is None and query_SBHK.shape[0] > 1,
            scale=self.softmax_scale,
            enable_gqa=query_BHSK.shape[1] != key_BGSK.shape[1],
        )
        return context_BHSK.permute(2, 0, 1, 3).flatten(2)

    def _across_ranks(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor) -> Tensor:
        """Each of the two local chunks attends to all keys up to its own end."""
        ranks, rank = self.context_group.size(), self.context_group.rank()
        key_value = _GatherSequence.apply(torch.stack((key_SBGK, value_SBGK), 1), self.context_group)
        whole_key, whole_value = in_sequence_order(key_value, ranks=ranks).unbind(1)
        chunk = query_SBHK.shape[0] // 2
        contexts = []
        for chunk_query, position in zip(query_SBHK.split(chunk), (rank, 2 * ranks - 1 - rank), strict=True):
            end = (position + 1) * chunk
            visible = _causal(chunk, end, device=query_SBHK.device)
            contexts.append(self._attend(chunk_query, whole_key[:end], whole_value[:end], visible))
        return torch.cat(contexts)


def _visible(query_SBHK: Tensor, key_SBGK: Tensor, hidden: Tensor | None) -> Tensor | None:
    """The mask for torch (True = visible), or None where plain causal attention says it all."""
    if hidden is not None:
        return ~hidden
    queries, keys = query_SBHK.shape[0], key_SBGK.shape[0]
    if queries == keys:
        return None
    return _causal(queries, keys, device=query_SBHK.device)


def _causal(queries: int, keys: int, *, device: torch.device) -> Tensor:
    """`[queries, keys]`, the last query sees every key."""
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


def document_mask(document_ids_BS: Tensor) -> Tensor:
    """`[B, 1, S, S]`, True where a query must not look: a later position, or another document."""
    same = document_ids_BS[:, None, :, None] == document_ids_BS[:, None, None, :]
    sequence = document_ids_BS.shape[1]
    return ~(same & _causal(sequence, sequence, device=document_ids_BS.device))
