"""A Hugging Face `Phi3ForCausalLM` folder as a checkpoint: to evaluate, generate, or train on from its weights.

Number formats stay as they are. What our model cannot express (scaled or partial rotary positions, sliding windows) is
refused with the field's name instead of being dropped. A tied output layer becomes a copy of the embedding.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from megaphi.config import to_plain
from megaphi.conversion.weight_names import KNOWN_AND_DROPPED, weight_pairs
from megaphi.engine.checkpoint_files import DTYPES, Box, Piece, finish_checkpoint, rank_file, write_rank_file
from megaphi.engine.tensor_file import FileRecord
from megaphi.errors import InputError
from megaphi.files import read_json, whole_folder
from megaphi.log import logger, progress_bar
from megaphi.model.architecture import Architecture

PIECES_PER_FILE = 64


def from_huggingface(folder: str | Path, out: str | Path) -> Path:
    """Write `out`, a checkpoint at step 0 without optimizer state; it appears when it is complete."""
    folder, out = Path(folder), Path(out)
    config = read_json(folder / "config.json", what="Hugging Face configuration")
    model = architecture_from(config, where=str(folder / "config.json"))
    weights = _Weights(folder)
    tied = bool(config.get("tie_word_embeddings", False))
    _check_names(weights, model, tied=tied)
    with whole_folder(out) as partial:
        run = secrets.token_hex(6)
        files = _write_weights(_pieces(weights, model, tied=tied), partial, run=run)
        dtype = str(weights.read("model.norm.weight").dtype).removeprefix("torch.")
        state = {"step": 0, "imported_from": folder.name}
        finish_checkpoint(partial, _checkpoint_config(config, model, dtype), state, files, run=run)
    return out


def _write_weights(pieces: Iterator[Piece], folder: Path, *, run: str) -> dict[str, FileRecord]:
    """Write the pieces in files of `PIECES_PER_FILE`, so that memory stays bounded."""
    files: dict[str, FileRecord] = {}
    while group := list(itertools.islice(pieces, PIECES_PER_FILE)):
        files[rank_file(len(files))] = write_rank_file(folder, group, rank=len(files), run=run, step=0)
    return files


def architecture_from(config: dict[str, Any], *, where: str) -> Architecture:
    """The shape that a config.json describes; InputError for what we cannot build."""
    kind = config.get("model_type")
    if kind != "phi3":
        raise InputError(f"{where}: model_type is {kind!r}, expected 'phi3' (Phi-3 and Phi-4 models)")
    rotary = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    rotary_kind = rotary.get("rope_type") or rotary.get("type") or "default"
    if rotary_kind != "default":
        raise InputError(f"{where}: rope type {rotary_kind!r} is not supported, only the default one")
    partial = rotary.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise InputError(f"{where}: partial_rotary_factor={partial} is not supported, only 1.0")
    window, context = config.get("sliding_window"), config.get("max_position_embeddings", 4_096)
    if window is not None and window < context:
        raise InputError(f"{where}: sliding_window={window} is not supported, only full attention")
    try:
        heads = config["num_attention_heads"]
        model = Architecture(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            feed_forward=config["intermediate_size"],
            heads=heads,
            key_value_groups=config.get("num_key_value_heads") or heads,
            head_size=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
            norm_eps=config.get("rms_norm_eps", 1e-5),
            rotary_base=float(rotary.get("rope_theta", config.get("rope_theta", 10_000.0))),
            initial_std=config.get("initializer_range", 0.02),
        )
    except KeyError as error:
        raise InputError(f"{where}: the field {error} is missing") from None
    model.check()
    return model


def _checkpoint_config(config: dict[str, Any], model: Architecture, dtype: str) -> dict[str, Any]:
    return {
        "recipe": "from_huggingface",
        "model": to_plain(model),
        "batch": {"sequence_length": config.get("max_position_embeddings", 4_096)},
        "precision": {"parameters": dtype},
    }


class _Weights:
    """The tensors of a folder with one safetensors file, or several and an index."""

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        names = ["model.safetensors"]
        if index.is_file():
            names = sorted(set(read_json(index, what="weight index")["weight_map"].values()))
        self.folder = folder
        self.file_of: dict[str, Any] = {}
        for name in names:
            file = self._open(folder / name)
            self.file_of.update(dict.fromkeys(file.keys(), file))

    def _open(self, path: Path) -> Any:
        if not path.is_file():
            raise InputError(f"{path} is missing: expected the weights of a Hugging Face model in safetensors files")
        try:
            return safe_open(path, framework="pt")
        except SafetensorError as error:
            raise InputError(f"{path} is damaged or truncated ({error})") from None

    def read(self, name: str) -> Tensor:
        return self.file_of[name].get_tensor(name)


def _check_names(weights: _Weights, model: Architecture, *, tied: bool) -> None:
    wanted = {pair.theirs for pair in weight_pairs(model)}
    found = {name for name in weights.file_of if not name.endswith(KNOWN_AND_DROPPED)}
    missing = wanted - found - ({"lm_head.weight"} if tied else set())
    if missing or found - wanted:
        raise InputError(
            f"{weights.folder}: the weights do not fit config.json: "
            f"missing {sorted(missing)[:3] or 'none'}, unknown {sorted(found - wanted)[:3] or 'none'}"
        )


def _pieces(weights: _Weights, model: Architecture, *, tied: bool) -> Iterator[Piece]:
    pairs = weight_pairs(model)
    with progress_bar(total=len(pairs), unit="tensor", label="convert") as bar:
        for pair in pairs:
            name = pair.theirs
            if tied and name == "lm_head.weight":
                logger.info("the output layer is tied to the embedding: it becomes a copy")
                weight = weights.read("model.embed_tokens.weight").clone()
            else:
                weight = weights.read(name)
            if tuple(weight.shape) != pair.their_shape:
                raise InputError(
                    f"{weights.folder}: {name} has the shape {tuple(weight.shape)}, config.json says {pair.their_shape}"
                )
            if weight.dtype not in DTYPES.values():
                raise InputError(f"{weights.folder}: {name} is {weight.dtype}, expected one of {', '.join(DTYPES)}")
            box = Box((0,) * len(pair.shape), pair.shape)
            values = pair.to_ours(weight).reshape(-1)
            yield Piece(key=f"model/{pair.ours}", whole_shape=pair.shape, box=box, start=0, values=values)
            bar.update()
