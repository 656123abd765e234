"""Inputs of the model of a step: the model, its layout, the batch, and how it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from megaphi.data.batch import BatchShape
from megaphi.engine.run_config import RunConfig
from megaphi.model.architecture import Architecture
from megaphi.model.rows.head_cut import HeadCut
from megaphi.model.variants import variant_of
from megaphi.parallel.layout import ParallelLayout, padded_vocabulary
from megaphi.planning.step.device import Precision


class Matrix(NamedTuple):
    """Sizes of a weight on one rank."""

    inner: int
    """Numbers of an input row."""
    columns: int
    """Numbers of an output row."""

    @property
    def numbers(self) -> int:
        return self.inner * self.columns


@dataclass(frozen=True, kw_only=True, slots=True)
class StepShape:
    """One optimizer step with fp32 gradients and AdamW, on `layout.world_size` devices."""

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
    precision: Precision = "bf16"
    """Format of the layers' products; the output matrix and attention are bf16."""

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
    def layer_matrices(self) -> dict[str, Matrix]:
        """The matrices of a layer on one rank, by name."""
        model, ranks = self.model, self.layout.tensor
        packed = HeadCut(model.heads, model.key_value_groups, ranks).packed_heads_held * model.head_size
        return {
            "QKV product": Matrix(model.hidden, packed),
            "projection": Matrix(model.query_width // ranks, model.hidden),
            "FFN up": Matrix(model.hidden, 2 * model.feed_forward // ranks),
            "FFN down": Matrix(model.feed_forward // ranks, model.hidden),
        }

    @property
    def output_matrix(self) -> Matrix:
        return Matrix(self.model.hidden, self.vocabulary)

    def parameters_of_stage(self, stage: int) -> int:
        """Numbers that a rank of a pipeline stage holds, copies of key-value groups among them."""
        numbers = numbers_on_a_rank(self.model, self.layout.tensor)
        is_last = stage == self.layout.pipeline - 1
        top = numbers.norm + (0 if self.model.tied_embeddings and stage == 0 else numbers.embedding)
        layers = sum(self.chunk_layers[stage :: self.layout.pipeline])
        return layers * numbers.layer + (numbers.embedding if stage == 0 else 0) + (top if is_last else 0)


class NumbersOnARank(NamedTuple):
    """Numbers of the parts of a model that one of its tensor ranks holds."""

    layer: int
    embedding: int
    """As many as the output matrix."""
    norm: int
    """Numbers of the final norm."""


@cache
def numbers_on_a_rank(model: Architecture, tensor: int) -> NumbersOnARank:
    one = StepShape(model=model, layout=ParallelLayout(tensor=tensor, data=1), batch=BatchShape(global_batch=1))
    rows = variant_of(model.variant).layer_weights(model)
    layer = sum(matrix.numbers for matrix in one.layer_matrices.values())
    layer += sum(row.numel for row in rows if not row.is_matrix)
    return NumbersOnARank(layer, one.output_matrix.numbers, model.hidden)


def shape_of(run: RunConfig) -> StepShape:
    """The step of a run; its layout must be complete."""
    return StepShape(
        model=run.model,
        layout=run.layout,
        batch=run.batch,
        recompute=run.recompute,
        overlap_gradients=run.overlap_communication,
        precision="bf16" if run.precision.fp8 == "none" else "fp8",
    )
