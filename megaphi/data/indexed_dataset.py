"""Megatron's tokenised dataset, PREFIX.bin and PREFIX.idx, read through memory maps.

The .bin holds nothing but tokens, one document after the other. The .idx, little-endian throughout:

    9 bytes "MMIDIDX\\0\\0" | uint64 version 1 | uint8 dtype code | uint64 sequences s | uint64 d = documents + 1
    s x int32 tokens of each sequence | s x int64 byte offset of each in the .bin | d x int64 first sequence of each

A third file of ours, PREFIX.json, says what the two cannot: which tokenizer the ids belong to and what was read. The
surprising fact: the header is 34 bytes, so every array behind it is unaligned; NumPy reads that, C code must copy.
"""

from __future__ import annotations

import functools
import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaphi.errors import InputError
from megaphi.files import read_json

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, dtype code, sequences, documents + 1."""

DTYPE_OF_CODE: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    8: np.dtype("<u2"),
}
"""Megatron's codes; 6 and 7 are floating-point numbers, which are no tokens."""
CODE_OF_DTYPE = {dtype: code for code, dtype in DTYPE_OF_CODE.items()}

LONGEST_DOCUMENT = (1 << 31) - 1
CHECKED_POINTERS = 1_024
"""Pointers compared with their neighbours when a dataset is opened: all of a small index, a spread of a large one."""
FINGERPRINT_BLOCK = 1 << 20
FINGERPRINT_BLOCKS = 16


def best_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """The dtype that Megatron stores such ids in: uint16 below 65,500 tokens, else int32."""
    return np.dtype("<u2") if vocabulary_size < 65_500 else np.dtype("<i4")


class IndexedDataset:
    """Documents of tokens, memory-mapped: opening costs milliseconds and no memory, whatever the size.

    `tokens` sees the .bin as one stream; `document` sees documents, each of which may be several sequences of the index
    (ours are always one). Raises `InputError` when a file is missing, truncated or not of this format, or when the two
    do not belong together.
    """

    def __init__(self, prefix: str | os.PathLike[str]) -> None:
        self.prefix = Path(prefix)
        self.index_path = with_ending(prefix, ".idx")
        self.data_path = with_ending(prefix, ".bin")
        index = _map_file(self.index_path, prefix=self.prefix)
        self.dtype, sequences, indices = _read_header(index, self.index_path)
        lengths_end = HEADER.size + 4 * sequences
        pointers_end = lengths_end + 8 * sequences
        self.sequence_lengths: NDArray[np.int32] = index[HEADER.size : lengths_end].view("<i4")
        self.sequence_pointers: NDArray[np.int64] = index[lengths_end:pointers_end].view("<i8")
        self.document_indices: NDArray[np.int64] = index[pointers_end : pointers_end + 8 * indices].view("<i8")
        data = _map_file(self.data_path, prefix=self.prefix)
        _check_pair(self, data_bytes=len(data))
        self._tokens: NDArray[Any] = data.view(self.dtype)

    def __repr__(self) -> str:
        return f"IndexedDataset({str(self.prefix)!r}: {self.document_count:,} documents, {self.token_count:,} tokens)"

    def __len__(self) -> int:
        """Number of documents."""
        return self.document_count

    @property
    def document_count(self) -> int:
        return len(self.document_indices) - 1

    @property
    def token_count(self) -> int:
        return len(self._tokens)

    def document(self, number: int) -> NDArray[Any]:
        """Tokens of document `number`, counted from 0: a read-only view in the stored dtype."""
        if not 0 <= number < self.document_count:
            raise IndexError(f"document {number} of {self.prefix}, which has {self.document_count}")
        first, last = int(self.document_indices[number]), int(self.document_indices[number + 1])
        return self._tokens[self._first_token(first) : self._first_token(last)]

    def tokens(self, start: int, count: int) -> NDArray[Any]:
        """`count` tokens from token `start` of the whole .bin on: a read-only view in the stored dtype."""
        if not 0 <= start <= start + count <= self.token_count:
            raise IndexError(f"tokens {start} .. {start + count} of {self.prefix}, which has {self.token_count}")
        return self._tokens[start : start + count]

    def _first_token(self, sequence: int) -> int:
        if sequence == len(self.sequence_pointers):
            return self.token_count
        return int(self.sequence_pointers[sequence]) // self.dtype.itemsize

    @functools.cached_property
    def description(self) -> dict[str, Any] | None:
        """What PREFIX.json says of the tokenizer and the inputs; None for a dataset that another program wrote."""
        path = with_ending(self.prefix, ".json")
        return read_json(path, what="dataset description") if path.exists() else None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 that tells datasets apart without reading them whole.

        Over the size of each of the two files and 16 blocks of 1 MiB spread evenly from its first to its last byte: the
        whole file up to 16 MiB, a sample of a larger one.
        """
        digest = hashlib.sha256()
        for path in (self.index_path, self.data_path):
            size = path.stat().st_size
            digest.update(size.to_bytes(8, "little"))
            with open(path, "rb") as file:
                for start in _block_starts(size):
                    file.seek(start)
                    digest.update(file.read(FINGERPRINT_BLOCK))
        return digest.hexdigest()


def with_ending(prefix: str | os.PathLike[str], ending: str) -> Path:
    """PREFIX.bin of PREFIX; a prefix may hold dots itself (`web.2024`)."""
    return Path(os.fspath(prefix) + ending)


def _block_starts(size: int) -> list[int]:
    if size <= FINGERPRINT_BLOCK * FINGERPRINT_BLOCKS:
        return list(range(0, size, FINGERPRINT_BLOCK))
    last = size - FINGERPRINT_BLOCK
    return [last * block // (FINGERPRINT_BLOCKS - 1) for block in range(FINGERPRINT_BLOCKS)]


def _map_file(path: Path, *, prefix: Path) -> NDArray[np.uint8]:
    """The bytes of a file as a read-only map (an empty file cannot be mapped)."""
    try:
        empty = path.stat().st_size == 0
        return np.empty(0, dtype=np.uint8) if empty else np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    except FileNotFoundError:
        beside = [ending for ending in (".bin", ".idx") if with_ending(prefix, ending).exists()]
        hint = f"only {prefix}{beside[0]} is there" if beside else "give the prefix of a .bin/.idx pair without ending"
        raise InputError(f"dataset file not found: {path} ({hint}; `megaphi tokenize` writes both)") from None
    except OSError as error:
        raise InputError(f"cannot read the dataset file {path}: {error.strerror or error}") from error


def _read_header(index: NDArray[np.uint8], path: Path) -> tuple[np.dtype[Any], int, int]:
    """(dtype, sequences, documents + 1) of an .idx whose size agrees with them."""
    remedy = "copy the file again, or tokenise again"
    if not index[: len(MAGIC)].tobytes() == MAGIC[: len(index)]:
        raise InputError(f"{path} is not an index of Megatron's .bin/.idx format: it does not start with MMIDIDX")
    if len(index) < HEADER.size:
        raise InputError(f"{path} is truncated: {len(index)} bytes, the header alone has {HEADER.size}. {remedy}")
    _, version, code, sequences, indices = HEADER.unpack(index[: HEADER.size].tobytes())
    if version != VERSION:
        raise InputError(f"{path} has version {version} of the .bin/.idx format; this program reads version {VERSION}")
    if code not in DTYPE_OF_CODE:
        known = ", ".join(f"{code} {dtype.name}" for code, dtype in DTYPE_OF_CODE.items())
        raise InputError(f"{path} says its tokens have dtype code {code}; whole-number types are {known}")
    expected = HEADER.size + 12 * sequences + 8 * indices
    if len(index) not in (expected, expected + sequences):  # a multimodal index ends with one int8 mode per sequence
        raise InputError(
            f"{path} is {'truncated' if len(index) < expected else 'damaged'}: its header announces {sequences:,} "
            f"sequences and {max(0, indices - 1):,} documents, {expected:,} bytes; it has {len(index):,}. {remedy}"
        )
    return DTYPE_OF_CODE[code], sequences, indices


def _check_pair(dataset: IndexedDataset, *, data_bytes: int) -> None:
    """Refuse an index that contradicts itself or the .bin beside it; at most `CHECKED_POINTERS` pointers are read."""
    lengths, pointers, documents = dataset.sequence_lengths, dataset.sequence_pointers, dataset.document_indices
    path, itemsize, sequences = dataset.index_path, dataset.dtype.itemsize, len(dataset.sequence_lengths)
    if len(documents) == 0 or documents[0] != 0 or documents[-1] != sequences:
        raise InputError(f"{path} is damaged: its documents do not cover its {sequences:,} sequences exactly")
    described = int(pointers[-1]) + int(lengths[-1]) * itemsize if sequences else 0
    if data_bytes != described:
        what = "is truncated" if data_bytes < described else "does not belong to its index"
        raise InputError(
            f"{dataset.data_path} {what}: it has {data_bytes:,} bytes, {path.name} describes {described:,}."
            " Copy both files again, or tokenise again"
        )
    some = np.unique(np.linspace(0, sequences - 1, min(sequences, CHECKED_POINTERS)).astype(np.int64))
    ends = pointers[some] + lengths[some] * np.int64(itemsize)
    starts_of_next = np.where(some + 1 < sequences, pointers[np.minimum(some + 1, sequences - 1)], described)
    if sequences and (pointers[0] != 0 or (ends != starts_of_next).any() or (lengths[some] < 0).any()):
        wrong = int(some[np.argmax(ends != starts_of_next)])
        raise InputError(f"{path} is damaged: its pointers do not match its lengths (near sequence {wrong:,})")
