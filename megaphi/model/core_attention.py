"""The two core products behind Megatron's core-attention slot: torch's `scaled_dot_product_attention`, and our softmax.

Both group queries without repeating keys. Which keys a query sees is not decided here: the modules pass themselves to
the `Attention` of the forward pass, which calls `product` as often as it needs. It arrives as Megatron's
`attention_bias`, the one argument that Megatron passes to the core attention unchanged, also under recomputation;
`attention_mask` becomes a saved tensor there.

Legend: S queries, L keys, B batch, H query heads, G key-value groups, R = H / G, K head size, T = R S.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch.nn.functional as functional
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from megaphi.errors import InputError
from megaphi.kernels.softmax import causal_softmax, masked_softmax
from megaphi.model.forward.attention import Attention
from megaphi.model.forward.head_groups import HeadGroups


class CoreAttention(MegatronModule, ABC):
    """Megatron's core attention, with the signature that its `SelfAttention` calls; implements `CoreProduct`."""

    is_flash: bool

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
        head_size: int = config.kv_channels  # pyright: ignore[reportAssignmentType]
        self.scale = head_size**-0.5 if softmax_scale is None else softmax_scale
        self.head_groups = HeadGroups((1,))
        """Set by the attention that this is the core of."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Any = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """query `[S, B, H, K]`, key and value `[S, B, G, K]` -> `[S, B, H * K]`, as `attention_bias` attends."""
        if not isinstance(attention_bias, Attention) or attention_mask is not None or packed_seq_params is not None:
            raise ValueError(
                "the core attention takes an Attention for attention_bias, no mask and no packed sequences"
            )
        if attn_mask_type not in (None, self.attn_mask_type):
            raise ValueError(f"this attention was made for {self.attn_mask_type}, not for {attn_mask_type}")
        return attention_bias.attend(query, key, value, self)

    def product(self, query_SBHK: Tensor, key_LBGK: Tensor, value_LBGK: Tensor, visible_SL: Tensor | None) -> Tensor:
        """See `CoreProduct.product`."""
        key, value = (self.head_groups.repeated(part) for part in (key_LBGK, value_LBGK))
        return self._even_product(query_SBHK, key, value, visible_SL)

    @abstractmethod
    def _even_product(
        self, query_SBHK: Tensor, key_LBGK: Tensor, value_LBGK: Tensor, visible_SL: Tensor | None
    ) -> Tensor:
        """The product of groups of equally many queries."""


class ScaledDotProductAttention(CoreAttention):
    """Attention by torch's `scaled_dot_product_attention`: flash attention where the device has it."""

    is_flash = True

    def _even_product(
        self, query_SBHK: Tensor, key_LBGK: Tensor, value_LBGK: Tensor, visible_SL: Tensor | None
    ) -> Tensor:
        query_BHSK, key_BGLK, value_BGLK = (part.permute(1, 2, 0, 3) for part in (query_SBHK, key_LBGK, value_LBGK))
        attended_BHSK = functional.scaled_dot_product_attention(
            query_BHSK,
            key_BGLK,
            value_BGLK,
            attn_mask=visible_SL,
            is_causal=visible_SL is None and query_SBHK.shape[0] > 1,
            scale=self.softmax_scale,
            enable_gqa=query_BHSK.shape[1] != key_BGLK.shape[1],
        )
        return attended_BHSK.permute(2, 0, 1, 3).flatten(2)


class SoftmaxAttention(CoreAttention):
    """Attention by its definition, with all scores in memory and the fused softmax: a check of the other class."""

    is_flash = False

    def _even_product(
        self, query_SBHK: Tensor, key_LBGK: Tensor, value_LBGK: Tensor, visible_SL: Tensor | None
    ) -> Tensor:
        sequence, batch, heads, head_size = query_SBHK.shape
        groups = key_LBGK.shape[2]
        # The queries of a group are stacked, so that keys and values need not be repeated.
        query_BGTK = query_SBHK.unflatten(2, (groups, -1)).permute(1, 2, 3, 0, 4).flatten(2, 3)
        key_BGLK, value_BGLK = (part.permute(1, 2, 0, 3) for part in (key_LBGK, value_LBGK))
        scores_BHSL = (query_BGTK @ key_BGLK.transpose(2, 3)).view(batch, heads, sequence, -1)
        if visible_SL is None:
            weights_BHSL = causal_softmax(scores_BHSL, self.scale, in_place=True)
        else:
            weights_BHSL = masked_softmax(scores_BHSL, ~visible_SL[None, None], self.scale, in_place=True)
        attended_BGTK = weights_BHSL.view(batch, groups, -1, scores_BHSL.shape[3]) @ value_BGLK
        attended_BHSK = attended_BGTK.view(batch, heads, sequence, head_size)
        return attended_BHSK.permute(2, 0, 1, 3).reshape(sequence, batch, heads * head_size)
