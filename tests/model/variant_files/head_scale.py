"""A factor for each number of a head, shared by all heads, before attention's output matrix.

No tensor rank cuts it, and each uses it for its own heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megaphi.model.architecture import Architecture
from megaphi.model.rows.weight_row import Weight
from megaphi.model.variants.phi4 import Phi4

if TYPE_CHECKING:
    from megatron.core.transformer import ModuleSpec


class Variant(Phi4):
    def layer_weights(self, model: Architecture) -> list[Weight]:
        scale = Weight(name="self_attention.linear_proj.scale", shape=(model.head_size,), drawn="ones", gradient="part")
        return [*super().layer_weights(model), scale]

    def layer_spec(self, spec: ModuleSpec, model: Architecture) -> ModuleSpec:
        layer: Any = spec.submodules
        slots = layer.self_attention.submodules
        slots.linear_proj = self.scaled(slots.linear_proj)
        return spec

    def scaled(self, linear: type) -> type:
        """The matrix of this class with the factors before it."""
        import torch

        class Scaled(linear):
            def __init__(self, *arguments: Any, config: Any, **named: Any) -> None:
                super().__init__(*arguments, config=config, **named)
                device = None if config.use_cpu_initialization else torch.cuda.current_device()
                self.scale = torch.nn.Parameter(torch.ones(config.kv_channels, device=device))

            def forward(self, attended: torch.Tensor) -> Any:
                heads = attended.unflatten(-1, (-1, len(self.scale)))
                return super().forward((heads * self.factors()).flatten(-2))

            def factors(self) -> torch.Tensor:
                return self.scale

        return Scaled
