"""Phi-4's decoder block as a Megatron layer spec, in one of three ways (`model.kernels`).

`fused`: our own layer on fused kernels (fused_layer.py). `reference`: Megatron's own `TransformerLayer`,
`SelfAttention` and `MLP`, with plain PyTorch in their slots; the fused layer must agree with it. `transformer_engine`:
Megatron's spec for Transformer Engine, whose norms lie inside its linear layers. A spec covers the whole block, because
from the spec of one layer Megatron would choose the final norm by itself.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from megaphi.errors import InputError
from megaphi.kernels.attention_backend import Heads, choose_backend
from megaphi.kernels.linear import check_product
from megaphi.kernels.loading import allow_slow, require
from megaphi.model.architecture import Architecture
from megaphi.model.copied_groups.self_attention import CopyingLinear, GroupedSelfAttention
from megaphi.model.core_attention import ScaledDotProductAttention, SoftmaxAttention
from megaphi.model.forward.head_groups import HeadGroups
from megaphi.model.fused_layer import (
    ActivatedRowParallelLinear,
    FusedAddRMSNorm,
    FusedColumnParallelLinear,
    FusedCopyingLinear,
    FusedLayer,
    FusedRMSNorm,
    FusedRowParallelLinear,
    FusedSelfAttention,
    SwigluRowParallelLinear,
    is_swiglu,
)
from megaphi.model.honoured import refuse_other_fields
from megaphi.model.megatron_config import Precision, torch_dtype, variant_fields
from megaphi.model.norm import RMSNorm
from megaphi.model.rows.head_cut import HeadCut
from megaphi.model.variants import variant_of
from megaphi.parallel.optional_packages import problem_with

_ATTENTION = {"sdpa": ScaledDotProductAttention, "softmax": SoftmaxAttention}


def block_spec(
    config: TransformerConfig, architecture: Architecture, *, virtual_stage: int | None = None
) -> TransformerBlockSubmodules:
    """The layers that this rank builds, and a final norm of the same kind.

    Raises InputError for fields of `config` that the modules do not honour.
    """
    if architecture.kernels == "transformer_engine":
        layer, norm = _transformer_engine()
    else:
        norm = FusedRMSNorm if architecture.kernels == "fused" else RMSNorm
        layer = _layer_spec(architecture, norm, config)
    layer = variant_of(architecture.variant).layer_spec(layer, architecture)
    refuse_other_fields(config, kernels=architecture.kernels, variant=variant_fields(architecture), spec=layer)
    layers = get_num_layers_to_build(config, vp_stage=virtual_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * layers, layer_norm=norm)  # pyright: ignore


class TransformerEngineLayer(TransformerLayer):
    """Megatron's layer whose matrices add their weight gradients to the fp32 ones within the product.

    For these layers alone: in the whole model's configuration the field would ask Apex for it, in the output layer.
    """

    def __init__(self, config: TransformerConfig, *rest: Any, **named: Any) -> None:
        own = copy(config)
        own.gradient_accumulation_fusion = True
        super().__init__(own, *rest, **named)


def _layer_spec(architecture: Architecture, norm: type[RMSNorm], config: TransformerConfig) -> ModuleSpec:
    """One decoder layer: x + attention(norm(x)), then x + mlp(norm(x)).

    In the fused layer the activation belongs to the MLP's second matrix, and Megatron's own is the identity.
    """
    fused = architecture.kernels == "fused"
    rank = parallel_state.get_tensor_model_parallel_rank()
    cut = HeadCut(architecture.heads, architecture.key_value_groups, config.tensor_model_parallel_size)
    head_norm = norm if config.qk_layernorm else IdentityOp
    fused_matrix = SwigluRowParallelLinear if is_swiglu(config) else ActivatedRowParallelLinear
    attention = ModuleSpec(
        module=FusedSelfAttention if fused else GroupedSelfAttention,
        params={"attn_mask_type": AttnMaskType.causal, "head_groups": HeadGroups(cut.queries(rank))},
        submodules=SelfAttentionSubmodules(
            linear_qkv=_qkv_linear(cut, fused=fused),
            core_attention=_ATTENTION[architecture.attention],
            linear_proj=FusedRowParallelLinear if fused else RowParallelLinear,
            q_layernorm=head_norm,
            k_layernorm=head_norm,
        ),
    )
    mlp = MLPSubmodules(
        linear_fc1=FusedColumnParallelLinear if fused else ColumnParallelLinear,
        activation_func=IdentityOp if fused else None,  # pyright: ignore[reportArgumentType]
        linear_fc2=fused_matrix if fused else RowParallelLinear,
    )
    return ModuleSpec(
        module=FusedLayer if fused else TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=FusedAddRMSNorm if fused else norm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,  # pyright: ignore[reportArgumentType]
            pre_mlp_layernorm=FusedAddRMSNorm if fused else norm,
            mlp=ModuleSpec(module=MLP, submodules=mlp),
            mlp_bda=get_bias_dropout_add,  # pyright: ignore[reportArgumentType]
        ),
    )


def _qkv_linear(cut: HeadCut, *, fused: bool) -> type[ColumnParallelLinear]:
    if cut.copies_groups:
        return FusedCopyingLinear if fused else CopyingLinear
    return FusedColumnParallelLinear if fused else ColumnParallelLinear


def check_kernels(architecture: Architecture, *, device: torch.device, parameters: Precision, reads: bool) -> None:
    """Refuse kernels that are not installed here, before anything is built. Raises InputError.

    `reads`: the model is for generation, not for training.
    """
    problem = problem_with("transformer_engine") if architecture.kernels == "transformer_engine" else None
    if problem is not None:
        raise InputError(
            f"model.kernels=transformer_engine, but Transformer Engine {problem}: fix it, or use model.kernels=fused"
        )
    if architecture.kernels == "fused":
        allow_slow(architecture.allow_slow_operators)
        softmax = ("causal_softmax", "masked_softmax") if architecture.attention == "softmax" else ()
        end = "paged_attention" if reads else "cross_entropy"
        names = ("rms_norm", "add_rms_norm", "rotary", "swiglu", *softmax, end)
        require(names, device, torch_dtype(parameters))
        if not reads:
            check_product(device, torch_dtype(parameters))
    elif architecture.kernels == "transformer_engine":
        require(("cross_entropy",), device, torch_dtype(parameters))


def choose_attention(architecture: Architecture, *, device: torch.device, parameters: Precision, reads: bool) -> str:
    """Fix for this process what computes attention; returns its name in words. Raises InputError, see `choose_backend`.

    `reads`: the model is for generation, not for training.
    """
    if architecture.kernels == "transformer_engine":
        return "Transformer Engine"
    if architecture.attention == "softmax":
        return "fused softmax"
    heads = Heads(
        queries=architecture.heads,
        groups=architecture.key_value_groups,
        size=architecture.head_size,
        device=device,
        dtype=torch_dtype(parameters),
    )
    return choose_backend(architecture.attention_backend, heads, reads=reads)


def _transformer_engine() -> tuple[ModuleSpec, type]:
    from megatron.core.extensions.transformer_engine import TENorm
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec

    layer = get_gpt_layer_with_transformer_engine_spec()
    return ModuleSpec(module=TransformerEngineLayer, params=layer.params, submodules=layer.submodules), TENorm
