"""Norms of each head's queries and keys, before they are turned: Qwen 3's model."""

from __future__ import annotations

from typing import Any

from megaphi.model.architecture import Architecture
from megaphi.model.rows.weight_row import Weight
from megaphi.model.variants.phi4 import HuggingFaceForm, Phi4


class Variant(Phi4):
    huggingface = HuggingFaceForm(
        model_type="qwen3",
        class_name="Qwen3ForCausalLM",
        naming="llama",
        fields={"hidden_act": "silu", "attention_bias": False},
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32_768, "head_dim": 128},
    )

    def layer_weights(self, model: Architecture) -> list[Weight]:
        return super().layer_weights(model) + [
            Weight(
                name=f"self_attention.{part}_layernorm.weight",
                shape=(model.head_size,),
                gradient="part",
                drawn="ones",
                huggingface={"llama": (f"self_attn.{part}_norm.weight",)},
            )
            for part in "qk"
        ]

    def megatron_fields(self, model: Architecture) -> dict[str, Any]:
        return super().megatron_fields(model) | {"qk_layernorm": True}
