"""One decoder layer on the fused kernels: Megatron's parallel linear layers, and our operators between them.

    h = x + attention(norm(x)),   out = h + mlp(norm(h))

The modules are subclasses of Megatron's, with the same parameters under the same names. Only their forward passes are
ours, because the fused operations (the residual addition with the norm after it, rotary positions on the packed QKV
product, SwiGLU with the matrix after it) cross the boundaries between Megatron's modules.

Legend: S sequence, B batch, D width, H query heads, G key-value groups, N = H / G + 2 heads of a group, K head size, R
numbers of a head that rotary positions turn.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor
from torch.distributed import ProcessGroup

from megaphi.errors import InputError
from megaphi.kernels.linear import linear
from megaphi.kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_beside
from megaphi.kernels.rotary import rotary
from megaphi.kernels.swiglu import swiglu_linear
from megaphi.model.copied_groups.exchange import CopiesFetched
from megaphi.model.copied_groups.self_attention import GroupedSelfAttention
from megaphi.model.forward.attention import Attention
from megaphi.model.honoured import BY_VARIANT, honoured_by, refuse_other_fields, refuse_other_slots
from megaphi.model.norm import RMSNorm


class FusedRMSNorm(RMSNorm):
    """RMSNorm in one kernel."""

    def forward(self, hidden_SBD: Tensor) -> Tensor:
        return rms_norm(hidden_SBD, self.weight, self.eps)


class FusedAddRMSNorm(RMSNorm):
    """The residual addition and the RMSNorm after it, in one kernel."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_SBD: Tensor, residual_SBD: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(norm(hidden + residual), hidden + residual); without a residual, (norm(hidden), hidden)."""
        if residual_SBD is None:
            return rms_norm_beside(hidden_SBD, self.weight, self.eps)
        return add_rms_norm(hidden_SBD, residual_SBD, self.weight, self.eps)


class FusedSelfAttention(GroupedSelfAttention):
    """Grouped-query attention that applies rotary positions in place, in the output of the QKV matrix."""

    def __init__(
        self, config: TransformerConfig, submodules: SelfAttentionSubmodules, *rest: Any, **named: Any
    ) -> None:
        slots = ("linear_qkv", "core_attention", "linear_proj", "q_layernorm", "k_layernorm")
        honoured: dict[str, Any] = dict.fromkeys(slots)
        refuse_other_slots(submodules, honoured, by=type(self).__name__)
        super().__init__(config, submodules, *rest, **named)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: Tensor, *, rotary_pos_emb: Tensor, attention_bias: Attention, **rest: Any
    ) -> tuple[Tensor, Tensor | None]:
        """`rotary_pos_emb` is [2, S, R / 2], cos and sin of this rank's positions (`RotaryTable`)."""
        _refuse(rest)
        turned = self._turned_together if self.fills_its_room else self._turned_apart
        parts_SBHK = turned(hidden_states, rotary_pos_emb)
        recomputes = self.checkpoint_core_attention and self.training
        attend: Any = self._checkpointed_attention_forward if recomputes else self.core_attention
        return self.linear_proj(attend(*parts_SBHK, attention_mask=None, attention_bias=attention_bias))

    def _turned_together(self, hidden_SBD: Tensor, rotary_2SR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values in one product, turned in place."""
        groups = self.num_query_groups_per_partition
        queries = self.num_attention_heads_per_partition // groups
        packed, _ = self.linear_qkv(hidden_SBD)  # pyright: ignore[reportCallIssue]
        packed_SBGNK = packed.unflatten(-1, (groups, queries + 2, self.hidden_size_per_attention_head))
        packed_SBGNK = _turned(self._normed(packed_SBGNK), rotary_2SR, heads=queries + 1)
        query, key, value = packed_SBGNK.split((queries, 1, 1), dim=3)
        return query.flatten(2, 3), key.squeeze(3), value.squeeze(3)

    def _turned_apart(self, hidden_SBD: Tensor, rotary_2SR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys by themselves, since groups have unequally many queries; each is a copy, turned in place."""
        query, key, value = self.get_query_key_value_tensors(hidden_SBD)
        query, key = (_turned(part[:, :, None], rotary_2SR, heads=part.shape[2])[:, :, 0] for part in (query, key))
        return query, key, value

    def _normed(self, packed_SBGNK: Tensor) -> Tensor:
        """Apply the norms of queries and keys, where the layer spec has them."""
        query_norm, key_norm = (
            None if isinstance(norm, IdentityOp) else norm for norm in (self.q_layernorm, self.k_layernorm)
        )
        if query_norm is None and key_norm is None:
            return packed_SBGNK
        query, key, value = packed_SBGNK.split((packed_SBGNK.shape[3] - 2, 1, 1), dim=3)
        query = query if query_norm is None else query_norm(query.contiguous())
        key = key if key_norm is None else key_norm(key.contiguous())
        return torch.cat((query, key, value), dim=3)


def _turned(packed_SBGNK: Tensor, rotary_2SR: Tensor, *, heads: int) -> Tensor:
    """Apply rotary positions to the first `heads` of each group: to all of them, or to the first R numbers of each."""
    cos, sin = rotary_2SR.unbind()
    turned = 2 * rotary_2SR.shape[-1]
    if turned == packed_SBGNK.shape[-1]:
        return rotary(packed_SBGNK, cos, sin, rotated=heads, in_place=True)
    first = rotary(packed_SBGNK[..., :turned].contiguous(), cos, sin, rotated=heads, in_place=True)
    return torch.cat((first, packed_SBGNK[..., turned:]), dim=-1)


def column_parallel_product(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    allreduce_dgrad: bool,
    sequence_parallel: bool,
    tp_group: ProcessGroup,
    **_: Any,
) -> Tensor:
    """The product of Megatron's `ColumnParallelLinear`, whose arguments these are, by our `linear`."""
    return linear(
        input,
        weight,
        bias,
        reduces=tp_group if allreduce_dgrad else None,
        gathers=tp_group if sequence_parallel else None,
    )


class FusedColumnParallelLinear(ColumnParallelLinear):
    """The first matrix of attention and of the MLP; its weight's gradient is added up in the product."""

    def _forward_impl(self, *arguments: Any, **named: Any) -> Tensor:
        return column_parallel_product(*arguments, **named)


class FusedCopyingLinear(CopiesFetched, FusedColumnParallelLinear):
    """The QKV matrix of tensor ranks that hold copies of each other's groups."""


class FusedRowParallelLinear(RowParallelLinear):
    """Attention's output matrix; its weight's gradient is added up in the product."""

    def _forward_impl(self, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
        return linear(input, weight)


class SwigluRowParallelLinear(RowParallelLinear):
    """The MLP's second matrix with SwiGLU before it, in one function that does not save the activation between them.

    Megatron's `MLP` gets the identity as its activation (see `use_te_activation_func` in megatron_config.py).
    """

    def __init__(self, *arguments: Any, config: TransformerConfig, **named: Any) -> None:
        if not is_swiglu(config):
            raise InputError(f"{type(self).__name__} computes SwiGLU and nothing else: use ActivatedRowParallelLinear")
        super().__init__(*arguments, config=config, **named)

    def _forward_impl(self, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
        return swiglu_linear(input, weight, in_place=True)  # `MLP` does not use the first matrix's product again


class ActivatedRowParallelLinear(RowParallelLinear):
    """The MLP's second matrix with any other activation before it, gated or not, by PyTorch."""

    config: TransformerConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def _forward_impl(self, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
        activation = self.config.activation_func
        if not self.config.gated_linear_unit:
            return linear(activation(input), weight)
        gate, up = input.chunk(2, dim=-1)
        return linear(activation(gate) * up, weight)


def is_swiglu(config: TransformerConfig) -> bool:
    """Phi-4's activation, of which there is a kernel."""
    return config.gated_linear_unit and config.activation_func is functional.silu


class FusedLayer(TransformerLayer):
    """A pre-norm decoder layer, with each addition fused into the norm after it.

    The sum at the end of a layer is the next one's to make, which gets both its parts: `hidden_states` is the MLP's
    result, and `context` (Megatron's second tensor between layers) what it is to be added to.
    """

    input_layernorm: FusedAddRMSNorm
    pre_mlp_layernorm: FusedAddRMSNorm
    leaves_sum = False
    """True if a layer follows that adds; the last of a chunk adds by itself, and every one that is recomputed."""

    def __init__(
        self, config: TransformerConfig, submodules: TransformerLayerSubmodules, *rest: Any, **named: Any
    ) -> None:
        own = {name: getattr(config, name) for name in {*BY_VARIANT["fused"], *honoured_by(submodules)}}
        refuse_other_fields(config, kernels="fused", variant=own, spec=submodules)
        honoured = {
            "input_layernorm": (FusedAddRMSNorm,),
            "self_attention": None,
            "self_attn_bda": (get_bias_dropout_add,),
            "pre_mlp_layernorm": (FusedAddRMSNorm,),
            "mlp": None,
            "mlp_bda": (get_bias_dropout_add,),
        }
        refuse_other_slots(submodules, honoured, by=type(self).__name__)
        super().__init__(config, submodules, *rest, **named)
        if self.hidden_dropout or not isinstance(self.self_attention, FusedSelfAttention):
            raise InputError(
                f"{type(self).__name__} takes no dropout and needs a FusedSelfAttention; given are"
                f" hidden_dropout={self.hidden_dropout} and a {type(self.self_attention).__name__}"
            )

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Tensor,
        *,
        rotary_pos_emb: Tensor,
        attention_bias: Attention,
        context: Tensor | None = None,
        **rest: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """`attention_bias` holds the pass's `Attention`: Megatron passes this argument on unchanged."""
        _refuse(rest)
        normalised, residual = self.input_layernorm(hidden_states, context)
        attended, output_bias = self.self_attention(
            normalised, rotary_pos_emb=rotary_pos_emb, attention_bias=attention_bias
        )
        normalised, residual = self.pre_mlp_layernorm(attended, residual)
        expanded, mlp_bias = self.mlp(normalised)
        _refuse({"the bias of its attention": output_bias, "the bias of its MLP": mlp_bias})
        return (expanded, residual) if self.leaves_sum else (residual + expanded, None)


def _refuse(arguments: dict[str, Any]) -> None:
    """Megatron passes many optional arguments along; one that we do not honour must not be dropped silently."""
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise ValueError(f"the fused layer does not take {', '.join(given)}: use model.kernels=reference")
