"""A small `torch_dist` folder of a GPT model, written by torch's own distributed checkpoints, without Megatron."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

LAYERS, HIDDEN, FEED_FORWARD, HEADS, GROUPS, HEAD_SIZE, ROWS = 2, 12, 20, 6, 2, 2, 32
ARGUMENTS: dict[str, Any] = {
    "num_attention_heads": HEADS, "rotary_base": 10_000, "norm_epsilon": 1e-5, "normalization": "RMSNorm",
    "swiglu": True, "position_embedding_type": "rope", "add_bias_linear": False, "seq_length": 64,
}  # fmt: skip


def write_torch_dist(folder: Path, **arguments: Any) -> Path:
    """Write the folder, with these arguments beside the usual ones; returns it."""
    import torch
    from torch.distributed import checkpoint

    layer = {
        "self_attention.linear_proj": (HIDDEN, HEADS * HEAD_SIZE),
        "self_attention.linear_qkv": ((HEADS + 2 * GROUPS) * HEAD_SIZE, HIDDEN),
        "mlp.linear_fc1": (2 * FEED_FORWARD, HIDDEN),
        "mlp.linear_fc2": (HIDDEN, FEED_FORWARD),
        "input_layernorm": (HIDDEN,),
        "pre_mlp_layernorm": (HIDDEN,),
    }
    shapes = {f"decoder.layers.{name}.weight": (LAYERS, *shape) for name, shape in layer.items()}
    shapes |= {"embedding.word_embeddings.weight": (ROWS, HIDDEN), "output_layer.weight": (ROWS, HIDDEN)}
    shapes["decoder.final_layernorm.weight"] = (HIDDEN,)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    folder.mkdir(parents=True)
    with warnings.catch_warnings(action="ignore"):
        writer = checkpoint.FileSystemWriter(folder, single_file_per_rank=False)
        checkpoint.save(tensors, storage_writer=writer, no_dist=True)
    (folder / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1}))
    common = {"args": argparse.Namespace(**{**ARGUMENTS, **arguments}), "iteration": 7}
    torch.save(common, folder / "common.pt")
    return folder
