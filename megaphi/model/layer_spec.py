"""Phi-4's decoder block as a Megatron layer spec.

Megatron's `TransformerLayer`, `SelfAttention`, `MLP` and parallel linear layers, with two modules of our own in
their slots: RMSNorm and the attention on torch's fused kernel. The spec covers the whole block because a spec of one
layer would let Megatron choose the final norm itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor

from megaphi.model.attention import ScaledDotProductAttention


class RMSNorm(torch.nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight, in fp32 whatever the input's type."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: object) -> None:
        super().__init__()
        self.eps = eps
        device = None if config.use_cpu_initialization else torch.cuda.current_device()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        # Each tensor rank norms its own part of the sequence: Megatron sums the gradients of weights marked so.
        self.weight.sequence_parallel = config.sequence_parallel  # pyright: ignore

    def forward(self, hidden_SBD: Tensor) -> Tensor:
        shape = hidden_SBD.shape[-1:]
        return functional.rms_norm(hidden_SBD.float(), shape, self.weight.float(), self.eps).to(hidden_SBD.dtype)


def layer_spec() -> ModuleSpec:
    """One decoder layer: x + attention(norm(x)), then x + mlp(norm(x))."""
    attention = ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=ScaledDotProductAttention,
            linear_proj=RowParallelLinear,
            q_layernorm=IdentityOp,
            k_layernorm=IdentityOp,
        ),
    )
    mlp = ModuleSpec(
        module=MLP,
        submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear),
    )
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,  # pyright: ignore[reportArgumentType]
            pre_mlp_layernorm=RMSNorm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,  # pyright: ignore[reportArgumentType]
        ),
    )


def block_spec(config: TransformerConfig, *, virtual_stage: int | None = None) -> TransformerBlockSubmodules:
    """The layers that this rank builds, and our RMSNorm as the final norm."""
    layers = get_num_layers_to_build(config, vp_stage=virtual_stage)
    return TransformerBlockSubmodules(layer_specs=[layer_spec()] * layers, layer_norm=RMSNorm)  # pyright: ignore
