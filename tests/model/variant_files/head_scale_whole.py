"""The same factors, whose gradients their module adds up by itself, so that every rank has all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from megaphi.model.architecture import Architecture
from megaphi.model.rows.weight_row import Weight
from tests.model.variant_files import head_scale

if TYPE_CHECKING:
    import torch


class Variant(head_scale.Variant):
    def layer_weights(self, model: Architecture) -> list[Weight]:
        *rows, scale = super().layer_weights(model)
        return [*rows, replace(scale, gradient="whole")]

    def scaled(self, linear: type) -> type:
        from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region

        class Summed(super().scaled(linear)):
            def factors(self) -> torch.Tensor:
                return copy_to_tensor_model_parallel_region(self.scale)  # backward: all-reduce

        return Summed
