"""Ranks of the model's tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np

from megaphi.model.architecture import Architecture
from megaphi.model.weights import EMBEDDING, OUTPUT, pipeline_rank_of, weights_of
from megaphi.parallel.layout import ParallelLayout, padded_vocabulary
from tests.engine.layout_runs import TINY


def parameters_of(architecture: Architecture, layouts: list[ParallelLayout]) -> list[list[tuple[int, int]]]:
    """(held by each tensor rank, in all) for every pipeline stage of every layout."""
    from megaphi.model.language_model import count_parameters

    return [
        [(stage.local, stage.unique) for stage in count_parameters(architecture, layout, sequence_length=4096)]
        for layout in layouts
    ]


def check_places(cases: list[tuple[Architecture, ParallelLayout]]) -> int:
    """Hold what the modules of every rank are against the arithmetic of `model/weights.py`; returns how many ranks."""
    from megaphi.model.language_model import shares_without_storage

    ranks = 0
    for architecture, layout in cases:
        for number in range(layout.world_size):
            place = layout.coordinates(number)
            shares = shares_without_storage(architecture, layout, place=place, sequence_length=64)
            last = layout.pipeline - 1
            found = {share.name: (share.whole_shape, share.offset, share.shape) for share in shares}
            expected = {
                weight.name: (weight.shape, *weight.share(tensor=layout.tensor, rank=place.tensor))
                for weight in weights_of(architecture)
                if pipeline_rank_of(weight, architecture, layout) == place.pipeline
                or (architecture.tied_embeddings and weight.name == EMBEDDING and place.pipeline == last)
            }
            assert found == expected, f"{layout}, rank {number}, vocabulary {architecture.vocabulary}"
            padded = padded_vocabulary(architecture.vocabulary, layout.tensor) // layout.tensor * architecture.hidden
            for share in shares:
                held = padded if share.name in (EMBEDDING, OUTPUT) else share.numel
                assert share.parameter.numel() == held >= share.numel, share.name
            ranks += 1
    return ranks


def weights_by_name(layout: ParallelLayout) -> dict[str, tuple[tuple[int, ...], np.ndarray]]:
    """Initial weights of this rank: name in the whole model -> (offset in the whole weight, values)."""
    from megaphi.model.initialize import parameter_shares
    from megaphi.model.language_model import build_model
    from megaphi.parallel.world import start_world

    world = start_world(layout, seed=7)
    chunks = build_model(TINY, world.layout, sequence_length=32, seed=7)
    return {
        share.name: (share.offset, share.parameter.detach().numpy().reshape(share.shape))
        for chunk in chunks
        for share in parameter_shares(chunk)
    }


def names_of_transformer_engines_weights() -> list[str]:
    """The names under which the weights of a layer of Transformer Engine go into checkpoints."""
    from types import SimpleNamespace

    from megaphi.model.initialize import parameter_shares
    from megaphi.parallel.world import start_world

    start_world(ParallelLayout(), seed=0)
    held = ("self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight", "mlp.linear_fc1.weight")
    layers = [SimpleNamespace(layer_number=3), SimpleNamespace(layer_number=4)]  # the upper half of a pipeline
    chunk: Any = SimpleNamespace(
        architecture=TINY,
        decoder=SimpleNamespace(layers=layers),
        named_parameters=lambda: [(f"decoder.layers.1.{name}", None) for name in held],
    )
    return [share.name for share in parameter_shares(chunk)]


def transformer_engines_settings() -> dict[str, Any]:
    """Values of Megatron's configuration for Transformer Engine's layers, and for ours."""
    from megatron.core.transformer.transformer_layer import TransformerLayer

    from megaphi.model.layer_spec import TransformerEngineLayer
    from megaphi.model.megatron_config import transformer_config

    names = ("apply_rope_fusion", "bias_activation_fusion", "bias_dropout_fusion", "gradient_accumulation_fusion")
    found: dict[str, Any] = {}
    for kernels in ("fused", "transformer_engine"):
        config = transformer_config(replace(TINY, kernels=kernels), ParallelLayout(), parameters="float32")  # pyright: ignore
        found[kernels] = {name: getattr(config, name) for name in (*names, "cross_entropy_loss_fusion")}
    with mock.patch.object(TransformerLayer, "__init__", lambda self, own: found.update(layer=own)):
        TransformerEngineLayer(config)
    found["layer"] = (found["layer"].gradient_accumulation_fusion, config.gradient_accumulation_fusion)
    for backend in ("auto", "flash", "cudnn", "math"):
        model = replace(TINY, kernels="transformer_engine", attention_backend=backend)  # pyright: ignore[reportArgumentType]
        found[backend] = transformer_config(model, ParallelLayout(), parameters="float32").attention_backend.name
    return found


def transformer_engines_loss() -> dict[str, float]:
    """The top of the model for Transformer Engine, over Megatron's layers in PyTorch, beside Megatron's own loss.

    Returns the largest difference between losses, and between gradients of the weights, and the largest gradient.
    """
    import torch

    from megaphi.model import language_model
    from megaphi.model.forward.attention import Causal
    from megaphi.model.forward.context import ForwardContext
    from megaphi.model.forward.targets import Labels
    from megaphi.model.padded_model import PaddedModel, TransformerEngineModel
    from megaphi.parallel.world import start_world

    start_world(ParallelLayout(), seed=0)
    tokens_BS = torch.randint(TINY.vocabulary, (2, 16), generator=torch.Generator().manual_seed(1))
    losses, gradients = [], []
    for kind in (PaddedModel, TransformerEngineModel):
        with mock.patch.object(language_model, "PaddedModel", kind):
            (model,) = language_model.build_model(
                replace(TINY, kernels="reference"), ParallelLayout(), sequence_length=16, seed=3
            )
        assert type(model) is kind
        loss_BS = model(tokens_BS, ForwardContext(attention=Causal(), targets=Labels(tokens_BS.roll(-1, 1))))
        (loss_BS * torch.linspace(0, 1, 16)).sum().backward()
        losses.append(loss_BS.detach())
        gradients.append(
            torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
        )
    return {
        "loss": (losses[0] - losses[1]).abs().max().item(),
        "gradients": (gradients[0] - gradients[1]).abs().max().item(),
        "largest": gradients[0].abs().max().item(),
    }


def fp8_settings() -> tuple[str | None, str | None]:
    """Settings that Megatron gets for a recipe."""
    from megaphi.model.megatron_config import transformer_config

    config = transformer_config(TINY, ParallelLayout(), parameters="bfloat16", fp8="blockwise")
    return config.fp8, config.fp8_recipe


def attention_outputs() -> list[tuple[np.ndarray, np.ndarray]]:
    """(ours, softmax(q k^T / sqrt(K) + mask) v in fp64): causal and with isolated documents, both ways to attend."""
    import torch
    from megatron.core.transformer.enums import AttnMaskType

    from megaphi.model.core_attention import ScaledDotProductAttention, SoftmaxAttention
    from megaphi.model.forward.attention import Causal
    from megaphi.model.forward.segments import Segments, document_segments
    from megaphi.model.megatron_config import transformer_config
    from megaphi.parallel.world import start_world

    layout = ParallelLayout()
    start_world(layout, seed=0)
    config = transformer_config(TINY, layout, parameters="float32")
    sequence, batch = 17, 2
    query = torch.randn(sequence, batch, TINY.heads, TINY.head_size)
    key, value = torch.randn(2, sequence, batch, TINY.key_value_groups, TINY.head_size)
    documents_BS = np.array([[0] * 5 + [1] * 12, [0] * 16 + [1]])
    segments = document_segments(documents_BS)
    assert segments[:, :2].tolist() == [[0, 5], [5, 17], [17, 33], [33, 34]]
    causal = np.broadcast_to(np.tri(sequence, dtype=bool), (batch, 1, sequence, sequence))
    same = documents_BS[:, None, :, None] == documents_BS[:, None, None, :]
    isolated = Segments.of(segments, length=sequence, device=query.device)
    results = []
    for kind in (ScaledDotProductAttention, SoftmaxAttention):
        core = kind(config, 1, AttnMaskType.causal, "self")
        for attention, visible in ((Causal(), causal), (isolated, causal & same)):
            ours = core(query, key, value, None, attention_bias=attention)
            results.append((ours.numpy(), _by_definition(query, key, value, visible)))
    return results


def _by_definition(query: object, key: object, value: object, visible: object) -> np.ndarray:
    """Every head by itself, in fp64."""
    q, k, v = (np.asarray(part, dtype=np.float64) for part in (query, key, value))
    heads, groups = q.shape[2], k.shape[2]
    mask = np.asarray(visible)
    out = np.empty_like(q)
    for row in range(q.shape[1]):
        for head in range(heads):
            group = head // (heads // groups)
            scores = q[:, row, head] @ k[:, row, group].T / np.sqrt(q.shape[-1])
            scores = np.where(mask[row, 0], scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, row, head] = weights / weights.sum(-1, keepdims=True) @ v[:, row, group]
    return out.reshape(*q.shape[:2], -1)
