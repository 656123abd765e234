"""Bytes that each rank of a run needs, by kind.

Weights, gradients and optimizer state are exact: they are counted from the real modules of every pipeline stage.
Activations are an estimate: the tensors that torch keeps for the backward pass, layer by layer, as counted in a run of
the real modules (the method of Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer
Models"). Attention keeps no scores (unless
`model.attention=softmax`), so recomputing it (`recompute=selective`) saves next to nothing. Communication
buffers and what the allocator loses are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from megaphi.engine.run_config import RunConfig
from megaphi.model.variants import variant_of
from megaphi.parallel.layout import padded_vocabulary

_FP32_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class RankMemory:
    """Bytes of one rank of a pipeline stage."""

    parameters: int
    """Trainable numbers that the rank holds."""
    weights: int
    gradients: int
    optimizer: int
    """Its share: the distributed optimizer cuts the state over replicas and context ranks."""
    activations: int
    """Estimate of the most that is kept at any time of a step."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def rank_memory(run: RunConfig, stage_parameters: list[int]) -> list[RankMemory]:
    """One entry per pipeline stage, from the parameters that a rank of each holds; `run.layout` must be complete."""
    weight_bytes = 2 if run.precision.parameters == "bfloat16" else 4
    states = 3 if run.precision.parameters == "bfloat16" else 2  # two moments, and the main copy of bf16 weights
    sharing_ranks = run.layout.world_size // (run.layout.tensor * run.layout.pipeline)
    parts = [replace(run, batch=batch) for batch in run.task.batch_shapes(run)]
    return [
        RankMemory(
            parameters=parameters,
            weights=parameters * weight_bytes,
            gradients=parameters * _FP32_BYTES,
            optimizer=-(-parameters // sharing_ranks) * states * _FP32_BYTES,
            activations=max(_activation_bytes(part, stage=stage, weight_bytes=weight_bytes) for part in parts),
        )
        for stage, parameters in enumerate(stage_parameters)
    ]


def _activation_bytes(run: RunConfig, *, stage: int, weight_bytes: int) -> int:
    """Kept activations at the schedule's peak: 1F1B holds `pipeline - stage` micro-batches on stage `stage`."""
    layout, model = run.layout, run.model
    tokens = run.batch.micro_batch * run.batch.sequence_length // layout.context
    micro_batches = run.batch.global_batch // (run.batch.micro_batch * (layout.world_size // layout.model_ranks))
    in_flight = min(layout.pipeline - stage, micro_batches)
    if layout.virtual_pipeline > 1:
        in_flight += (layout.pipeline - 1) / layout.virtual_pipeline
    layers = model.layers // layout.pipeline
    residual = model.hidden / _residual_ways(run)
    layer = _layer_bytes_per_token(run, weight_bytes=weight_bytes)
    head = _head_bytes_per_token(run, weight_bytes=weight_bytes) if stage == layout.pipeline - 1 else 0
    if run.recompute == "full":  # every layer's input, and then the head or one layer that is computed again
        again = layer - (residual * weight_bytes if model.kernels == "fused" else 0)  # its input is there already
        return int(tokens * (in_flight * layers * residual * weight_bytes + max(head, again)))
    return int(tokens * (in_flight * layers * layer + head))


def _residual_ways(run: RunConfig) -> int:
    """Ranks that share the tensors of the model's width."""
    return run.layout.tensor if run.layout.sequence_parallel else 1


def _layer_bytes_per_token(run: RunConfig, *, weight_bytes: int) -> float:
    """Bytes that one layer keeps for its backward pass, per token, on one rank."""
    model = run.model
    attention = _attention_numbers_per_token(run)
    inputs = 2 * model.hidden * weight_bytes  # of the two column-parallel matrices
    if model.kernels == "fused":
        norms = 2 * model.hidden * weight_bytes  # their inputs
        feed_forward = 2 * model.feed_forward  # gate and up; what SwiGLU makes of them is made again
    else:
        norms = 4 * model.hidden * _FP32_BYTES  # each norm's input and its normalised input, both in fp32
        feed_forward = 5 * model.feed_forward  # gate and up together; silu(gate), up and their product by themselves
    variant = variant_of(model.variant)
    attention += variant.kept_by_attention(model)
    feed_forward += variant.kept_by_mlp(model)
    return (norms + inputs) / _residual_ways(run) + (attention + feed_forward) * weight_bytes / run.layout.tensor


def _attention_numbers_per_token(run: RunConfig) -> float:
    """Numbers that attention keeps per token, over all tensor ranks."""
    model, layout = run.model, run.layout
    queries, keys = model.query_width, model.key_value_width
    copies_queries = model.kernels == "reference" or model.key_value_groups > layout.tensor
    if layout.context > 1:  # queries, the context in parts and whole; keys and values of all ranks, and who sees whom
        chunk = run.batch.sequence_length // (2 * layout.context)
        masks = chunk * (2 * layout.context + 1) / 2 / run.batch.micro_batch * layout.tensor
        packed = 0 if copies_queries else 2 * keys
        return 3 * queries + packed + 2 * keys * layout.context + masks
    numbers = 2 * queries + 2 * keys  # the QKV product, in which keys and values lie, and the context
    numbers += queries if copies_queries else 0
    numbers += keys if model.kernels == "reference" else 0  # turning the keys makes a copy
    if model.attention == "softmax":  # the weights that every query gives to every key
        numbers += model.heads * run.batch.sequence_length
    return numbers


def _head_bytes_per_token(run: RunConfig, *, weight_bytes: int) -> float:
    """Bytes per token at the end of the model: the final norm, the output layer's input, and the logits.

    Fused, the logits' gradient takes their place. Else they count as computed and, unless they are that already, in
    fp32; the softmax takes the latter's place.
    """
    model = run.model
    vocabulary = padded_vocabulary(model.vocabulary, run.layout.tensor) / run.layout.tensor
    if model.kernels == "fused":
        norm_and_input = model.hidden / _residual_ways(run) * 2 * weight_bytes
        if not model.loss_chunk_tokens:
            return norm_and_input + vocabulary * weight_bytes
        tokens = run.batch.micro_batch * run.batch.sequence_length // run.layout.context
        gathered = model.hidden * weight_bytes if _residual_ways(run) > 1 else 0
        return norm_and_input + gathered + vocabulary * weight_bytes * min(1.0, model.loss_chunk_tokens / tokens)
    logit_bytes = _FP32_BYTES if weight_bytes == _FP32_BYTES else weight_bytes + _FP32_BYTES
    norm_and_input = model.hidden / _residual_ways(run) * (2 * _FP32_BYTES + weight_bytes)
    return norm_and_input + vocabulary * logit_bytes
