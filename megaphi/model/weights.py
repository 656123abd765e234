"""Every weight of a model by name: its row (model/rows/weight_row.py) in its layer, and the stage that holds it.

Pure arithmetic, for code that moves weights without building the model. `initialize.parameter_shares` gives what a
running rank holds, with the parameters of its modules; a module without a row, or a row without a module, is refused
there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from megaphi.model.rows.weight_row import Weight
from megaphi.model.variants import variant_of
from megaphi.model.variants.phi4 import EMBEDDING, OUTPUT
from megaphi.parallel.layout import ParallelLayout

if TYPE_CHECKING:
    from megaphi.model.architecture import Architecture


def weights_of(model: Architecture) -> list[Weight]:
    """Every weight, from the embedding up."""
    variant = variant_of(model.variant)
    rows = variant.layer_weights(model)
    return [
        *variant.bottom_weights(model),
        *(row.in_layer(number) for number in range(model.layers) for row in rows),
        *variant.top_weights(model),
    ]


def parameter_count(model: Architecture) -> int:
    """Numbers of all weights, without listing them layer by layer: a file may describe any number of layers."""
    variant = variant_of(model.variant)
    once = (*variant.bottom_weights(model), *variant.top_weights(model))
    layer = sum(row.numel for row in variant.layer_weights(model))
    return model.layers * layer + sum(row.numel for row in once)


def stored_name(name: str, stored: Architecture) -> str:
    """Name under which a weight is stored: the output layer of a tied model is its embedding."""
    return EMBEDDING if name == OUTPUT and stored.tied_embeddings else name


def in_any_layer(name: str) -> str:
    """A weight's name for a message that means every layer's."""
    return re.sub(r"\.layers\.\d+\.", ".layers.*.", name)


def matmul_parameters(model: Architecture) -> int:
    """Weights that take part in matrix products: those of the layers, and the output projection, tied or not."""
    layer = sum(row.numel for row in variant_of(model.variant).layer_weights(model) if row.is_matrix)
    return model.layers * layer + model.vocabulary * model.hidden


def pipeline_rank_of(weight: Weight, model: Architecture, layout: ParallelLayout) -> int:
    """The pipeline rank that holds a weight; with virtual stages the ranks take turns at the layers.

    The last rank holds a copy of a tied embedding.
    """
    if weight.place == "bottom":
        return 0
    if weight.place == "top":
        return layout.pipeline - 1
    assert isinstance(weight.place, int), f"{weight.name} is in no layer"
    return layout.stage_of_layer(weight.place, layers=model.layers)
