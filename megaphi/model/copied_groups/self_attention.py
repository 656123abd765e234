"""Megatron's self-attention where tensor ranks do not divide the key-value groups.

Megatron is told of as many groups as all ranks hold, copies included, so that its own arithmetic gives the size of
every rank's matrix. A rank's groups may then have unequally many queries, which only the splitting of the product and
the core attention have to know.

Legend: S sequence, B batch, H query heads, G key-value groups, N packed heads, K head size.
"""

from __future__ import annotations

from typing import Any

from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from torch import Tensor

from megaphi.model.copied_groups.exchange import CopiesFetched
from megaphi.model.forward.head_groups import HeadGroups, split_groups


class CopyingLinear(CopiesFetched, ColumnParallelLinear):
    """The QKV matrix of tensor ranks that hold copies of each other's groups."""


class GroupedSelfAttention(SelfAttention):
    """Self-attention of a rank whose groups may have unequally many queries."""

    def __init__(
        self,
        config: TransformerConfig,
        submodules: SelfAttentionSubmodules,
        *rest: Any,
        head_groups: HeadGroups,
        **named: Any,
    ) -> None:
        super().__init__(config, submodules, *rest, **named)
        self.head_groups = head_groups
        self.core_attention.head_groups = head_groups  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def fills_its_room(self) -> bool:
        """True if this rank's matrix is as Megatron expects it: as many groups as any rank, of as many queries."""
        return self.head_groups.is_even and len(self.head_groups.queries) == self.num_query_groups_per_partition

    def get_query_key_value_tensors(self, hidden_states: Tensor, *rest: Any, **named: Any) -> Any:
        """Queries `[S, B, H, K]`, keys and values `[S, B, G, K]`, before rotary positions."""
        if self.fills_its_room:
            return super().get_query_key_value_tensors(hidden_states, *rest, **named)
        packed, _ = self.linear_qkv(hidden_states)  # pyright: ignore[reportCallIssue]
        query, key, value = split_groups(
            packed.unflatten(-1, (-1, self.hidden_size_per_attention_head)), self.head_groups
        )
        query = query if self.q_layernorm is None else self.q_layernorm(query)
        key = key if self.k_layernorm is None else self.k_layernorm(key)
        return query, key, value
