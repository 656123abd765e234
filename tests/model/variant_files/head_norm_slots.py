"""Norms of queries and keys that fill their slots without Megatron's field: Megatron then does not know of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megaphi.model.variants.phi4 import Phi4
from tests.model.variant_files import qk_norm

if TYPE_CHECKING:
    from megatron.core.transformer import ModuleSpec

    from megaphi.model.architecture import Architecture


class Variant(qk_norm.Variant):
    def megatron_fields(self, model: Architecture) -> dict[str, object]:
        return Phi4.megatron_fields(self, model)

    def layer_spec(self, spec: ModuleSpec, model: Architecture) -> ModuleSpec:
        from megaphi.model.fused_layer import FusedRMSNorm

        layer: Any = spec.submodules
        slots = layer.self_attention.submodules
        slots.q_layernorm = slots.k_layernorm = FusedRMSNorm
        return spec
