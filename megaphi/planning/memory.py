"""Bytes that each rank of a run needs, by kind.

Weights, gradients and optimizer state are exact: they are counted from the real modules of every pipeline stage.
Activations are an estimate: the tensors that torch keeps for the backward pass, layer by layer, as counted in a run of
the real modules (the method of Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer
Models"), and what a stage has sent on, which Megatron's schedules hold as long. Attention keeps no scores (unless
`model.attention=softmax`), so recomputing it (`recompute=selective`) saves next to nothing; on four or more context
ranks, the keys and values of whole rows.

Segments (isolated documents, packed rows, and all rows that context ranks share) are planned as long as they can be,
one to a row: in bfloat16 as one launch of flash attention, on a GPU, and in fp32 as products with masks. Communication
buffers and what the allocator loses are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from megaphi.engine.run_config import RunConfig
from megaphi.model.rows.head_cut import HeadCut
from megaphi.model.variants import variant_of
from megaphi.parallel.layout import padded_vocabulary
from megaphi.planning.pipeline import kept_at_most, most_kept
from megaphi.stages.packed_task import PackedTask
from megaphi.stages.pretrain import Pretrain

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


class KeptPerToken(NamedTuple):
    """Bytes per token of a micro-batch on one rank."""

    layer: float
    """Kept of a layer from its forward to its backward pass."""
    output: float
    """Kept of the result of a chunk of layers, by the schedule."""
    head: float
    """Kept at the end of the model."""
    again: float
    """Added by recomputing a layer, for a moment."""


def rank_memory(run: RunConfig, stage_parameters: list[int]) -> list[RankMemory]:
    """One entry per pipeline stage, from the parameters that a rank of each holds; `run.layout` must be complete."""
    parts = [replace(run, batch=batch) for batch in run.task.batch_shapes(run)]
    return [
        state_memory(run, parameters, activations=max(activation_bytes(part, stage=stage) for part in parts))
        for stage, parameters in enumerate(stage_parameters)
    ]


def state_memory(run: RunConfig, parameters: int, *, activations: int) -> RankMemory:
    """Memory of a rank that trains so many numbers, and keeps so many bytes of activations."""
    states = 3 if run.precision.parameters == "bfloat16" else 2  # two moments, and the main copy of bf16 weights
    sharing_ranks = run.layout.world_size // (run.layout.tensor * run.layout.pipeline)
    return RankMemory(
        parameters=parameters,
        weights=parameters * _weight_bytes(run),
        gradients=parameters * _FP32_BYTES,
        optimizer=-(-parameters // sharing_ranks) * states * _FP32_BYTES,
        activations=activations,
    )


def _weight_bytes(run: RunConfig) -> int:
    return 2 if run.precision.parameters == "bfloat16" else 4


def activation_bytes(run: RunConfig, *, stage: int, kept: KeptPerToken | None = None) -> int:
    """Kept activations at the schedule's peak; `kept` where it is known already."""
    layout = run.layout
    tokens = run.batch.micro_batch * run.batch.sequence_length // layout.context
    micro_batches = run.batch.global_batch // (run.batch.micro_batch * (layout.world_size // layout.model_ranks))
    weights = (kept or kept_per_token(run))._asdict()
    moments = kept_at_most(layout, micro_batches, layers=run.model.layers, stage=stage)
    return int(tokens * most_kept(moments, **weights))


def kept_per_token(run: RunConfig) -> KeptPerToken:
    """Bytes by the tensor and context ranks of the layout; the stages do not matter."""
    weight_bytes = _weight_bytes(run)
    layer, again = _kept_and_again_per_token(run, weight_bytes=weight_bytes)
    output = run.model.hidden / _residual_ways(run) * weight_bytes
    return KeptPerToken(layer, output, _head_bytes_per_token(run, weight_bytes=weight_bytes), again)


def _kept_and_again_per_token(run: RunConfig, *, weight_bytes: int) -> tuple[float, float]:
    """Bytes per token that a layer keeps from pass to pass, and that recomputing one adds for a moment."""
    layer = _layer_bytes_per_token(run, weight_bytes=weight_bytes)
    if run.recompute == "full":  # a layer's input, and then one layer
        residual = run.model.hidden / _residual_ways(run) * weight_bytes
        return residual, layer - (residual if run.model.kernels == "fused" else 0)  # its input is there already
    if run.recompute == "selective":  # attention's inputs, and then one layer's attention without its MLP
        recomputed = _recomputed_numbers_per_token(run, weight_bytes=weight_bytes) * weight_bytes / run.layout.tensor
        return layer - recomputed, max(0, recomputed - _mlp_bytes_per_token(run, weight_bytes=weight_bytes))
    return layer, 0.0


def _residual_ways(run: RunConfig) -> int:
    """Ranks that share the tensors of the model's width."""
    return run.layout.tensor if run.layout.sequence_parallel else 1


def _layer_bytes_per_token(run: RunConfig, *, weight_bytes: int) -> float:
    """Bytes that one layer keeps for its backward pass, per token, on one rank."""
    attention = _attention_numbers_per_token(run, weight_bytes=weight_bytes)
    attention += variant_of(run.model.variant).kept_by_attention(run.model)
    before = _norm_bytes_per_token(run, weight_bytes=weight_bytes)
    return before + attention * weight_bytes / run.layout.tensor + _mlp_bytes_per_token(run, weight_bytes=weight_bytes)


def _norm_bytes_per_token(run: RunConfig, *, weight_bytes: int) -> float:
    """Bytes of a norm and of its result, which the matrix after it takes."""
    norm = weight_bytes if run.model.kernels == "fused" else 2 * _FP32_BYTES  # its input; or also normalised, in fp32
    return run.model.hidden * (norm + weight_bytes) / _residual_ways(run)


def _mlp_bytes_per_token(run: RunConfig, *, weight_bytes: int) -> float:
    """Bytes that the upper half of a layer keeps, its norm included."""
    model = run.model
    # Gate and up; what SwiGLU makes of them is made again. Else silu(gate), up and their product by themselves too.
    numbers = (2 if model.kernels == "fused" else 5) * model.feed_forward + variant_of(model.variant).kept_by_mlp(model)
    return _norm_bytes_per_token(run, weight_bytes=weight_bytes) + numbers * weight_bytes / run.layout.tensor


def _attention_numbers_per_token(run: RunConfig, *, weight_bytes: int) -> float:
    """Numbers that attention keeps per token, over all tensor ranks."""
    model, ranks, length = run.model, run.layout.context, run.batch.sequence_length
    queries, keys = model.query_width, _width_on_ranks(run, _cut(run).keys_of_kernel(0))
    if model.attention == "softmax":  # the weights that every query gives to every key
        seen = length * (1 if ranks == 1 else (2 * ranks + 1) / (4 * ranks))
        beside = model.heads * seen
    else:  # a sum for every query and head, in fp32
        beside = model.heads * _FP32_BYTES / weight_bytes
    if not _has_segments(run):
        return _attention_inputs_per_token(run) + queries + beside
    has_flash = model.attention == "sdpa" and model.attention_backend not in ("efficient", "math")
    is_launched = has_flash and weight_bytes < _FP32_BYTES
    is_flat = run.batch.micro_batch == 1 or isinstance(run.task, PackedTask)  # else rows are put one behind the other
    results = queries if is_launched else 2 * queries  # a launch gives one tensor; products are put together
    if ranks == 1:
        return (_attention_inputs_per_token(run) if is_flat else queries + 2 * keys) + results + beside
    own = queries + (0 if _copies_queries(run) or not is_flat else 2 * keys)  # they lie in the QKV product
    # The keys and values of both chunks of the rank: all up to each of them, or whole rows and who sees whom in them.
    if is_launched:
        return own + 2 * keys * (ranks + 0.5) + results + beside
    masks = length / (2 * ranks) * (2 * ranks + 1) / 2 * run.layout.tensor
    return own + 2 * keys * ranks + masks + results + beside


def _recomputed_numbers_per_token(run: RunConfig, *, weight_bytes: int) -> float:
    """Numbers that only attention keeps: neither its inputs nor its result, the input of the matrix after it."""
    inputs = _attention_inputs_per_token(run)
    if _has_uneven_groups(run):  # it repeats its keys by itself
        inputs = run.model.query_width + 2 * _width_on_ranks(run, _cut(run).groups_held)
    kept = inputs + run.model.query_width
    return _attention_numbers_per_token(run, weight_bytes=weight_bytes) - kept


def _attention_inputs_per_token(run: RunConfig) -> float:
    """Queries, keys and values of one layer: the QKV product, in which the latter lie, and copies."""
    queries, keys = run.model.query_width, _width_on_ranks(run, _cut(run).keys_of_kernel(0))
    if _has_uneven_groups(run):  # copies, so that the product is not kept
        return queries + 2 * keys
    numbers = queries + 2 * keys + (queries if _copies_queries(run) else 0)
    return numbers + (keys if run.model.kernels == "reference" else 0)  # turning the keys makes a copy


def _copies_queries(run: RunConfig) -> bool:
    """True if the queries of several groups are put next to each other."""
    return run.model.kernels == "reference" or _cut(run).groups_held > 1


def _cut(run: RunConfig) -> HeadCut:
    return HeadCut(run.model.heads, run.model.key_value_groups, run.layout.tensor)


def _has_uneven_groups(run: RunConfig) -> bool:
    """True if a rank's groups have unequally many queries, so that keys are repeated for the kernel."""
    return _cut(run).keys_of_kernel(0) > _cut(run).groups_held


def _width_on_ranks(run: RunConfig, heads: int) -> int:
    """Width of so many heads on each tensor rank, over all of them."""
    return run.layout.tensor * heads * run.model.head_size


def _has_segments(run: RunConfig) -> bool:
    """True if attention is within segments (`model/forward/segments.py`)."""
    isolates = isinstance(run.task, Pretrain) and run.task.mixture.isolate_documents
    return run.layout.context > 1 or isolates or isinstance(run.task, PackedTask)


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
