"""config.json in both directions: read as an architecture, and written for one.

Anything that our model cannot express, or that is unknown (keys.py), is refused by name instead of being dropped, and
on export so is anything that config.json cannot express. A sliding window is accepted: up to its length it is full
attention, so it becomes the context. The surprising part is the export: for a model that came from Hugging Face its own
file is written again, byte for byte if nothing changed, otherwise with only those fields changed that describe the
shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from megaphi.conversion.formats.huggingface.form import form_for, refused_keys, variant_and_form
from megaphi.conversion.formats.huggingface.keys import BASES, told
from megaphi.conversion.formats.understood import shown
from megaphi.errors import InputError
from megaphi.log import logger
from megaphi.model.architecture import HOW_IT_IS_COMPUTED, Architecture, checked_architecture
from megaphi.model.variants.phi4 import HuggingFaceForm
from megaphi.tokenizer.interface import Tokenizer
from megaphi.tokenizer.phi4 import Phi4Tokenizer

TOKEN_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_CODE_FIELDS = ("auto_map",)
"""Fields that name Python files, which are not carried along with the weights."""
_OF_THE_OLD_SHAPE = ("rope_parameters", "dtype", "layer_types", "use_sliding_window", "max_window_layers")
"""Fields that repeat those of `_shape_fields` under other names, or belong to them."""
_WRITTEN_AS: Mapping[str, str] = {
    "vocabulary": "vocab_size",
    "hidden": "hidden_size",
    "feed_forward": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "key_value_groups": "num_key_value_heads",
    "head_size": "head_dim",
    "norm_eps": "rms_norm_eps",
    "rotary_base": "rope_theta",
    "initial_std": "initializer_range",
    "tied_embeddings": "tie_word_embeddings",
}
"""Field of the architecture -> its name in config.json."""
_SAME_FUNCTION = tuple(name for name in HOW_IT_IS_COMPUTED if name != "initial_std")
"""Fields that do not affect the function; `context` is written from the caller's value."""


def architecture_from(config: Mapping[str, Any], *, where: str) -> Architecture:
    """The architecture that a config.json describes. Raises InputError for one that we cannot build."""
    variant, form = variant_and_form(config, where=where)
    given = told(config)
    if refused := refused_keys(given, form):
        raise InputError(
            f"{where}: {shown(given, refused)}: not supported, and the model would compute something else without; a "
            "key that does not belong to the model can be removed from the file"
        )
    try:
        heads = config["num_attention_heads"]
        sizes = {
            "layers": config["num_hidden_layers"],
            "hidden": config["hidden_size"],
            "feed_forward": config["intermediate_size"],
            "heads": heads,
            "key_value_groups": config.get("num_key_value_heads") or heads,
            "head_size": config.get("head_dim") or form.defaults.get("head_dim") or config["hidden_size"] // heads,
            "vocabulary": config["vocab_size"],
            "tied_embeddings": config.get("tie_word_embeddings") or False,
            "variant": variant,
            "norm_eps": {**form.defaults, **config}["rms_norm_eps"],
            "rotary_base": next((given[name] for name in BASES if name in given), 10_000),
            "initial_std": config.get("initializer_range", 0.02),
        }
    except KeyError as error:
        raise InputError(f"{where}: the field {error} is missing") from None
    except (TypeError, ZeroDivisionError) as error:
        raise InputError(f"{where}: a size is not a positive whole number ({error})") from None
    return checked_architecture(sizes, where=where)


def context_from(config: Mapping[str, Any], *, where: str) -> int:
    """Longest sequence for which full attention equals the model's; logs if that is less than its context."""
    _, form = variant_and_form(config, where=where)
    context = {**form.defaults, **config}.get("max_position_embeddings")
    if context is None:
        raise InputError(f"{where}: the field 'max_position_embeddings' is missing")
    window = config.get("sliding_window")
    if window is None or window >= context:
        return int(context)
    logger.warning(
        "%s: sliding_window=%d is shorter than the context of %d: the context becomes %d tokens, up to which full"
        " attention is the same",
        *(where, window, context, window),
    )
    return int(window)


def config_for(
    model: Architecture,
    *,
    dtype: str,
    context: int,
    tokens: Mapping[str, int | None],
    original: Mapping[str, Any] | None = None,
    where: str = "",
) -> dict[str, Any]:
    """Write config.json in the form of the model's variant. Raises InputError if it has none.

    Args:
        model: the shape.
        dtype: "float32" or "bfloat16".
        context: longest sequence, in tokens.
        tokens: as `token_fields` gives them, for a model that came without a config.json.
        original: the config.json that the model came with; its fields that do not describe the shape are kept.
        where: its name, for messages.
    """
    form = form_for(model)
    if original is None:
        return {**_shape_fields(model, dtype=dtype, context=context), **_fixed_fields(form), **tokens}
    if original["model_type"] != form.model_type:
        tokens = {name: original.get(name) for name in TOKEN_FIELDS}
        return {**_shape_fields(model, dtype=dtype, context=context), **_fixed_fields(form), **tokens}
    kept = _understood_part(original, where=where)
    found = architecture_from(kept, where=where)
    same = replace(model, **{name: getattr(found, name) for name in _SAME_FUNCTION})
    is_same_context = context_from(kept, where=where) == context
    if found != same or not is_same_context:
        kept = {name: value for name, value in kept.items() if name not in _OF_THE_OLD_SHAPE}
        return {**kept, **_shape_fields(model, dtype=dtype, context=context)}
    return {name: dtype if name in ("dtype", "torch_dtype") else value for name, value in kept.items()}


def refuse_other_fields(model: Architecture) -> None:
    """Raise InputError if a field of the architecture is not at its default and has no counterpart in config.json."""
    defaults = {field.name: field.default for field in fields(model)}
    form_for(model)
    other = defaults.keys() - _WRITTEN_AS.keys() - {*_SAME_FUNCTION, "variant"}
    given = {f"model.{name}": getattr(model, name) for name in sorted(other) if getattr(model, name) != defaults[name]}
    if given:
        raise InputError(
            f"{shown(given, given.keys())}: a Phi-3 model of Hugging Face has nothing of the kind, and would not be the"
            " same without: it cannot be exported"
        )


def _understood_part(original: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Drop keys that an earlier version accepted although they had no effect."""
    given = told(original)
    refused = refused_keys(given, variant_and_form(original, where=where)[1])
    if refused:
        logger.warning("%s: %s: left out, the model was never computed with it", where, shown(given, refused))
    left_out = {*_CODE_FIELDS, *(name if name in original else name.partition(".")[0] for name in refused)}
    return {name: value for name, value in original.items() if name not in left_out}


def _shape_fields(model: Architecture, *, dtype: str, context: int) -> dict[str, Any]:
    return {
        **{theirs: getattr(model, ours) for ours, theirs in _WRITTEN_AS.items()},
        **form_for(model).fields,
        "rope_scaling": None,
        "max_position_embeddings": context,
        "original_max_position_embeddings": context,
        "sliding_window": None,
        "torch_dtype": dtype,  # transformers 5 calls it dtype and reads both; older ones and servers know this one
    }


def _fixed_fields(form: HuggingFaceForm) -> dict[str, Any]:
    """Fields that are the same for every model of a variant."""
    return {
        "architectures": [form.class_name],
        "model_type": form.model_type,
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "use_cache": True,
    }


def token_fields(tokenizer: Tokenizer | None) -> dict[str, int | None]:
    """The ids that config.json names: Phi-4's 100257, 100265, 100349, or the model's own tokenizer's, if any."""
    if tokenizer is None:
        return dict.fromkeys(TOKEN_FIELDS)
    if isinstance(tokenizer, Phi4Tokenizer):
        first, end = tokenizer.end_of_text, tokenizer.message_end
    else:
        first, end = (tokenizer.text_start[0] if tokenizer.text_start else None), tokenizer.end_of_text
    return {"bos_token_id": first, "eos_token_id": end, "pad_token_id": tokenizer.pad}


def generation_config_for(tokenizer: Tokenizer | None, config: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json to go with a config.json; it names all tokens that end a text."""
    tokens = {name: config.get(name) for name in TOKEN_FIELDS}
    if tokenizer is not None and tokens == token_fields(tokenizer) and len(tokenizer.stop_tokens) > 1:
        tokens["eos_token_id"] = sorted(tokenizer.stop_tokens)
    return tokens
