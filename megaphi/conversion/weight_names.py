"""Megatron's parameter names and Hugging Face's, in one table, and the one tensor that is laid out differently.

Hugging Face's fused `qkv_proj` stacks all queries, all keys, all values; Megatron's `linear_qkv` stacks, for each
key-value group, the group's queries, its key and its value, so that tensor ranks can cut it between groups.

Legend: G key-value groups, R query heads per group, K head size, D model width, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from megaphi.model.architecture import Architecture

LAYER_NAMES = {
    "input_layernorm.weight": "input_layernorm.weight",
    "self_attention.linear_qkv.weight": "self_attn.qkv_proj.weight",
    "self_attention.linear_proj.weight": "self_attn.o_proj.weight",
    "pre_mlp_layernorm.weight": "post_attention_layernorm.weight",
    "mlp.linear_fc1.weight": "mlp.gate_up_proj.weight",
    "mlp.linear_fc2.weight": "mlp.down_proj.weight",
}
"""Of each layer: `decoder.layers.{i}.` here, `model.layers.{i}.` there."""
KNOWN_AND_DROPPED = ("self_attn.rotary_emb.inv_freq",)
"""Computed from the configuration; old exports carry it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightPair:
    """One weight under both names."""

    ours: str
    theirs: str
    shape: tuple[int, ...]
    """Its shape in Megatron, the SwiGLU matrix as (2, F, D)."""
    their_shape: tuple[int, ...]
    to_theirs: Callable[[Tensor], Tensor]
    to_ours: Callable[[Tensor], Tensor]


def weight_pairs(model: Architecture) -> list[WeightPair]:
    """Every weight of a model, from the embedding up."""
    vocabulary = (model.vocabulary, model.hidden)
    qkv_rows = model.query_width + 2 * model.key_value_width
    shapes = {
        "input_layernorm.weight": (model.hidden,),
        "self_attention.linear_qkv.weight": (qkv_rows, model.hidden),
        "self_attention.linear_proj.weight": (model.hidden, model.query_width),
        "pre_mlp_layernorm.weight": (model.hidden,),
        "mlp.linear_fc1.weight": (2, model.feed_forward, model.hidden),
        "mlp.linear_fc2.weight": (model.hidden, model.feed_forward),
    }
    pairs = [_pair("embedding.word_embeddings.weight", "model.embed_tokens.weight", vocabulary, model)]
    for layer in range(model.layers):
        for ours, theirs in LAYER_NAMES.items():
            pairs.append(_pair(f"decoder.layers.{layer}.{ours}", f"model.layers.{layer}.{theirs}", shapes[ours], model))
    pairs.append(_pair("decoder.final_layernorm.weight", "model.norm.weight", (model.hidden,), model))
    pairs.append(_pair("output_layer.weight", "lm_head.weight", vocabulary, model))
    return pairs


def _pair(ours: str, theirs: str, shape: tuple[int, ...], model: Architecture) -> WeightPair:
    their_shape = (shape[0] * shape[1], shape[2]) if len(shape) == 3 else shape
    if ours.endswith("linear_qkv.weight"):
        to_theirs, to_ours = partial(stacked_by_kind, model=model), partial(stacked_by_group, model=model)
    else:
        to_theirs, to_ours = partial(torch.reshape, shape=their_shape), partial(torch.reshape, shape=shape)
    return WeightPair(
        ours=ours, theirs=theirs, shape=shape, their_shape=their_shape, to_theirs=to_theirs, to_ours=to_ours
    )


def stacked_by_group(weight: Tensor, model: Architecture) -> Tensor:
    """`[Q; K; V]` -> for each group `[its queries; its key; its value]`; rows of D."""
    groups, per_group = model.key_value_groups, model.query_width // model.key_value_groups
    query, key, value = weight.split([model.query_width, model.key_value_width, model.key_value_width])
    parts = (query.view(groups, per_group, -1), *(part.view(groups, model.head_size, -1) for part in (key, value)))
    return torch.cat(parts, 1).reshape(weight.shape)


def stacked_by_kind(weight: Tensor, model: Architecture) -> Tensor:
    """Inverse of `stacked_by_group`."""
    groups, per_group = model.key_value_groups, model.query_width // model.key_value_groups
    grouped = weight.view(groups, per_group + 2 * model.head_size, -1)
    parts = grouped.split([per_group, model.head_size, model.head_size], 1)
    return torch.cat([part.reshape(-1, weight.shape[1]) for part in parts])
