"""One decoder layer on the fused kernels: Megatron's parallel linear layers, and our operators between them.

    h = x + attention(norm(x)),   out = h + mlp(norm(h))

The modules are Megatron's, subclassed, with the same parameters under the same names; only their forward passes are
ours, because what is fused here (the residual addition with the norm after it, rotary positions on the packed QKV
product, SwiGLU with the matrix after it) crosses the lines between Megatron's modules.

Legend: S sequence, B batch, D width, H query heads, G key-value groups, N = H / G + 2 heads of a group, K head size.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as functional
from megatron.core.tensor_parallel.layers import RowParallelLinear
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from megaphi.kernels.rms_norm import add_rms_norm, rms_norm
from megaphi.kernels.rotary import rotary
from megaphi.kernels.swiglu import swiglu_linear
from megaphi.model.norm import RMSNorm


class FusedRMSNorm(RMSNorm):
    """RMSNorm in one kernel, with the addition before it if there is one."""

    def forward(self, hidden_SBD: Tensor) -> Tensor:
        return rms_norm(hidden_SBD, self.weight, self.eps)

    def after_adding(self, hidden_SBD: Tensor, residual_SBD: Tensor) -> tuple[Tensor, Tensor]:
        """(norm(hidden + residual), hidden + residual)."""
        return add_rms_norm(hidden_SBD, residual_SBD, self.weight, self.eps)


class FusedSelfAttention(SelfAttention):
    """Grouped-query attention whose queries and keys are turned where the QKV matrix left them."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: Tensor, attention_mask: Tensor | None, rotary_pos_emb: Tensor, **rest: Any
    ) -> tuple[Tensor, Tensor | None]:
        """`rotary_pos_emb` is [2, S, K / 2], cos and sin of this rank's positions (`RotaryTable`)."""
        _refuse(rest)
        groups = self.num_query_groups_per_partition
        queries = self.num_attention_heads_per_partition // groups
        packed, _ = self.linear_qkv(hidden_states)  # pyright: ignore[reportCallIssue]
        packed_SBGNK = packed.unflatten(-1, (groups, queries + 2, self.hidden_size_per_attention_head))
        cos, sin = rotary_pos_emb.unbind()
        packed_SBGNK = rotary(packed_SBGNK, cos, sin, rotated=queries + 1, in_place=True)
        query, key, value = packed_SBGNK.split((queries, 1, 1), dim=3)
        recomputes = self.checkpoint_core_attention and self.training
        attend: Any = self._checkpointed_attention_forward if recomputes else self.core_attention
        context_SBD = attend(query.flatten(2, 3), key.squeeze(3), value.squeeze(3), attention_mask)
        return self.linear_proj(context_SBD)


class PlainRowParallelLinear(RowParallelLinear):
    """Attention's output matrix by torch's own product, which torch.compile can follow where Megatron's only warns."""

    def _forward_impl(self, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
        return functional.linear(input, weight)


class SwigluRowParallelLinear(RowParallelLinear):
    """The MLP's second matrix with SwiGLU before it, in one function that does not keep what lies between.

    Megatron's `MLP` is left with the identity for an activation (see `use_te_activation_func` in megatron_config.py).
    """

    def _forward_impl(self, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
        return swiglu_linear(input, weight)


class FusedLayer(TransformerLayer):
    """A pre-norm decoder layer; the addition after attention is taken together with the norm before the MLP."""

    pre_mlp_layernorm: FusedRMSNorm

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        rotary_pos_emb: Tensor,
        context: Tensor | None = None,
        **rest: Any,
    ) -> tuple[Tensor, Tensor | None]:
        _refuse(rest)
        attended, _ = self.self_attention(self.input_layernorm(hidden_states), attention_mask, rotary_pos_emb)
        normalised, hidden_states = self.pre_mlp_layernorm.after_adding(attended, hidden_states)
        expanded, _ = self.mlp(normalised)
        return hidden_states + expanded, context


def _refuse(arguments: dict[str, Any]) -> None:
    """Megatron passes many optional arguments along; one that we do not honour must not be dropped silently."""
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise ValueError(f"the fused layer does not take {', '.join(given)}: use model.kernels=reference")
