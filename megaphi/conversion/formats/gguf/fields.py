"""A GGUF file through the `gguf` package, with the metadata's arrays read in one go.

The package makes several NumPy views of each element of an array. A tokenizer is arrays of as many elements as it has
tokens and merges: three seconds for the 98,000 of SmolLM2, in every rank that opens the file, and longer for every
larger vocabulary. Here the elements are found by arithmetic on the bytes; `contents` of a field returns the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from megaphi.errors import InputError


def open_gguf(path: Path) -> Any:
    """The package's reader, open. Raises InputError if the file is not whole, or the package is not installed."""
    try:
        reader = _reader_class()
    except ImportError:
        raise InputError(f"{path}: reading GGUF files needs the package gguf: pip install 'megaphi[gguf]'") from None
    try:
        opened = reader(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is corrupted or truncated: it is not a complete GGUF file ({error})") from None
    if opened.byte_order != "I":
        raise InputError(f"{path} is big-endian, which is not supported")
    return opened


def _reader_class() -> Any:
    from gguf import GGUFReader, GGUFValueType

    class ArraysInOneGo(GGUFReader):
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            """(bytes, parts, which of the parts are the contents, types) of the value at `orig_offs`."""
            if self.byte_order != "I" or raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind, count = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
            of, start = GGUFValueType(int(kind[0])), orig_offs + 12
            if of == GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            if of == GGUFValueType.STRING:
                values, end = _strings(np.asarray(self.data), start, int(count[0]))
            else:
                values = [_numbers(np.asarray(self.data), start, int(count[0]), self.gguf_scalar_to_np[of])]
                end = start + values[0].nbytes
            places = list(range(2, 2 + len(values)))
            return end - orig_offs, [kind, count, *values], places, [GGUFValueType.ARRAY, of]

    return ArraysInOneGo


def _strings(data: np.ndarray, start: int, count: int) -> tuple[list[np.ndarray], int]:
    """The bytes of each of `count` strings, a length in 8 bytes before each, and where the last one ends."""
    found, view = [], data.data
    for number in range(count):
        first = start + 8
        start = first + int.from_bytes(view[start:first], "little")
        if start > len(data):
            raise ValueError(f"it ends within string {number:,} of {count:,}")
        found.append(data[first:start])
    return found, start


def _numbers(data: np.ndarray, start: int, count: int, kind: Any) -> np.ndarray:
    if start + count * np.dtype(kind).itemsize > len(data):
        raise ValueError(f"it ends within an array of {count:,} numbers")
    return np.frombuffer(data, kind, count, start)
