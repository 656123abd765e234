"""A checkpoint as a Hugging Face folder that `Phi3ForCausalLM.from_pretrained` and every server of Phi-3/4 loads.

Weights stream one by one from the checkpoint, whatever layout wrote it, and keep their number format. The folder holds
config.json, generation_config.json, the weights in safetensors files of about 5 GB, and the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from megaphi.config import from_plain
from megaphi.conversion.weight_names import WeightPair, weight_pairs
from megaphi.engine.checkpoint_files import CheckpointReader
from megaphi.engine.tensor_file import TensorFileWriter
from megaphi.errors import InputError
from megaphi.files import whole_folder, write_json
from megaphi.log import logger, progress_bar
from megaphi.model.architecture import Architecture
from megaphi.tokenizer.huggingface import export_tokenizer
from megaphi.tokenizer.phi4 import Phi4Tokenizer, load_tokenizer
from megaphi.tokenizer.special_tokens import FULL_VOCABULARY_SIZE, special_token_ids

SHARD_BYTES = 5_000_000_000
DEFAULT_CONTEXT = 4_096


def to_huggingface(
    checkpoint: str | Path, out: str | Path, *, tokenizer: bool = True, shard_bytes: int = SHARD_BYTES
) -> Path:
    """Write `out`; it appears when it is complete.

    Args:
        checkpoint: a checkpoint, or a run folder (its newest one).
        out: must not exist, or be an empty folder.
        tokenizer: write the tokenizer's files too.
        shard_bytes: largest size of one safetensors file.
    """
    reader = CheckpointReader(checkpoint)
    model = architecture_of(reader)
    context = reader.config.get("batch", {}).get("sequence_length", DEFAULT_CONTEXT)
    exported = _tokenizer_of(reader, model) if tokenizer else None
    with whole_folder(out) as folder:
        _write_weights(reader, model, folder, shard_bytes=shard_bytes)
        dtype = reader.tensors["model/output_layer.weight"]["dtype"]
        write_json(folder / "config.json", huggingface_config(model, dtype=dtype, context=context))
        write_json(folder / "generation_config.json", _generation_config(model))
        if exported is not None:
            export_tokenizer(exported, folder, model_max_length=context)
    return Path(out)


def _tokenizer_of(reader: CheckpointReader, model: Architecture) -> Phi4Tokenizer:
    """Phi-4's tokenizer, cut to the model's vocabulary; an imported model of another size may have had its own."""
    if "imported_from" in reader.state and model.vocabulary != FULL_VOCABULARY_SIZE:
        logger.warning(
            "%s was imported from %r: writing Phi-4's tokenizer cut to %d tokens; if the model was trained with "
            "another one, leave it out (--no-tokenizer) and copy the original's files",
            reader.folder,
            reader.state["imported_from"],
            model.vocabulary,
        )
    try:
        return load_tokenizer(model.vocabulary)
    except InputError as error:
        raise InputError(f"{error} (--no-tokenizer exports the weights alone)") from None


def architecture_of(reader: CheckpointReader) -> Architecture:
    """The shape of the model in a checkpoint."""
    return from_plain(Architecture, reader.config["model"], where="model")


def _write_weights(reader: CheckpointReader, model: Architecture, folder: Path, *, shard_bytes: int) -> None:
    pairs = weight_pairs(model)
    shards = list(_shards(reader, pairs, shard_bytes))
    weight_map: dict[str, str] = {}
    with progress_bar(total=len(pairs), unit="tensor", label="convert") as bar:
        for number, shard in enumerate(shards, start=1):
            name = "model.safetensors"
            if len(shards) > 1:
                name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            tensors = {pair.theirs: (reader.dtype(pair.ours), pair.their_shape) for pair in shard}
            writer = TensorFileWriter(folder / name, tensors, metadata={"format": "pt"})
            for pair in shard:
                writer.append(pair.to_theirs(reader.whole(f"model/{pair.ours}")))
                bar.update()
            writer.close()
            weight_map.update(dict.fromkeys(tensors, name))
    if len(shards) > 1:
        total = sum(_bytes(reader, pair) for pair in pairs)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def _shards(reader: CheckpointReader, pairs: list[WeightPair], shard_bytes: int) -> Iterator[list[WeightPair]]:
    shard: list[WeightPair] = []
    size = 0
    for pair in pairs:
        if shard and size + _bytes(reader, pair) > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(pair)
        size += _bytes(reader, pair)
    yield shard


def _bytes(reader: CheckpointReader, pair: WeightPair) -> int:
    width = 2 if reader.tensors[f"model/{pair.ours}"]["dtype"] == "bfloat16" else 4
    return torch.Size(pair.shape).numel() * width


def huggingface_config(model: Architecture, *, dtype: str, context: int) -> dict[str, Any]:
    """config.json of a `Phi3ForCausalLM`."""
    special = special_token_ids(model.vocabulary)
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "vocab_size": model.vocabulary,
        "hidden_size": model.hidden,
        "intermediate_size": model.feed_forward,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.key_value_groups,
        "head_dim": model.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rotary_base,
        "rope_scaling": None,
        "partial_rotary_factor": 1.0,
        "max_position_embeddings": context,
        "original_max_position_embeddings": context,
        "sliding_window": None,
        "initializer_range": model.initial_std,
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "torch_dtype": dtype,
        "bos_token_id": special["<|endoftext|>"],
        "eos_token_id": special["<|im_end|>"],
        "pad_token_id": special["<|dummy_85|>"],
    }


def _generation_config(model: Architecture) -> dict[str, Any]:
    special = special_token_ids(model.vocabulary)
    return {
        "bos_token_id": special["<|endoftext|>"],
        "eos_token_id": [special["<|im_end|>"], special["<|endoftext|>"]],
        "pad_token_id": special["<|dummy_85|>"],
    }
