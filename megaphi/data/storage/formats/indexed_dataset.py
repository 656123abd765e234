"""Megatron's tokenised dataset, PREFIX.bin and PREFIX.idx, read piecewise.

The .bin holds nothing but tokens, one document after the other. The .idx is little-endian throughout:

    9 bytes "MMIDIDX\\0\\0" | uint64 version 1 | uint8 dtype code | uint64 sequences s | uint64 d = documents + 1
    s x int32 tokens of each sequence | s x int64 byte offset of each in the .bin | d x int64 first sequence of each

A third file of ours, PREFIX.json, adds the tokenizer of the ids and the inputs that were read. The surprising fact: the
header has 34 bytes, so every array after it is unaligned; NumPy reads that, C code must copy.
"""

from __future__ import annotations

import functools
import hashlib
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.data.storage.files.token_files import (
    DatasetFiles,
    MappedFile,
    TokenFile,
    is_url,
    open_local_files,
    read_run,
    read_runs,
    sampled,
)
from megaphi.data.storage.formats.token_dataset import DatasetFormat, DocumentIndex, TokenLayout
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.data.storage.files.remote import RemoteStore

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
CHECKED_POINTERS = 16
"""Pointers compared with their neighbours when a dataset is opened: all of a small index, a spread of a large one."""


def best_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Megatron's dtype for the ids of a vocabulary: uint16 below 65,500 tokens, else int32."""
    return np.dtype("<u2") if vocabulary_size < 65_500 else np.dtype("<i4")


class IndexedDataset:
    """An open .bin/.idx pair; opening takes less than a millisecond and no memory, whatever its size.

    `tokens` reads the .bin as one stream; `document` reads documents, each of which may be several sequences of the
    index (ours are always one). Both read from the file when they are called; threads may share a dataset. Two files
    stay open until `close`, the end of a `with` block, or the end of the object.

    Raises `InputError` when a file is missing, truncated or not of this format, when the two do not belong together,
    and, from then on, wherever a file turns out to be shorter than it was.
    """

    first_byte = 0
    has_documents = True

    def __init__(self, prefix: str | os.PathLike[str], *, files: DatasetFiles | None = None) -> None:
        """`files`: the two files, if they are not PREFIX.bin and PREFIX.idx on a file system (`remote.py`)."""
        self.prefix = self.name = os.fspath(prefix)
        self.files = files or open_local_files(self.prefix)
        try:
            self._read_index()
        except BaseException:
            self.close()
            raise

    def _read_index(self) -> None:
        index, path = self.files.index.content, self.files.index.name
        self.dtype, sequences, indices = _read_header(index, path)
        lengths_end = HEADER.size + 4 * sequences
        pointers_end = lengths_end + 8 * sequences
        self.sequence_lengths: NDArray[np.int32] = index[HEADER.size : lengths_end].view("<i4")
        self.sequence_pointers: NDArray[np.int64] = index[lengths_end:pointers_end].view("<i8")
        self.document_indices: NDArray[np.int64] = index[pointers_end : pointers_end + 8 * indices].view("<i8")
        _check_pair(self)
        self.token_count = self.files.data.size // self.dtype.itemsize

    def __repr__(self) -> str:
        return f"IndexedDataset({self.prefix!r}: {self.document_count:,} documents, {self.token_count:,} tokens)"

    def __len__(self) -> int:
        """Number of documents."""
        return self.document_count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close both files; arrays that look into the index stay valid."""
        self.files.data.close()
        self.files.index.close()

    @property
    def data(self) -> TokenFile:
        return self.files.data

    @property
    def document_count(self) -> int:
        return len(self.document_indices) - 1

    def document(self, number: int) -> NDArray[Any]:
        """Tokens of document `number`, counted from 0, in the stored dtype."""
        return self.documents([number])[0]

    def documents(self, numbers: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Read several documents at once, in this order: (their concatenated tokens, the length of each)."""
        numbers_N = np.asarray(numbers, dtype=np.int64).reshape(-1)
        outside_N = (numbers_N < 0) | (numbers_N >= self.document_count)
        if outside_N.any():
            wrong = numbers_N[np.argmax(outside_N)]
            raise IndexError(f"document {wrong} of {self.prefix}, which has {self.document_count}")
        self.files.index.check_size()
        start_N, end_N = (self._first_byte(self.document_indices[numbers_N + more]) for more in (0, 1))
        size = self.files.data.size
        wrong_N = (start_N < 0) | (start_N > end_N) | (end_N > size) | (start_N % self.dtype.itemsize != 0)
        if wrong_N.any():
            raise InputError(
                f"{self.files.index.name} is corrupted: document {numbers_N[np.argmax(wrong_N)]:,} is not in the .bin"
            )
        return read_runs(self.data, start_N, end_N - start_N).view(self.dtype), (end_N - start_N) // self.dtype.itemsize

    def tokens(self, start: int, count: int) -> NDArray[Any]:
        """`count` tokens from token `start` of the whole .bin on, in the stored dtype."""
        if not 0 <= start <= start + count <= self.token_count:
            raise IndexError(f"tokens {start} .. {start + count} of {self.prefix}, which has {self.token_count}")
        width = self.dtype.itemsize
        return read_run(self.data, start * width, count * width).view(self.dtype)

    def document_edges(self) -> NDArray[np.int64]:
        """First token of every document, and the end of the last: [documents + 1]. Reads the whole index."""
        self.files.index.check_size()
        edge_D = self._first_byte(self.document_indices)
        wrong_D = (np.diff(edge_D) < 0) | (edge_D[:-1] < 0) | (edge_D[1:] > self.files.data.size)
        if wrong_D.any() or (edge_D % self.dtype.itemsize).any():
            raise InputError(f"{self.files.index.name} is corrupted: documents do not follow one another in the .bin")
        return edge_D // self.dtype.itemsize

    def document_index(self, start_N: NDArray[np.int64], count_N: NDArray[np.int64]) -> DocumentIndex:
        """The whole index, for any runs: it is memory-mapped."""
        self.files.index.check_size()
        pointers, documents, size = self.sequence_pointers, self.document_indices, self.data.size
        return DocumentIndex(pointers, documents, size, self.dtype.itemsize, self.files.index.name)

    def _first_byte(self, sequence_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """First byte of each of these sequences in the .bin; the one after the last begins at its end."""
        sequences, end = len(self.sequence_pointers), self.files.data.size
        inside_N = (sequence_N >= 0) & (sequence_N < sequences)
        byte_N = np.where(sequence_N == sequences, end, -1)
        byte_N[inside_N] = self.sequence_pointers[sequence_N[inside_N]]
        return byte_N

    @functools.cached_property
    def description(self) -> dict[str, Any] | None:
        """Contents of PREFIX.json about the tokenizer and the inputs; None for a dataset that another program wrote."""
        return self.files.read_description()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 that identifies a dataset without reading all of it, wherever it is stored.

        It covers the size of each of the two files and its bytes: all of a file up to 256 KiB; of a larger one 16
        blocks of 4 KiB, spread evenly from its first byte to its last. The index holds all lengths and offsets, so its
        blocks change with the length of any document before them.
        """
        return pair_fingerprint(self.files.index, self.files.data)


def pair_fingerprint(index: MappedFile, data: TokenFile) -> str:
    """`IndexedDataset.fingerprint` of two open files."""
    digest = hashlib.sha256()
    index.check_size()
    starts, count = sampled(len(index.content))
    digest.update(len(index.content).to_bytes(8, "little"))
    for start in starts:
        digest.update(index.content[start : start + count].tobytes())
    digest.update(data.size.to_bytes(8, "little"))
    for block in data.samples(*sampled(data.size)):
        digest.update(block)
    return digest.hexdigest()


def _read_header(index: NDArray[np.uint8], path: str) -> tuple[np.dtype[Any], int, int]:
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
            f"{path} is {'truncated' if len(index) < expected else 'corrupted'}: its header announces {sequences:,} "
            f"sequences and {max(0, indices - 1):,} documents, {expected:,} bytes; it has {len(index):,}. {remedy}"
        )
    return DTYPE_OF_CODE[code], sequences, indices


def _check_pair(dataset: IndexedDataset) -> None:
    """Refuse an index that contradicts itself or the .bin beside it; at most `CHECKED_POINTERS` pointers are read."""
    lengths, pointers, documents = dataset.sequence_lengths, dataset.sequence_pointers, dataset.document_indices
    path, data = dataset.files.index.name, dataset.files.data
    itemsize, sequences = dataset.dtype.itemsize, len(lengths)
    if len(documents) == 0 or documents[0] != 0 or documents[-1] != sequences:
        raise InputError(f"{path} is corrupted: its documents do not cover its {sequences:,} sequences exactly")
    described = int(pointers[-1]) + int(lengths[-1]) * itemsize if sequences else 0
    if data.size != described:
        what = "is truncated" if data.size < described else "does not belong to its index"
        raise InputError(
            f"{data.name} {what}: it has {data.size:,} bytes, {Path(path).name} describes {described:,}."
            " Copy both files again, or tokenise again"
        )
    some = np.unique(np.linspace(0, sequences - 1, min(sequences, CHECKED_POINTERS)).astype(np.int64))
    ends = pointers[some] + lengths[some] * np.int64(itemsize)
    starts_of_next = np.where(some + 1 < sequences, pointers[np.minimum(some + 1, sequences - 1)], described)
    if sequences and (pointers[0] != 0 or (ends != starts_of_next).any() or (lengths[some] < 0).any()):
        wrong = int(some[np.argmax(ends != starts_of_next)])
        raise InputError(f"{path} is corrupted: its pointers do not match its lengths (near sequence {wrong:,})")


def open_indexed_pair(prefix: str, layout: TokenLayout, remote: RemoteStore) -> IndexedDataset:
    """Open the pair of a prefix, on disk or in object storage; it describes itself completely.

    Raises:
        InputError: a file is missing or corrupted, or the source names a dtype or a token that ends documents.
    """
    for field, value, said in (
        ("dtype", layout.dtype, "what its tokens are"),
        ("document_end", layout.document_end, "where documents begin"),
    ):
        if value is not None:
            raise InputError(
                f"{prefix}.idx says itself {said}: leave the source's {field}={value} out, which is for formats"
                " without an index"
            )
    return IndexedDataset(prefix, files=remote.open(prefix) if is_url(prefix) else None)


INDEXED_PAIR = DatasetFormat(lambda path: True, lambda path: path + ".idx", open_indexed_pair)
