"""A random Llama model as a GGUF file, with any change to its header."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
from safetensors.torch import load_file

from megaphi.model.architecture import Architecture
from tests.conversion.random_models import random_folder

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Names of Hugging Face and of llama.cpp, without `.weight`; layers are `model.layers.N.` there and `blk.N.` here."""
MODEL = Architecture(layers=2, hidden=48, feed_forward=80, heads=6, key_value_groups=2, head_size=8, vocabulary=352)
"""Heads as wide as all of them make the model: transformers reads no other Llama from GGUF."""


def write_gguf(
    folder: Path,
    *,
    model: Architecture = MODEL,
    context: int = 64,
    header: Callable[[gguf.GGUFWriter], object] = lambda writer: None,
    big_endian: bool = False,
) -> Path:
    """Write FOLDER/model.gguf; FOLDER/hf holds the same weights."""
    random_folder(folder / "hf", model, naming="llama")
    tensors = load_file(folder / "hf" / "model.safetensors")
    order = gguf.GGUFEndian.BIG if big_endian else gguf.GGUFEndian.LITTLE
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(str(path), "llama", endianess=order)
    writer.add_context_length(context)
    writer.add_embedding_length(model.hidden)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.feed_forward)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.key_value_groups)
    writer.add_key_length(model.head_size)
    writer.add_layer_norm_rms_eps(model.norm_eps)
    writer.add_rope_freq_base(model.rotary_base)
    writer.add_vocab_size(model.vocabulary)
    header(writer)
    for name, values in tensors.items():
        turned = _interleaved(values, model.head_size) if "q_proj" in name or "k_proj" in name else values
        writer.add_tensor(_their_name(name), turned.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _their_name(name: str) -> str:
    for ours, theirs in NAMES.items():
        if f"{ours}.weight" in name:
            return f"blk.{name.split('.')[2]}.{theirs}.weight" if ".layers." in name else f"{theirs}.weight"
    raise ValueError(name)


def _interleaved(matrix: Any, head_size: int) -> Any:
    """The two halves of each head's rows, neighbour by neighbour, as llama.cpp rotates them."""
    return matrix.reshape(-1, 2, head_size // 2, matrix.shape[-1]).swapaxes(1, 2).reshape(matrix.shape)
