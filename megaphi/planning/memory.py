"""Bytes that each rank of a run needs, by kind.

Weights, gradients and optimizer state are exact: they are counted from the real modules of every pipeline stage.
Activations are an estimate from the tensors that one layer keeps for its backward pass (after Korthikanti et al. 2022,
"Reducing Activation Recomputation in Large Transformer Models", with a fused attention that keeps no scores).
"""

from __future__ import annotations

from dataclasses import dataclass

from megaphi.engine.run_config import RunConfig

_GRADIENT_BYTES = 4  # always fp32
_MOMENTS_BYTES = 8  # exp_avg and exp_avg_sq, fp32
_MAIN_WEIGHT_BYTES = 4  # the optimizer's fp32 copy of bf16 weights


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
    """Estimate."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def rank_memory(run: RunConfig, stage_parameters: list[int]) -> list[RankMemory]:
    """One entry per pipeline stage, from the parameters that a rank of each holds; `run.layout` must be complete."""
    weight_bytes = 2 if run.precision.parameters == "bfloat16" else 4
    state_bytes = _MOMENTS_BYTES + (_MAIN_WEIGHT_BYTES if weight_bytes == 2 else 0)
    sharing_ranks = run.layout.world_size // (run.layout.tensor * run.layout.pipeline)
    return [
        RankMemory(
            parameters=parameters,
            weights=parameters * weight_bytes,
            gradients=parameters * _GRADIENT_BYTES,
            optimizer=-(-parameters // sharing_ranks) * state_bytes,
            activations=_activation_bytes(run, stage=stage, weight_bytes=weight_bytes),
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
    kept = tokens * layers * _layer_numbers_per_token(run) * weight_bytes * in_flight
    logits = 0
    if stage == layout.pipeline - 1:
        logits = tokens * model.vocabulary // layout.tensor * (weight_bytes + 2 * 4)  # as computed, in fp32, softmax
    return int(kept) + logits


def _layer_numbers_per_token(run: RunConfig) -> float:
    """Numbers that one layer keeps per token on one rank."""
    model, layout = run.model, run.layout
    residual = model.hidden / (layout.tensor if layout.sequence_parallel else 1)
    if run.recompute == "full":
        return residual
    attention = 2 * model.query_width + 2 * model.key_value_width  # q, k, v, and the output (or what replays it)
    feed_forward = 3 * model.feed_forward  # gate, up, and their product
    return 4 * residual + (attention + feed_forward) / layout.tensor  # two inputs of norms, two outputs
