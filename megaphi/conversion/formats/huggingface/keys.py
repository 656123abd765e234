"""Keys of a config.json: honoured ones, ones that change nothing, and harmless values of others. The rest is refused.

The lists cover Phi-3 (and Phi-4) and Llama models, as transformers 4 and 5, their authors and related tools write them.
The contents of `rope_scaling` and `rope_parameters` are listed key by key: transformers uses the first of the two that
exists, so both must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megaphi.conversion.formats.understood import Understood, off, only, positive, whole

ROTARY = ("rope_scaling", "rope_parameters")
"""Keys that hold fields of their own: the first is transformers 4's name, the second transformers 5's."""
BASES = (*(f"{name}.rope_theta" for name in ROTARY), "rope_theta")
_CLASSES = ("Phi3", "Llama", "LLaMA")
_GENERATION = """
    bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate remove_invalid_values exponential_decay_length_penalty
    suppress_tokens begin_suppress_tokens max_new_tokens min_p
"""
_BOOKKEEPING = """
    _name_or_path _commit_hash _attn_implementation _attn_implementation_autoset _attn_implementation_internal
    _flash_attn_2_enabled attn_implementation transformers_version transformers_weights torch_dtype dtype use_bfloat16
    torchscript tf_legacy_loss return_dict output_hidden_states output_attentions use_cache gradient_checkpointing
    chunk_size_feed_forward finetuning_task task_specific_params problem_type id2label label2id num_labels prefix
    tokenizer_class model_max_length max_sequence_length transformers.js_config is_llama_config unsloth_fixed
    unsloth_version is_decoder
"""
_SAME_FUNCTION = """
    pretraining_tp original_max_position_embeddings use_sliding_window max_window_layers
"""
"""Keys that change nothing for us: pretraining_tp adds up the same products in parts; a window, in any layers, is full
attention up to its length, which becomes the context; the original length matters to scaled rotary positions only."""
_SWITCHES = """
    attention_bias attention_out_bias qkv_bias mlp_bias lm_head_bias use_bias attention_dropout hidden_dropout
    resid_pdrop embd_pdrop is_encoder_decoder add_cross_attention cross_attention_hidden_size tie_encoder_decoder
    pruned_heads rope_interleaved qk_layernorm qk_layer_norms qk_norm use_qk_norm num_experts num_local_experts
    num_experts_per_tok output_router_logits attn_logit_softcapping final_logit_softcapping attention_chunk_size
    quantization_config
"""
"""Arguments that are absent when off."""


def _is_of_known_classes(value: Any, given: Mapping[str, Any]) -> bool:
    """Test of `architectures`: no head but a language model's."""
    known = [f"{name}ForCausalLM" for name in _CLASSES]
    return value is None or (isinstance(value, list) and all(name in known for name in value))


def _names_known_code(value: Any, given: Mapping[str, Any]) -> bool:
    """Test of `auto_map`: as the authors of Phi-3 publish it, for a copy of transformers' own classes."""
    ends = ("Config", "Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification")
    known = {f"{name}{end}" for name in _CLASSES for end in ends}
    if not isinstance(value, Mapping):
        return value is None
    code = [place for kind, place in value.items() if kind != "AutoTokenizer"]
    return all(isinstance(place, str) and place.rpartition(".")[2] in known for place in code)


def _is_the_only_base(value: Any, given: Mapping[str, Any]) -> bool:
    """`rope_theta`, from either place."""
    return positive(value, given) and all(given.get(name, value) == value for name in BASES)


def _is_full_up_to_the_window(value: Any, given: Mapping[str, Any]) -> bool:
    """Test of `layer_types`: a window needs its length, which becomes the context."""
    allowed = ("full_attention", "sliding_attention") if given.get("sliding_window") else ("full_attention",)
    return value is None or (isinstance(value, list) and all(kind in allowed for kind in value))


_ACCEPTED_AT = {
    **dict.fromkeys(_SWITCHES.split(), off),
    **dict.fromkeys(("logit_scale", "logits_scaling", "residual_multiplier", "embedding_multiplier"), only(None, 1)),
    "architectures": _is_of_known_classes,
    "auto_map": _names_known_code,
    "hidden_act": only("silu", "swish"),
    "hidden_activation": only(None, "silu", "swish"),
    "layer_types": _is_full_up_to_the_window,
    "partial_rotary_factor": only(None, 1),
    "max_position_embeddings": whole,
    "sliding_window": lambda value, given: value is None or whole(value, given),
    "tie_word_embeddings": only(None, False, True),
    "rope_theta": _is_the_only_base,
}
_ACCEPTED_AT_WITHIN_ROTARY = {
    "rope_type": only(None, "default"),
    "type": only(None, "default"),
    "partial_rotary_factor": only(None, 1),
    "factor": only(None, 1),
    "attention_factor": only(None, 1),
    "rope_theta": _is_the_only_base,
}

CONFIG_KEYS = Understood(
    honoured={
        *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "rms_norm_eps", "initializer_range"),
    },
    neutral={
        *(_GENERATION + _BOOKKEEPING + _SAME_FUNCTION).split(),
        *(f"{name}.original_max_position_embeddings" for name in ROTARY),
    },
    accepted_at={
        **_ACCEPTED_AT,
        **{f"{name}.{key}": test for name in ROTARY for key, test in _ACCEPTED_AT_WITHIN_ROTARY.items()},
    },
)


def told(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the nested fields of rotary positions as `rope_scaling.factor` and so on."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if name in ROTARY and isinstance(value, Mapping):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat
