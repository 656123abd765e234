"""Phi-4, in the terms in which a variant of it says what is different: weights, Megatron's fields, modules.

A variant is a file beside this one with a class `Variant` that inherits from `Phi4` and overrides what differs. The
methods and attributes here are everything that the package asks of a model: its weights, how they are used, its form in
other libraries, the memory of its backward pass. `model.variant=NAME` names the file. No torch is imported until a
model is built, because planning, conversion and the command line read variants too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from megaphi.model.rows.weight_row import Naming, Place, Weight, both

if TYPE_CHECKING:
    from megatron.core.transformer import ModuleSpec

    from megaphi.model.architecture import Architecture

EMBEDDING = "embedding.word_embeddings.weight"
FINAL_NORM = "decoder.final_layernorm.weight"
OUTPUT = "output_layer.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class HuggingFaceForm:
    """A variant's form in Hugging Face's transformers."""

    model_type: str
    class_name: str
    naming: Naming
    """The key of its names in `Weight.huggingface`."""
    fields: Mapping[str, Any]
    """Fields of config.json other than sizes: an export writes them, an import requires them."""
    defaults: Mapping[str, Any]
    """transformers' values for missing fields."""

    def with_fields(self, **fields: Any) -> HuggingFaceForm:
        """The same form with these fields added or replaced."""
        return replace(self, fields={**self.fields, **fields})


PHI3 = HuggingFaceForm(
    model_type="phi3",
    class_name="Phi3ForCausalLM",
    naming="phi3",
    fields={"hidden_act": "silu", "partial_rotary_factor": 1.0, "attention_bias": False},
    defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4_096},
)


class Phi4:
    """Pre-norm RMSNorm, grouped-query attention, rotary positions, SwiGLU, no biases."""

    huggingface: HuggingFaceForm | None = PHI3
    """Not inherited: a variant without a form of its own cannot be exported, because its differences would be lost."""
    rotary_fraction: float = 1.0
    """Fraction of each head that rotary positions turn: its first `rotary_fraction * model.head_size` numbers."""

    def bottom_weights(self, model: Architecture) -> list[Weight]:
        """Weights before the first layer."""
        return [
            _token_rows(
                EMBEDDING, model, place="bottom", huggingface="model.embed_tokens.weight", gguf="token_embd.weight"
            )
        ]

    def layer_weights(self, model: Architecture) -> list[Weight]:
        """Weights of every layer, in the order in which they are used."""
        queries, keys = model.query_width, model.key_value_width
        return [
            _norm(
                "input_layernorm.weight",
                model,
                transformer_engine="self_attention.linear_qkv.layer_norm_weight",
                huggingface="input_layernorm.weight",
                gguf="attn_norm.weight",
            ),
            Weight(
                name="self_attention.linear_qkv.weight",
                shape=(queries + 2 * keys, model.hidden),
                cut=0,
                huggingface={
                    "phi3": ("self_attn.qkv_proj.weight",),
                    "llama": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
                },
                gguf=("attn_q.weight", "attn_k.weight", "attn_v.weight"),
                parts=(queries, keys, keys),
                groups=model.key_value_groups,
                heads=model.heads,
            ),
            Weight(
                name="self_attention.linear_proj.weight",
                shape=(model.hidden, queries),
                cut=1,
                drawn="residual",
                huggingface=both("self_attn.o_proj.weight"),
                gguf=("attn_output.weight",),
            ),
            _norm(
                "pre_mlp_layernorm.weight",
                model,
                transformer_engine="mlp.linear_fc1.layer_norm_weight",
                huggingface="post_attention_layernorm.weight",
                gguf="ffn_norm.weight",
            ),
            Weight(
                name="mlp.linear_fc1.weight",
                shape=(2, model.feed_forward, model.hidden),
                cut=1,
                huggingface={
                    "phi3": ("mlp.gate_up_proj.weight",),
                    "llama": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
                },
                gguf=("ffn_gate.weight", "ffn_up.weight"),
                parts=(model.feed_forward, model.feed_forward),
            ),
            Weight(
                name="mlp.linear_fc2.weight",
                shape=(model.hidden, model.feed_forward),
                cut=1,
                drawn="residual",
                huggingface=both("mlp.down_proj.weight"),
                gguf=("ffn_down.weight",),
            ),
        ]

    def top_weights(self, model: Architecture) -> list[Weight]:
        """Weights after the last layer; a tied output layer is the embedding and has no row of its own."""
        norm = _norm(FINAL_NORM, model, place="top", huggingface="model.norm.weight", gguf="output_norm.weight")
        output = _token_rows(OUTPUT, model, place="top", huggingface="lm_head.weight", gguf="output.weight")
        return [norm] if model.tied_embeddings else [norm, output]

    def megatron_fields(self, model: Architecture) -> dict[str, Any]:
        """Fields of Megatron's configuration, other than sizes, that decide what a layer computes.

        A value that the modules of `model.kernels` would ignore is refused by name (model/honoured.py), unless a module
        of the layer spec names the field in its attribute `honours`.
        """
        return phi4_fields()

    def layer_spec(self, spec: ModuleSpec, model: Architecture) -> ModuleSpec:
        """The modules of a layer; `spec` has Phi-4's of `model.kernels`, and may be changed in place."""
        return spec

    def kept_by_attention(self, model: Architecture) -> int:
        """Numbers per token that attention saves for its backward pass beyond Phi-4's, over all tensor ranks."""
        return 0

    def kept_by_mlp(self, model: Architecture) -> int:
        """Numbers per token that the MLP saves beyond Phi-4's, over all tensor ranks."""
        return 0


Variant = Phi4


def _token_rows(name: str, model: Architecture, *, place: Place, huggingface: str, gguf: str) -> Weight:
    """A matrix with a row for each token of the vocabulary, which tensor ranks share."""
    return Weight(
        name=name,
        shape=(model.vocabulary, model.hidden),
        cut=0,
        place=place,
        has_token_rows=True,
        huggingface=both(huggingface),
        gguf=(gguf,),
    )


def _norm(
    name: str,
    model: Architecture,
    *,
    place: Place = "layer",
    transformer_engine: str | None = None,
    huggingface: str,
    gguf: str,
) -> Weight:
    """A norm of the residual stream."""
    return Weight(
        name=name,
        shape=(model.hidden,),
        gradient="sequence_share",
        drawn="ones",
        place=place,
        transformer_engine=transformer_engine,
        huggingface=both(huggingface),
        gguf=(gguf,),
    )


def phi4_fields() -> dict[str, Any]:
    """Phi-4's values of Megatron's fields that differ from its defaults."""
    import torch.nn.functional as functional

    return {
        "normalization": "RMSNorm",
        "add_bias_linear": False,
        "add_qkv_bias": False,
        "gated_linear_unit": True,
        "activation_func": functional.silu,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }
