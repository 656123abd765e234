"""A GGUF file of a Llama model (llama.cpp's format) as a `WeightReader`: any rows of ours, dequantised on demand.

The header is read by gguf_file.py, rows by position; the `gguf` package (extra `megaphi[gguf]`) dequantises. llama.cpp
interleaves the two halves of each head's rows of queries and keys, because it rotates neighbours where other programs
rotate halves: they are separated again here. The tokenizer inside the file is written to files on demand (tokenizer.py)
and carried along with the weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megaphi.checkpoint.box import Box
from megaphi.checkpoint.weight_reader import box_from_rows
from megaphi.config import to_plain
from megaphi.conversion.formats.gguf.gguf_file import MAGIC, decoded, read_gguf
from megaphi.conversion.formats.gguf.header import check_header
from megaphi.conversion.formats.gguf.tokenizer import tokenizer_files
from megaphi.conversion.formats.understood import positive
from megaphi.conversion.formats.weight_names import Table, our_table, segments_within, their_shapes
from megaphi.errors import InputError
from megaphi.foreign.files import brief, damage_named, open_regular
from megaphi.model.architecture import Architecture, checked_architecture, refuse_more_than_stored
from megaphi.model.weights import EMBEDDING, weights_of

TOKENIZER = "tokenizer."
"""Prefix of the tokenizer's keys."""
INTERLEAVED = ("attn_q.weight", "attn_k.weight")
"""Tensors in which the two halves of each head's rows are interleaved."""


class GgufWeights:
    """An open file.

    Raises:
        InputError: the file is corrupted or truncated, holds another architecture or an unknown quantisation, or the
            package is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = Path(path)
        opened = read_gguf(self.folder)
        self._tokenizer = {name: value for name, value in opened.fields.items() if name.startswith(TOKENIZER)}
        with damage_named(self.folder, what="the metadata of a GGUF file"):
            of_the_model = {name: value for name, value in opened.fields.items() if name not in self._tokenizer}
            self._metadata: dict[str, Any] = {name: decoded(value) for name, value in of_the_model.items()}
        self._tensors = opened.tensors
        self._handle = open_regular(self.folder)
        self.architecture = self._read_architecture()
        stored = sum(math.prod(tensor.shape) for tensor in self._tensors.values())
        refuse_more_than_stored(self.architecture, stored, where=str(self.folder))
        self._table = _in_their_names(self.architecture)
        self._check_tensors()
        self.config: dict[str, Any] = {
            "recipe": "from_gguf",
            "model": to_plain(self.architecture),
            "batch": {"sequence_length": self._number("context_length", int)},
            "precision": {"parameters": str(self.dtype(EMBEDDING)).removeprefix("torch.")},
        }
        self.state: dict[str, Any] = {"step": 0, "imported_from": self.folder.name}

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)

    @property
    def carried(self) -> dict[str, Path]:
        """The tokenizer's files. Raises InputError if it cannot be read."""
        return self._carried

    @cached_property
    def _carried(self) -> dict[str, Path]:
        with damage_named(self.folder, what="a GGUF file whose tokenizer can be read"):
            fields = {name: decoded(value) for name, value in self._tokenizer.items()}
            return tokenizer_files(self.folder, fields, context=self._number("context_length", int))

    def dtype(self, name: str) -> torch.dtype:
        """bfloat16 if stored as such; float32 for everything else, quantised or not."""
        stored = {self._tensors[part.tensor].kind.name for part in self._table[name]}
        return torch.bfloat16 if stored == {"BF16"} else torch.float32

    def rows(self, name: str, start: int, end: int) -> Tensor:
        """Rows [start, end) of the matrix form of our weight `name`."""
        parts = [
            self._their_rows(part.tensor, part.first, part.first + part.rows)
            for part in segments_within(self._table[name], start, end)
        ]
        values = torch.from_numpy(np.concatenate(parts))
        return values.to(self.dtype(name))

    def box(self, name: str, box: Box) -> Tensor:
        return box_from_rows(self, name, box)

    def _their_rows(self, name: str, start: int, end: int) -> np.ndarray:
        """Rows of a tensor in the model's own order, as float32."""
        if not name.endswith(INTERLEAVED):
            return self._stored_rows(name, start, end)
        size = self.architecture.head_size
        first, last = start // size * size, -(-end // size) * size
        pairs = self._stored_rows(name, first, last).reshape(-1, size // 2, 2, self.architecture.hidden)
        halves = pairs.swapaxes(1, 2).reshape(last - first, -1)
        return halves[start - first : end - first]

    def _stored_rows(self, name: str, start: int, end: int) -> np.ndarray:
        from gguf import dequantize

        tensor = self._tensors[name]
        row_bytes = tensor.bytes // tensor.shape[0]  # of a norm: its elements are our rows
        data = self._bytes(name, tensor.first_byte + start * row_bytes, (end - start) * row_bytes)
        if len(tensor.shape) == 1:
            return dequantize(data, tensor.kind)
        return dequantize(data.reshape(end - start, row_bytes), tensor.kind)

    def _bytes(self, name: str, place: int, count: int) -> np.ndarray:
        data = os.pread(self._handle, count, place)
        if len(data) < count:
            raise InputError(f"{self.folder} ends at byte {place + len(data):,}, within {name}: it was cut off")
        return np.frombuffer(data, dtype=np.uint8)

    def _read_architecture(self) -> Architecture:
        kind = self._metadata.get("general.architecture")
        if kind != "llama":
            raise InputError(f"{self.folder} holds a model of the architecture {kind!r}; only 'llama' can be built")
        check_header(self._metadata, path=self.folder)
        if "rope_freqs.weight" in self._tensors:
            raise InputError(f"{self.folder}: rope_freqs.weight: rotary positions are scaled, which is not available")
        heads = self._number("attention.head_count", int)
        hidden = self._number("embedding_length", int)
        sizes = {
            "layers": self._number("block_count", int),
            "hidden": hidden,
            "feed_forward": self._number("feed_forward_length", int),
            "heads": heads,
            "key_value_groups": self._number("attention.head_count_kv", int, default=heads),
            "head_size": self._number("attention.key_length", int, default=hidden // heads),
            "vocabulary": self._number("vocab_size", int, default=self._embedding_rows()),
            "tied_embeddings": "output.weight" not in self._tensors,
            "norm_eps": round(self._number("attention.layer_norm_rms_epsilon", float), 12),  # stored in 32 bits
            "rotary_base": self._number("rope.freq_base", float, default=10_000.0),
        }
        model = checked_architecture(sizes, where=str(self.folder))
        rotated = self._number("rope.dimension_count", int, default=model.head_size)
        if rotated != model.head_size:
            raise InputError(
                f"{self.folder}: llama.rope.dimension_count={rotated}: rotary positions turn a part of each head "
                f"({model.head_size} wide), which is not available"
            )
        return model

    def _number(self, key: str, kind: type, *, default: Any = None) -> Any:
        value = self._metadata.get(f"llama.{key}", default)
        if not positive(value, {}) or value != kind(value):
            raise InputError(f"{self.folder}: llama.{key} is {brief(value)}, expected a positive number")
        return kind(value)

    def _embedding_rows(self) -> int | None:
        tensor = self._tensors.get("token_embd.weight")
        return None if tensor is None else tensor.shape[0]

    def _check_tensors(self) -> None:
        """Check names, shapes and types."""
        shapes = their_shapes(self.architecture, self._table)
        missing, unknown = shapes.keys() - self._tensors.keys(), self._tensors.keys() - shapes.keys()
        if missing or unknown:
            raise InputError(
                f"{self.folder}: the tensors do not fit its metadata: missing {sorted(missing)[:3] or 'none'}, "
                f"unknown {sorted(unknown)[:3] or 'none'}"
            )
        for name, shape in shapes.items():
            self._check_tensor(name, shape)

    def _check_tensor(self, name: str, shape: Sequence[int]) -> None:
        from gguf import dequantize

        tensor = self._tensors[name]
        if tensor.shape != tuple(shape):
            raise InputError(f"{self.folder}: {name} has the shape {tensor.shape}, its metadata says {tuple(shape)}")
        try:
            dequantize(self._stored_sample(name), tensor.kind)
        except RuntimeError:
            raise InputError(
                f"{self.folder}: {name} is quantised as {tensor.kind.name}, which cannot be dequantised here"
            ) from None

    def _stored_sample(self, name: str) -> np.ndarray:
        """The smallest part of a tensor that can be dequantised."""
        from gguf import GGML_QUANT_SIZES

        tensor = self._tensors[name]
        _, block_bytes = GGML_QUANT_SIZES[tensor.kind]
        return self._bytes(name, tensor.first_byte, block_bytes)


def is_gguf(path: Path) -> bool:
    """By its first bytes."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _in_their_names(model: Architecture) -> Table:
    """The table of a Llama model under llama.cpp's tensor names."""
    weights = weights_of(model)
    names = {theirs: name for one in weights for theirs, name in zip(one.huggingface["llama"], one.gguf, strict=True)}
    table = our_table(model, "llama")
    return {ours: [replace(part, tensor=names[part.tensor]) for part in parts] for ours, parts in table.items()}
