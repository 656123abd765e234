"""Inputs of the model of a step: the model, its layout, the batch, and how it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megaphi.data.batch import BatchShape
from megaphi.engine.run_config import RunConfig
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout, padded_vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class StepShape:
    """One optimizer step in bf16 with fp32 gradients and AdamW, on `layout.world_size` devices."""

    model: Architecture
    layout: ParallelLayout
    """Complete: `data` is known."""
    batch: BatchShape
    recompute: Literal["none", "selective", "full"] = "none"
    weight_gradients: Literal["in the product", "added afterwards"] = "in the product"
    """Accumulation of fp32 gradients: in the product itself, or by a pass over a bf16 gradient that it made."""
    tensor_overlap: float = 0.0
    """Share of the tensor ranks' collectives that runs behind products where Megatron's order does not hide them."""
    overlap_gradients: bool = True
    """Gradients are reduced behind the last backward pass, weights gathered behind the first forward pass."""

    @property
    def chunk_layers(self) -> tuple[int, ...]:
        """Layers of each chunk; chunk c is on pipeline stage c % pipeline."""
        return self.layout.chunk_layers(self.model.layers)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a replica."""
        return self.batch.global_batch // (self.batch.micro_batch * (self.layout.data or 1))

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch on one rank."""
        return self.batch.micro_batch * self.batch.sequence_length // self.layout.context

    @property
    def vocabulary(self) -> int:
        """Rows of the output matrix on one rank."""
        return padded_vocabulary(self.model.vocabulary, self.layout.tensor) // self.layout.tensor

    @property
    def layer_matrices(self) -> dict[str, int]:
        """Numbers of each matrix of a layer on one rank, by name."""
        model = self.model
        whole = {
            "QKV product": model.hidden * (model.query_width + 2 * model.key_value_width),
            "projection": model.query_width * model.hidden,
            "FFN up": 2 * model.hidden * model.feed_forward,
            "FFN down": model.feed_forward * model.hidden,
        }
        return {name: numbers // self.layout.tensor for name, numbers in whole.items()}

    def parameters_of_stage(self, stage: int) -> int:
        """Numbers that a rank of a pipeline stage trains."""
        layer = sum(self.layer_matrices.values()) + 2 * self.model.hidden
        numbers = sum(self.chunk_layers[stage :: self.layout.pipeline]) * layer
        if stage == 0:
            numbers += self.vocabulary * self.model.hidden
        if stage == self.layout.pipeline - 1:
            numbers += self.vocabulary * self.model.hidden + self.model.hidden
        return numbers


def shape_of(run: RunConfig) -> StepShape:
    """The step of a run; its layout must be complete."""
    return StepShape(
        model=run.model,
        layout=run.layout,
        batch=run.batch,
        recompute=run.recompute,
        overlap_gradients=run.overlap_communication,
    )
