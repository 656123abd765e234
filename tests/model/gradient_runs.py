"""Ranks of the tests of gradients that tensor ranks add up: one update of a variant, and what each rank computed."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch

from megaphi.checkpoint.box import Box
from megaphi.data.batch import Batch
from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.model.rows.weight_row import Gradient, Weight
from megaphi.model.variants import variant_of
from megaphi.model.variants.phi4 import Phi4
from megaphi.parallel.layout import ParallelLayout
from tests.model.own_variants import CASES, LENGTH
from tests.model.variant_runs import install_variants
from tests.stages.packed_runs import SHAPE, step_run

FACTORS = np.linspace(0.5, 1.5, SHAPE.head_size, dtype=np.float32)


def variant_step(
    folder: str, checkpoint: str, layout: ParallelLayout, variant: str, kernels: str = "fused"
) -> tuple[float, float, list[np.ndarray]]:
    """(loss, gradient norm, this rank's gradients of the weights that Phi-4 does not have); saved in `folder`."""
    install_variants()
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.model.training_model import whole_parameters
    from megaphi.engine.saving.saver import save_checkpoint
    from megaphi.engine.training.train_step import train_step
    from megaphi.model.initialize import parameter_shares
    from megaphi.model.weights import weights_of
    from tests.engine.layout_runs import build

    reader = open_weights(checkpoint)
    known = {weight.name for weight in weights_of(reader.architecture)}
    model = build(step_run(folder, layout, replace(SHAPE, variant=variant, kernels=kernels)))  # pyright: ignore
    shares = [share for module in model.modules for share in parameter_shares(module)]
    with whole_parameters(model), torch.no_grad():
        for share in shares:
            is_known = share.name in known
            share.fill(
                [reader.box(share.name, Box(share.offset, share.shape)) if is_known else torch.from_numpy(FACTORS)]
            )
        model.optimizer.reload_model_params()
    world = model.world
    result = train_step(model, _rows()[world.replica :: world.replicas], learning_rate=1e-9)
    save_checkpoint(model, {"step": 1})
    # Of several replicas each has the gradient of a part.
    own = [share.parameter for share in shares if share.name not in known and world.replicas == 1]
    return result.loss, result.gradient_norm, [np.array(parameter.main_grad) for parameter in own]  # pyright: ignore


def _rows() -> list[Batch]:
    tokens_BS, labels_BS = (part.numpy() for part in CASES["causal"].batch())
    return [
        Batch(
            tokens_BS=tokens_BS[row : row + 1],
            labels_BS=labels_BS[row : row + 1],
            loss_mask_BS=np.ones((1, LENGTH), dtype=np.float32),
            document_ids_BS=None,
            sample_numbers_B=np.array([row]),
        )
        for row in range(len(tokens_BS))
    ]


WRONG: dict[str, tuple[str, Gradient | None]] = {
    "right": ("head_scale", "part"),
    "says nothing": ("head_scale", None),
    "a norm of heads": ("qk_norm", "sequence_share"),
    "a cut matrix": ("phi4", "part"),
}
"""A variant, and what the last row of its layers says of the gradient."""


def refusals(layout: ParallelLayout) -> dict[str, str]:
    """The refusal of each row by a model of this layout; empty if it is taken."""
    install_variants()
    return {name: _refusal(variant, gradient, layout) for name, (variant, gradient) in WRONG.items()}


def _refusal(variant: str, gradient: Gradient | None, layout: ParallelLayout) -> str:
    from megaphi.model.language_model import count_parameters

    kind = type(variant_of(variant))
    usual = kind.layer_weights

    def layer_weights(self: Phi4, model: Architecture) -> list[Weight]:
        *rows, last = usual(self, model)
        return [*rows, replace(last, gradient=gradient)]

    with patch.object(kind, "layer_weights", layer_weights):
        try:
            count_parameters(replace(SHAPE, variant=variant), layout, sequence_length=LENGTH)
        except InputError as error:
            return str(error)
    return ""
