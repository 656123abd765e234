"""GELU (by its tanh) where Phi-4 has SiLU, as in Gemma."""

from __future__ import annotations

from functools import partial
from typing import Any

from megaphi.model.architecture import Architecture
from megaphi.model.variants.phi4 import PHI3, Phi4


class Variant(Phi4):
    huggingface = PHI3.with_fields(hidden_act="gelu_pytorch_tanh")

    def megatron_fields(self, model: Architecture) -> dict[str, Any]:
        from torch.nn import functional

        return super().megatron_fields(model) | {"activation_func": partial(functional.gelu, approximate="tanh")}
