"""Our architecture and layout as Megatron-Core's `TransformerConfig`.

Every fusion that needs Apex or Transformer Engine is off for our layers: without them Megatron either fails at run
time or falls back silently. Three settings prevent silently wrong results (measured on Megatron-Core 0.16.1): pipeline
outputs are not deallocated (a pending gloo send would read freed storage), interleaved schedules on two pipeline stages
overlap their point-to-point calls (else activations are received as gradients), and Megatron's fused cross-entropy
stays off (it rounds the logits' gradient to bfloat16 even in fp32).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnBackend

from megaphi.model.architecture import Architecture, AttentionBackend
from megaphi.model.rows.head_cut import HeadCut
from megaphi.model.variants import variant_of
from megaphi.parallel.layout import ParallelLayout

Recompute = Literal["none", "selective", "full"]
Precision = Literal["float32", "bfloat16"]
Fp8 = Literal["none", "delayed", "tensorwise", "blockwise", "mxfp8"]

_FUSIONS = (
    "masked_softmax_fusion",
    "bias_activation_fusion",
    "bias_dropout_fusion",
    "apply_rope_fusion",
    "gradient_accumulation_fusion",
    "persist_layer_norm",
    "cross_entropy_loss_fusion",
)
"""Megatron's own fusions: all off for our layers, see above. Ours are in the layer spec."""

_TRANSFORMER_ENGINE = ("apply_rope_fusion", "bias_activation_fusion", "bias_dropout_fusion")
"""Those that Megatron has beside Transformer Engine's layers: on for these. Weight gradients are added to the fp32 ones
within the product (`layer_spec.TransformerEngineLayer`); the loss is ours (`padded_model.TransformerEngineModel`)."""
_ATTENTION_BACKENDS: dict[AttentionBackend, AttnBackend] = {
    "auto": AttnBackend.auto,
    "flash": AttnBackend.flash,
    "cudnn": AttnBackend.fused,
    "math": AttnBackend.unfused,
}
"""Transformer Engine's own, by `model.attention_backend`."""

_RECOMPUTE: dict[Recompute, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}


def transformer_config(
    architecture: Architecture,
    layout: ParallelLayout,
    *,
    parameters: Precision,
    recompute: Recompute = "none",
    fp8: Fp8 = "none",
    on_default_device: bool = False,
) -> TransformerConfig:
    """Megatron's configuration of one model under one layout.

    With `on_default_device` Megatron's layers allocate on torch's default device instead of this rank's: under
    `torch.device("meta")` a 14B model then costs nothing.
    """
    dtype = torch_dtype(parameters)
    config = TransformerConfig(
        num_layers=architecture.layers,
        hidden_size=architecture.hidden,
        ffn_hidden_size=architecture.feed_forward,
        num_attention_heads=architecture.heads,
        num_query_groups=_groups_held(architecture, layout),
        kv_channels=architecture.head_size,
        layernorm_epsilon=architecture.norm_eps,
        init_method_std=architecture.initial_std,
        **variant_fields(architecture),
        attention_softmax_in_fp32=True,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=parameters == "bfloat16",
        **_layout_fields(layout),
        deallocate_pipeline_outputs=False,
        # The loss function returns (sum, tokens): gradients are divided once by all tokens of all replicas.
        calculate_per_token_loss=True,
        # Weights are drawn by parameter name (initialize.py), never by rank. Megatron's own initialisation still runs,
        # with a method that does nothing, because it also marks the weights that tensor parallelism cuts.
        perform_initialization=True,
        init_method=_leave_as_it_is,
        output_layer_init_method=_leave_as_it_is,
        embedding_init_method=_leave_as_it_is,
        use_cpu_initialization=on_default_device,
        **dict.fromkeys(_FUSIONS, False),
        # e4m3 forward, e5m2 for gradients; Transformer Engine scales by the recipe.
        **({} if fp8 == "none" else {"fp8": "hybrid", "fp8_recipe": fp8}),
        **_RECOMPUTE[recompute],
    )
    # Lets the layer spec name the activation module; the fused spec names the identity (fused_layer.py). Set here,
    # because Megatron's own check would limit the activation to those that Transformer Engine has.
    config.use_te_activation_func = architecture.kernels == "fused"
    if architecture.kernels == "transformer_engine":
        # Set here too: Megatron's check asks for Transformer Engine, which a plan does without.
        for name in _TRANSFORMER_ENGINE:
            setattr(config, name, True)
        config.attention_backend = _ATTENTION_BACKENDS[architecture.attention_backend]
    return config


def _layout_fields(layout: ParallelLayout) -> dict[str, Any]:
    interleaved = layout.virtual_pipeline > 1
    return {
        "tensor_model_parallel_size": layout.tensor,
        "pipeline_model_parallel_size": layout.pipeline,
        "virtual_pipeline_model_parallel_size": layout.virtual_pipeline if interleaved else None,
        "pipeline_model_parallel_layout": _uneven_stages(layout),
        "context_parallel_size": layout.context,
        # At one tensor rank there is nothing to split: the flag is a no-op, so one recipe runs on any layout.
        "sequence_parallel": layout.sequence_parallel and layout.tensor > 1,
        "overlap_p2p_comm": interleaved,
        "batch_p2p_comm": not interleaved,
        # Megatron would wait for the whole device after every batch of messages, for the sake of old versions of torch.
        # Ours makes the stream that computes wait for each message, and keeps its tensors until then.
        "batch_p2p_sync": False,
    }


def _uneven_stages(layout: ParallelLayout) -> list[list[str]] | None:
    """Megatron's list of what every chunk holds, from the bottom up; None where all hold equally many layers."""
    if not layout.stage_layers:
        return None
    chunks = [["decoder"] * layers for layers in layout.stage_layers]
    return [["embedding", *chunks[0]], *chunks[1:-1], [*chunks[-1], "loss"]]


def _groups_held(architecture: Architecture, layout: ParallelLayout) -> int:
    """Key-value groups on all tensor ranks, copies included: Megatron cuts the matrix by this number."""
    cut = HeadCut(architecture.heads, architecture.key_value_groups, layout.tensor)
    return layout.tensor * cut.groups_held


@cache
def variant_fields(architecture: Architecture) -> dict[str, Any]:
    """Megatron's fields as the model's variant sets them; cached, so that a function among them is always the same."""
    return variant_of(architecture.variant).megatron_fields(architecture)


def torch_dtype(parameters: Precision) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[parameters]


def _leave_as_it_is(weight: torch.Tensor) -> torch.Tensor:
    return weight
