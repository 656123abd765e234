"""The metadata of a GGUF file, and the keys that we honour; every other key that changes the function is refused.

A key of the model is honoured (it becomes part of the architecture), is neutral at the value listed here, or is refused
by name: keys that a later llama.cpp adds are not ignored. Keys of the tokenizer, of how a file was quantised and of who
made it change no logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megaphi.conversion.formats.understood import Test, Understood, off, only, positive, shown
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
"""Keys after `llama.` from which GgufWeights builds the architecture."""
_ACCEPTED_AT: Mapping[str, Test] = {
    "attention.value_length": lambda value, own: value == _head_size(own),
    "attention.causal": only(True),
    "attention.sliding_window": off,
    "attention.clamp_kqv": off,
    "attention.max_alibi_bias": off,
    "attention.scale": lambda value, own: (
        positive(value, own) and math.isclose(value, _head_size(own) ** -0.5, rel_tol=1e-6)
    ),
    "rope.scaling.type": only("none"),
    "rope.scaling.factor": only(0, 1),
    "rope.scale_linear": only(0, 1),
    "rope.scaling.attn_factor": only(1),
    "rope.scaling.original_context_length": lambda value, own: value == own.get("llama.context_length"),
    "rope.scaling.finetuned": off,
    "expert_count": off,
    "expert_used_count": off,
    "use_parallel_residual": off,
    "logit_scale": only(1),
    "residual_scale": only(1),
    "embedding_scale": only(1),
    "tensor_data_layout": only("Meta AI original pth"),
    "leading_dense_block_count": off,
}
"""Keys after `llama.`, with the values at which they change nothing."""
_OUTSIDE = ("general.", "tokenizer.", "quantize.", "split.")
"""Prefixes of keys that do not affect the function."""
_KEYS = Understood(
    honoured={f"llama.{name}" for name in HONOURED},
    accepted_at={f"llama.{name}": test for name, test in _ACCEPTED_AT.items()},
)


def check_header(fields: Mapping[str, Any], *, path: Path) -> None:
    """Refuse keys that we neither honour nor know to change nothing.

    Args:
        fields: key -> value, without the tokenizer's keys.

    Raises:
        InputError: naming every such key and its value.
    """
    if fields.get("split.count", 1) not in (0, 1):
        raise InputError(
            f"{path} is one of {fields['split.count']} parts of a model: join them with gguf-split --merge"
        )
    if fields.get("general.type", "model") != "model":
        raise InputError(f"{path} holds a GGUF of the type {fields['general.type']!r}, not a model")
    of_the_model = {key: value for key, value in fields.items() if not key.startswith(_OUTSIDE)}
    if refused := _KEYS.refused(of_the_model):
        raise InputError(
            f"{path}: {shown(fields, refused)}: not supported, and the model would compute something else without"
        )


def _head_size(fields: Mapping[str, Any]) -> float:
    size, hidden, heads = (
        fields.get(f"llama.{key}") for key in ("attention.key_length", "embedding_length", "attention.head_count")
    )
    if size is None and isinstance(hidden, int) and isinstance(heads, int) and heads:
        size = hidden // heads
    return size if isinstance(size, int) and size > 0 else math.nan
