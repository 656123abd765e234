"""Random Hugging Face folders, written by the safetensors library, and what our weights must be, by whole tensors.

`whole_weights` shares no line with the package's table of rows: it permutes whole tensors with view and cat.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from megaphi.model.architecture import Architecture

SHAPES = {
    "3 heads per group": Architecture(
        layers=4, hidden=60, feed_forward=52, heads=6, key_value_groups=2, head_size=14, vocabulary=352
    ),
    "one head per group, as Phi-3 mini": Architecture(
        layers=2, hidden=48, feed_forward=128, heads=32, key_value_groups=32, head_size=2, vocabulary=501
    ),
    "40/10 heads, as Phi-3 medium and Phi-4": Architecture(
        layers=4, hidden=80, feed_forward=280, heads=40, key_value_groups=10, head_size=2, vocabulary=362,
        rotary_base=250_000.0,
    ),
    "30/15 heads": Architecture(
        layers=2, hidden=30, feed_forward=45, heads=30, key_value_groups=15, head_size=4, vocabulary=353
    ),
}  # fmt: skip


def random_folder(
    folder: Path,
    model: Architecture,
    *,
    naming: str = "phi3",
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    seed: int = 0,
    scale: float = 1.0,
    **fields: Any,
) -> dict[str, Tensor]:
    """Write a folder as a user would download it; returns its tensors."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    tensors = {name: (torch.randn(shape) * scale).to(dtype) for name, shape in their_shapes(model, naming).items()}
    if fields.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight")
    config = {
        "architectures": ["Phi3ForCausalLM" if naming == "phi3" else "LlamaForCausalLM"],
        "model_type": naming,
        "vocab_size": model.vocabulary,
        "hidden_size": model.hidden,
        "intermediate_size": model.feed_forward,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.key_value_groups,
        "head_dim": model.head_size,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rotary_base,
        "max_position_embeddings": 64,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    (folder / "config.json").write_text(json.dumps(config | fields, indent=2))
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return tensors
    weight_map = {
        name: f"model-{number % shards + 1:05d}-of-{shards:05d}.safetensors" for number, name in enumerate(names)
    }
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, folder / file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return tensors


def attentive_folder(folder: Path, model: Architecture, **fields: Any) -> Path:
    """Write a model with weights so large that its attention is not uniform; returns the folder.

    It names no padding id, whose embedding would get no gradient in transformers.
    """
    random_folder(folder, model, scale=0.2, pad_token_id=None, **fields)
    return folder


def in_transformers(folder: Path, **options: Any) -> Any:
    """The model of a folder in transformers, in fp32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)


def their_shapes(model: Architecture, naming: str) -> dict[str, tuple[int, ...]]:
    d, f, q, k = model.hidden, model.feed_forward, model.query_width, model.key_value_width
    layer = {
        "input_layernorm": (d,),
        "self_attn.o_proj": (d, q),
        "post_attention_layernorm": (d,),
        "mlp.down_proj": (d, f),
    }
    if naming == "phi3":
        layer |= {"self_attn.qkv_proj": (q + 2 * k, d), "mlp.gate_up_proj": (2 * f, d)}
    else:
        layer |= {f"self_attn.{part}_proj": (rows, d) for part, rows in (("q", q), ("k", k), ("v", k))}
        layer |= {"mlp.gate_proj": (f, d), "mlp.up_proj": (f, d)}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (model.vocabulary, d)}
    for number in range(model.layers):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {"model.norm.weight": (d,), "lm_head.weight": (model.vocabulary, d)}


def whole_weights(tensors: dict[str, Tensor], model: Architecture) -> dict[str, Tensor]:
    """Our weights, each whole and in its shape."""
    embedding = tensors["model.embed_tokens.weight"]
    ours = {"embedding.word_embeddings.weight": embedding}
    for number in range(model.layers):
        theirs = {
            name.removeprefix(f"model.layers.{number}.").removesuffix(".weight"): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"model.layers.{number}.")
        }
        if "self_attn.qkv_proj" in theirs:
            widths = [model.query_width, model.key_value_width, model.key_value_width]
            query, key, value = theirs["self_attn.qkv_proj"].split(widths)
            gate, up = theirs["mlp.gate_up_proj"].chunk(2)
        else:
            query, key, value = (theirs[f"self_attn.{part}_proj"] for part in "qkv")
            gate, up = theirs["mlp.gate_proj"], theirs["mlp.up_proj"]
        by_group = [part.reshape(model.key_value_groups, -1, model.hidden) for part in (query, key, value)]
        layer = {
            "input_layernorm": theirs["input_layernorm"],
            "self_attention.linear_qkv": torch.cat(by_group, 1).reshape(-1, model.hidden),
            "self_attention.linear_proj": theirs["self_attn.o_proj"],
            "pre_mlp_layernorm": theirs["post_attention_layernorm"],
            "mlp.linear_fc1": torch.stack([gate, up]),
            "mlp.linear_fc2": theirs["mlp.down_proj"],
        }
        ours |= {f"decoder.layers.{number}.{name}.weight": tensor for name, tensor in layer.items()}
    ours["decoder.final_layernorm.weight"] = tensors["model.norm.weight"]
    ours["output_layer.weight"] = tensors.get("lm_head.weight", embedding)
    return ours


def same_bytes(left: Tensor, right: Tensor) -> bool:
    """Equal in type, shape, and every bit (NaN, signed zeros)."""
    is_alike = left.dtype == right.dtype and left.shape == right.shape
    return is_alike and torch.equal(left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8))
