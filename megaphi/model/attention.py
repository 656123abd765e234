"""Attention behind Megatron's core-attention slot, on torch's `scaled_dot_product_attention` or on our softmax.

Grouped-query attention without repeating keys, causal. What Megatron passes as the attention mask is, here, a list of
segments (`document_segments`), each of which attends to itself and perhaps to one other stretch, its prefix: isolated
documents, or several answers to a prompt that is there once. No [S, S] mask exists and no work is spent on it. Or it is
a `CachedPass` of generation, which knows where the keys and values of earlier tokens are. Under context parallelism
every rank holds two chunks of the sequence, r and 2n-1-r, so that all ranks do the same work: keys and values are
gathered over the group, put back in order, and each local chunk attends to the keys before it. Megatron's own local
attention refuses that.

Legend: S sequence, B batch, H query heads, G key-value groups, R = H / G, K head size, T = B S tokens, N segments.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
import torch.nn.attention.varlen as varlen
import torch.nn.functional as functional
from megatron.core import parallel_state
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from numpy.typing import NDArray
from torch import Tensor

from megaphi.errors import InputError
from megaphi.kernels.softmax import causal_softmax, masked_softmax
from megaphi.model.paged_cache import CachedPass

# Flash attention over documents of any lengths, on a GPU; older versions of torch cannot group queries there.
_VARLEN_GROUPS = {"enable_gqa", "window_size"} <= set(inspect.signature(varlen.varlen_attn).parameters)


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
        **rest: Any,
    ) -> None:
        given = {"attention_type": attention_type, "attn_mask_type": attn_mask_type, **rest}
        given |= {"attention_dropout": attention_dropout or None, "cp_comm_type": cp_comm_type}
        only = {"attention_type": "self", "attn_mask_type": AttnMaskType.causal}
        wrong = [f"{name}={value}" for name, value in given.items() if value != only.get(name)]
        if wrong:
            raise InputError(f"{type(self).__name__} is causal self-attention and does not honour {', '.join(wrong)}")
        super().__init__(config=config)
        self.layer_number = layer_number
        self.attn_mask_type = attn_mask_type
        self.softmax_scale = softmax_scale
        group = pg_collection.cp if pg_collection is not None else parallel_state.get_context_parallel_group()
        self.context_group: Any = group

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | CachedPass | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """query `[S, B, H, K]`, key and value `[S, B, G, K]` -> context `[S, B, H * K]`.

        `attention_mask` is None, the segments of the batch (`document_segments`), or a pass over a cache.
        """
        if attention_bias is not None or packed_seq_params is not None:
            raise ValueError("this attention takes segments, no bias and no packed sequence parameters")
        if attn_mask_type not in (None, self.attn_mask_type):
            raise ValueError(f"this attention was made for {self.attn_mask_type}, not for {attn_mask_type}")
        if isinstance(attention_mask, CachedPass):
            scale = query.shape[-1] ** -0.5 if self.softmax_scale is None else self.softmax_scale
            return attention_mask.attend(self.layer_number, query, key, value, scale=scale, attend=self._attend)
        if self.context_group.size() > 1:
            if attention_mask is not None:
                raise ValueError("document isolation is not available under context parallelism")
            return self._across_ranks(query, key, value)
        if attention_mask is not None:
            return self._within_segments(query, key, value, attention_mask)
        queries, keys = query.shape[0], key.shape[0]
        visible = None if queries == keys else _causal(queries, keys, device=query.device)
        return self._attend(query, key, value, visible)

    def _attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, visible: Tensor | None) -> Tensor:
        """`visible` [queries, keys] is True where a query may look; None means plain causal attention."""
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

    def _within_segments(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, segments_N4: Tensor) -> Tensor:
        sequence, batch = query_SBHK.shape[:2]
        query_THK, key_TGK, value_TGK = (
            part.transpose(0, 1).flatten(0, 1) for part in (query_SBHK, key_SBGK, value_SBGK)
        )
        if _VARLEN_GROUPS and query_SBHK.is_cuda and query_SBHK.dtype != torch.float32:
            context_TD = self._flash(query_THK, key_TGK, value_TGK, segments_N4, longest=sequence)
        else:
            parts = (query_THK[:, None], key_TGK[:, None], value_TGK[:, None])
            contexts = [self._of_segment(*parts, segment) for segment in segments_N4.tolist()]
            context_TD = torch.cat(contexts).squeeze(1)
        return context_TD.view(batch, sequence, -1).transpose(0, 1)

    def _of_segment(self, query_T1HK: Tensor, key_T1GK: Tensor, value_T1GK: Tensor, segment: list[int]) -> Tensor:
        start, end, prefix_start, prefix_end = segment
        query, key, value = query_T1HK[start:end], key_T1GK[start:end], value_T1GK[start:end]
        if prefix_start == prefix_end:
            return self._attend(query, key, value, None)
        key = torch.cat((key_T1GK[prefix_start:prefix_end], key))
        value = torch.cat((value_T1GK[prefix_start:prefix_end], value))
        return self._attend(query, key, value, _causal(len(query), len(key), device=query.device))

    def _flash(
        self, query_THK: Tensor, key_TGK: Tensor, value_TGK: Tensor, segments_N4: Tensor, *, longest: int
    ) -> Tensor:
        """All segments in one launch; keys of a prefix are repeated for each segment that sees it."""
        starts_N, ends_N, prefix_starts_N, prefix_ends_N = segments_N4.unbind(1)
        query_ends = key_ends = torch.cat((starts_N, ends_N[-1:]))
        if bool((prefix_ends_N > prefix_starts_N).any()):
            stretches = segments_N4[:, [2, 3, 0, 1]].view(-1, 2).tolist()
            seen = torch.cat([torch.arange(*stretch, device=key_TGK.device) for stretch in stretches])
            key_TGK, value_TGK = key_TGK[seen], value_TGK[seen]
            keys_N = prefix_ends_N - prefix_starts_N + ends_N - starts_N
            key_ends = functional.pad(keys_N.cumsum(0, dtype=torch.int32), (1, 0))
        context_THK = varlen.varlen_attn(
            query_THK,
            key_TGK,
            value_TGK,
            query_ends,
            key_ends,
            longest,
            longest,
            scale=self.softmax_scale,
            window_size=(-1, 0),  # causal, the last query of a segment sees all its keys
            enable_gqa=query_THK.shape[1] != key_TGK.shape[1],
        )
        assert isinstance(context_THK, Tensor)
        return context_THK.flatten(1)

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


class SoftmaxAttention(ScaledDotProductAttention):
    """The same by its definition, scores and all, through the fused softmax: a check, and a place for other masks."""

    def _attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, visible: Tensor | None) -> Tensor:
        sequence, batch, heads, head_size = query_SBHK.shape
        groups = key_SBGK.shape[2]
        scale = head_size**-0.5 if self.softmax_scale is None else self.softmax_scale
        # The queries of a group lie below each other, so that keys and values need not be repeated.
        query_BGTK = query_SBHK.unflatten(2, (groups, -1)).permute(1, 2, 3, 0, 4).flatten(2, 3)  # T = R S
        key_BGSK, value_BGSK = (part.permute(1, 2, 0, 3) for part in (key_SBGK, value_SBGK))
        scores_BHQK = (query_BGTK @ key_BGSK.transpose(2, 3)).view(batch, heads, sequence, -1)
        if visible is None:
            weights_BHQK = causal_softmax(scores_BHQK, scale, in_place=True)
        else:
            weights_BHQK = masked_softmax(scores_BHQK, ~visible[None, None], scale, in_place=True)
        context_BGTK = weights_BHQK.view(batch, groups, -1, scores_BHQK.shape[3]) @ value_BGSK
        context_BHSK = context_BGTK.view(batch, heads, sequence, head_size)
        return context_BHSK.permute(2, 0, 1, 3).reshape(sequence, batch, heads * head_size)


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


def document_segments(document_ids_BS: NDArray[np.integer]) -> NDArray[np.int32]:
    """int32 [N, 4]: (start, end, start and end of the prefix) of every document among the B S tokens, row after row.

    Segments follow each other without a gap, and every row starts one. A document sees itself only: its prefix is
    empty.
    """
    starts_BS = np.ones(document_ids_BS.shape, dtype=bool)
    starts_BS[:, 1:] = document_ids_BS[:, 1:] != document_ids_BS[:, :-1]
    starts_N = np.flatnonzero(starts_BS)
    ends_N = np.append(starts_N[1:], starts_BS.size)
    return np.stack((starts_N, ends_N, starts_N, starts_N), axis=1).astype(np.int32)
