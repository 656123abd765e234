"""Every field, slot and argument of a model is honoured by the path that computes it, or refused by name.

The tests go over Megatron's own dataclasses and signatures, so that what a later version adds is looked at too.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from tests.gloo_world import run_in_world
from tests.model.honoured_runs import CHANGES, finding


def found(name: str) -> Any:
    """One finding: if it cannot be made, its test alone fails."""
    return run_in_world(finding, name, processes=1)[0]


def test_a_field_of_megatrons_configuration_is_honoured_or_refused() -> None:
    """The refusals are asserted where the fields are tried; how many a path takes at any value is a decision."""
    taken = found("fields_taken")
    assert len(taken["fused"]) == 40
    assert taken["reference"] == taken["fused"]
    assert set(taken["transformer_engine"]) - set(taken["fused"]) == {
        *("fp8", "fp8_recipe", "attention_backend", "gradient_accumulation_fusion"),
        *("apply_rope_fusion", "bias_activation_fusion", "bias_dropout_fusion"),
    }


def test_a_field_that_is_honoured_makes_a_difference() -> None:
    assert found("fields_that_matter") == {
        "fused": [
            *("softmax_scale", "layernorm_epsilon", "activation_func", "qk_layernorm", "add_qkv_bias"),
            "gated_linear_unit",
        ],
        "reference": list(CHANGES),
    }


def test_a_slot_of_the_layer_spec_is_used_or_refused() -> None:
    assert found("layer_slots") == ["mlp"]
    norms_of_heads = [] if version("megatron-core") >= "0.19" else ["q_layernorm", "k_layernorm"]  # it refuses them
    assert found("attention_slots") == ["linear_qkv", "core_attention", "linear_proj", *norms_of_heads]
    assert found("slot_of_a_later_version") == "the fused attention does not use what is in gate=_Foreign of its spec"


def test_the_fused_model_refuses_arguments_that_it_would_ignore() -> None:
    assert set(found("model_arguments")) >= {
        *("fp16_lm_cross_entropy", "rotary_percent", "rope_scaling", "rope_scaling_factor"),
        *("scatter_embedding_sequence_parallel", "seq_len_interpolation_factor", "mtp_block_spec"),
    }


def test_the_fused_layer_refuses_arguments_that_it_would_ignore() -> None:
    assert set(found("forward_arguments")) >= {
        *("context_mask", "rotary_pos_cos", "rotary_pos_sin", "attention_mask", "inference_context"),
        *("packed_seq_params", "sequence_len_offset", "padding_mask", "inference_params"),
    }


def test_our_attention_and_norm_refuse_what_they_would_ignore() -> None:
    assert found("attention_arguments") == [
        *("attn_mask_type", "attention_type", "attention_dropout", "cp_comm_type", "one_of_a_later_version")
    ]
    assert found("norm_arguments") == "RMSNorm does not honour has_residual=True"


def test_a_field_of_the_model_section_changes_the_model_or_is_refused() -> None:
    """But for those that say how the same is computed: attention, and of fused kernels the loss in chunks."""
    shape = [
        *(
            "layers",
            "hidden",
            "feed_forward",
            "heads",
            "key_value_groups",
            "head_size",
            "vocabulary",
            "tied_embeddings",
        ),
        "variant",
    ]
    numbers = ["norm_eps", "rotary_base", "initial_std"]
    assert found("architecture_fields") == {
        "fused": [*shape, *numbers],
        "reference": [*shape, *numbers, "allow_slow_operators!", "loss_chunk_tokens!"],
        "transformer_engine": ["allow_slow_operators!", "attention!", "loss_chunk_tokens!"],
    }
