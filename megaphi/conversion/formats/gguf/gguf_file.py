"""The header of a GGUF file: metadata and the place of every tensor, checked before anything is believed.

Layout (llama.cpp, version 3): magic, version, numbers of tensors and of fields; the fields, each a name, a type and a
value; the tensors, each a name, its dimensions from the innermost, a type and an offset; padding; values. The `gguf`
package reads the same, but maps the file (one that shrinks kills the process), takes counts at their word, recurses
into arrays, and spends seconds on the arrays of a large tokenizer, of which it makes several NumPy views per element.
Texts stay bytes here until they are asked for: a tokenizer's may be broken without harm to the weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from megaphi.checkpoint.tensor_file import MOST_NUMBERS
from megaphi.errors import InputError
from megaphi.foreign.files import brief, brief_reason, open_regular

MAGIC, VERSIONS = b"GGUF", (2, 3)
LARGEST_HEADER = 1 << 26
"""Size limit of the header: the largest tokenizers known take a fifth of it."""
MOST_FIELDS, MOST_TENSORS, MOST_DIMENSIONS, DEEPEST_ARRAY = 1 << 16, 1 << 20, 4, 4
NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""Type of a value -> NumPy's."""
STRING, ARRAY = 8, 9
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufTensor:
    """A tensor, and the place of its values in the file."""

    kind: Any
    """The package's `GGMLQuantizationType`."""
    shape: tuple[int, ...]
    """From the outermost dimension, as everybody else lists them."""
    first_byte: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufFile:
    """A checked header."""

    fields: Mapping[str, Any]
    """Name -> value; texts are bytes, see `decoded`."""
    tensors: Mapping[str, GgufTensor]


def read_gguf(path: Path) -> GgufFile:
    """Read and check the header.

    Raises:
        InputError: the file is not whole, its header contradicts itself, or the package `gguf` is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise InputError(f"{path}: reading GGUF files needs the package gguf: pip install 'megaphi[gguf]'") from None
    with open(open_regular(path), "rb", buffering=_BUFFER_BYTES) as file:
        header = _Header(file, os.fstat(file.fileno()).st_size)
        try:
            return header.read(gguf)
        except InputError as error:
            raise InputError(f"{path} {error}") from None
        except (ValueError, KeyError, OverflowError) as error:
            raise InputError(
                f"{path} is corrupted or truncated: it is not a complete GGUF file ({brief_reason(error)})"
            ) from None


def decoded(value: Any) -> Any:
    """A field's value with texts as texts. Raises UnicodeDecodeError."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list) and value and isinstance(value[0], bytes | list):
        return [decoded(item) for item in value]
    return value


class _Header:
    """An open file, read from its start to the end of its header. Its methods raise ValueError and KeyError."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self._left = min(size, LARGEST_HEADER)

    def read(self, gguf: Any) -> GgufFile:
        if self._take(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self._number(4)
        if version & 0xFFFF == 0 and version:
            raise InputError("is big-endian, which is not supported")
        if version not in VERSIONS:
            raise ValueError(f"version {version}")
        tensor_count, field_count = self._number(8), self._number(8)
        if tensor_count > MOST_TENSORS or field_count > MOST_FIELDS:
            raise ValueError(f"{tensor_count:,} tensors and {field_count:,} fields")
        fields: dict[str, Any] = {}
        for _ in range(field_count):
            name = self._name()
            if name in fields:
                raise ValueError(f"the field {name} comes twice")
            fields[name] = self._value(self._number(4), depth=0)
        described = [self._described() for _ in range(tensor_count)]
        alignment = fields.get("general.alignment", 32)
        if not (type(alignment) is int and 8 <= alignment <= 1 << 16 and alignment.bit_count() == 1):
            raise ValueError(f"general.alignment is {brief(alignment)}")
        first = -(-self._file.tell() // alignment) * alignment
        return GgufFile(fields=fields, tensors=self._placed(described, gguf, first=first, alignment=alignment))

    def _placed(
        self, described: list[tuple[str, tuple[int, ...], int, int]], gguf: Any, *, first: int, alignment: int
    ) -> dict[str, GgufTensor]:
        """The tensors: each of a known type, in whole blocks, within the file, and none over another."""
        tensors: dict[str, GgufTensor] = {}
        reached = 0
        for name, shape, code, offset in sorted(described, key=lambda one: one[3]):
            kind = gguf.GGMLQuantizationType(code)
            per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            if name in tensors or offset % alignment or offset < reached or shape[-1] % per_block:
                raise ValueError(f"the tensor {name} comes twice, overlaps another, or is not in whole blocks")
            count = math.prod(shape) // per_block * block_bytes
            reached = offset + count
            if first + reached > self._size:
                raise InputError(f"is truncated: {name} ends at byte {first + reached:,}, the file at {self._size:,}")
            tensors[name] = GgufTensor(kind=kind, shape=shape, first_byte=first + offset, bytes=count)
        return tensors

    def _described(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, shape from the outermost dimension, code of the type, offset) of the next tensor."""
        name, dimensions = self._name(), self._number(4)
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise ValueError(f"{name} has {dimensions} dimensions")
        shape = tuple(self._number(8) for _ in range(dimensions))[::-1]
        if not all(1 <= size <= MOST_NUMBERS for size in shape):
            raise ValueError(f"{name} has the shape {shape}")
        return name, shape, self._number(4), self._number(8)

    def _value(self, kind: int, *, depth: int) -> Any:
        if kind == STRING:
            return self._take(self._number(8))
        if kind != ARRAY:
            dtype = np.dtype(NUMBERS[kind])
            return np.frombuffer(self._take(dtype.itemsize), dtype)[0].item()
        of, count = self._number(4), self._number(8)
        if of == STRING:
            return self._strings(count)
        if of == ARRAY:
            if depth == DEEPEST_ARRAY or count > self._left:
                raise ValueError(f"{count:,} arrays within arrays")
            return [self._value(ARRAY, depth=depth + 1) for _ in range(count)]
        dtype = np.dtype(NUMBERS[of])
        return np.frombuffer(self._take(count * dtype.itemsize), dtype).tolist()

    def _strings(self, count: int) -> list[bytes]:
        """The bytes of `count` texts, a length in 8 bytes before each."""
        if count * 8 > self._left:
            raise ValueError(f"it ends within {count:,} texts")
        found, read, left = [], self._file.read, self._left
        for _ in range(count):
            length = int.from_bytes(read(8), "little")
            left -= 8 + length
            if left < 0:
                raise ValueError(f"it ends within {count:,} texts")
            found.append(read(length))
        self._left = left
        return found

    def _name(self) -> str:
        name = self._take(self._number(8)).decode()
        if not name.isprintable() or not name:
            raise ValueError(f"the name {brief(name)}")
        return name

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _take(self, count: int) -> bytes:
        """The next bytes; none are read for a count that the file cannot hold."""
        if count > self._left:
            raise ValueError(f"it ends before {count:,} bytes that it announces, or its header is too long")
        self._left -= count
        return self._file.read(count)
