"""What a GGUF file says of itself, and which of it we act on: everything else that changes the function is refused.

A key of the model is honoured (it becomes part of the architecture), is neutral at the value that stands here, or is
refused by name: what a later llama.cpp adds is not passed over. Keys of the tokenizer, of how a file was quantised and
of who made it change no logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megaphi.errors import InputError

HONOURED = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "vocab_size",
    "rope.freq_base",
    "rope.dimension_count",
)
"""Behind `llama.`: what GgufWeights builds the architecture from."""
_NEUTRAL: Mapping[str, Callable[[Any, Mapping[str, Any]], bool]] = {
    "attention.value_length": lambda value, own: value == _head_size(own),
    "attention.causal": lambda value, own: value is True,
    "attention.sliding_window": lambda value, own: not value,
    "attention.clamp_kqv": lambda value, own: not value,
    "attention.max_alibi_bias": lambda value, own: not value,
    "attention.scale": lambda value, own: value == _head_size(own) ** -0.5,
    "rope.scaling.type": lambda value, own: value == "none",
    "rope.scaling.factor": lambda value, own: value in (0, 1),
    "rope.scale_linear": lambda value, own: value in (0, 1),
    "rope.scaling.attn_factor": lambda value, own: value == 1,
    "rope.scaling.original_context_length": lambda value, own: value == own.get("llama.context_length"),
    "rope.scaling.finetuned": lambda value, own: not value,
    "expert_count": lambda value, own: not value,
    "expert_used_count": lambda value, own: not value,
    "use_parallel_residual": lambda value, own: not value,
    "logit_scale": lambda value, own: value == 1,
    "residual_scale": lambda value, own: value == 1,
    "embedding_scale": lambda value, own: value == 1,
    "tensor_data_layout": lambda value, own: value == "Meta AI original pth",
    "leading_dense_block_count": lambda value, own: not value,
}
"""Behind `llama.`: at which value a key changes nothing."""
_OUTSIDE = ("general.", "tokenizer.", "quantize.", "split.", "GGUF.")
"""How keys begin that say nothing of the function."""


def check_header(fields: Mapping[str, Any], *, path: Path) -> None:
    """Refuse what we neither honour nor know to change nothing.

    Args:
        fields: key and value, of all keys but those of the tokenizer.

    Raises:
        InputError: naming every such key and its value.
    """
    if fields.get("split.count", 1) not in (0, 1):
        raise InputError(
            f"{path} is one of {fields['split.count']} parts of a model: join them with gguf-split --merge"
        )
    if fields.get("general.type", "model") != "model":
        raise InputError(f"{path} holds a GGUF of the type {fields['general.type']!r}, not a model")
    unknown = [f"{key}={value!r}" for key, value in fields.items() if not _is_known(key, fields)]
    if unknown:
        raise InputError(
            f"{path}: {', '.join(unknown)}: not available here, and the model would not be the same without"
        )


def _is_known(key: str, fields: Mapping[str, Any]) -> bool:
    if key.startswith(_OUTSIDE):
        return True
    name = key.removeprefix("llama.")
    if name in HONOURED and key != name:
        return True
    return name in _NEUTRAL and _NEUTRAL[name](fields[key], fields)


def _head_size(fields: Mapping[str, Any]) -> float:
    heads = fields.get("llama.attention.head_count") or 1
    return fields.get("llama.attention.key_length", fields.get("llama.embedding_length", 0) // heads)
