"""Every weight of a model by name: its whole shape, who holds which part of it under a layout, in which stage.

Pure arithmetic, for whoever moves weights without building the model. The engine's own answer for a rank that runs is
`initialize.parameter_shares`, which looks at Megatron's modules; the tests hold the two against each other.

A weight also has a matrix form, whose rows are what moves between formats: the SwiGLU matrix (2, F, D) as 2F rows,
gates first; a norm as D rows of one element.

Legend: V vocabulary, D model width, F feed-forward width, T tensor ranks.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout, padded_vocabulary

EMBEDDING = "embedding.word_embeddings.weight"
FINAL_NORM = "decoder.final_layernorm.weight"
OUTPUT = "output_layer.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """One weight of the whole model."""

    name: str
    shape: tuple[int, ...]
    cut: int | None
    """The dimension that tensor ranks share; none: every tensor rank holds all of it."""

    @property
    def rows(self) -> int:
        """Rows of the matrix form."""
        return self.numel // self.columns

    @property
    def columns(self) -> int:
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def share(self, *, tensor: int, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(offset, shape) of what tensor rank `rank` of `tensor` holds; without the rows that only pad a vocabulary."""
        offset, shape = [0] * len(self.shape), list(self.shape)
        if self.cut is None:
            return tuple(offset), tuple(shape)
        whole = self.shape[self.cut]
        if self.name in (EMBEDDING, OUTPUT):
            whole = padded_vocabulary(whole, tensor)
        first, end = (min(whole // tensor * number, self.shape[self.cut]) for number in (rank, rank + 1))
        offset[self.cut], shape[self.cut] = first, end - first
        return tuple(offset), tuple(shape)


def weights_of(model: Architecture) -> list[Weight]:
    """Every weight, from the embedding up."""
    vocabulary = (model.vocabulary, model.hidden)
    weights = [Weight(name=EMBEDDING, shape=vocabulary, cut=0)]
    for layer in range(model.layers):
        for name, (shape, cut) in _layer_weights(model).items():
            weights.append(Weight(name=f"decoder.layers.{layer}.{name}", shape=shape, cut=cut))
    weights.append(Weight(name=FINAL_NORM, shape=(model.hidden,), cut=None))
    if not model.tied_embeddings:
        weights.append(Weight(name=OUTPUT, shape=vocabulary, cut=0))
    return weights


def stored_name(name: str, stored: Architecture) -> str:
    """Name under which a weight is stored: the output layer of a tied model is its embedding."""
    return EMBEDDING if name == OUTPUT and stored.tied_embeddings else name


def _layer_weights(model: Architecture) -> dict[str, tuple[tuple[int, ...], int | None]]:
    """Name within a layer -> (whole shape, dimension that tensor ranks share)."""
    return {
        "input_layernorm.weight": ((model.hidden,), None),
        "self_attention.linear_qkv.weight": ((model.query_width + 2 * model.key_value_width, model.hidden), 0),
        "self_attention.linear_proj.weight": ((model.hidden, model.query_width), 1),
        "pre_mlp_layernorm.weight": ((model.hidden,), None),
        "mlp.linear_fc1.weight": ((2, model.feed_forward, model.hidden), 1),
        "mlp.linear_fc2.weight": ((model.hidden, model.feed_forward), 1),
    }


def pipeline_rank_of(name: str, model: Architecture, layout: ParallelLayout) -> int:
    """The pipeline rank that holds a weight; with virtual stages the ranks take turns at the layers.

    Of a tied embedding the last rank holds a copy.
    """
    if name == EMBEDDING:
        return 0
    if name in (FINAL_NORM, OUTPUT):
        return layout.pipeline - 1
    match = re.match(r"decoder\.layers\.(\d+)\.", name)
    assert match, name
    layers_per_chunk = model.layers // (layout.pipeline * layout.virtual_pipeline)
    return int(match[1]) // layers_per_chunk % layout.pipeline
