"""Megatron's tokenised dataset, PREFIX.bin and PREFIX.idx, read by the piece and written whole or not at all.

The .bin holds nothing but tokens, one document after the other. The .idx, little-endian throughout:

    9 bytes "MMIDIDX\\0\\0" | uint64 version 1 | uint8 dtype code | uint64 sequences s | uint64 d = documents + 1
    s x int32 tokens of each sequence | s x int64 byte offset of each in the .bin | d x int64 first sequence of each

A third file of ours, PREFIX.json, says what the two cannot: which tokenizer the ids belong to and what was read. The
surprising fact: the header is 34 bytes, so every array behind it is unaligned; NumPy reads that, C code must copy.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import struct
import tempfile
from array import array
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from megaphi.data.token_files import DatasetFiles, explain_read_failure, open_local_files, read_pieces, with_ending
from megaphi.errors import InputError
from megaphi.files import explain_write_errors, sync_folder, write_json

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
CHECKED_POINTERS = 64
"""Pointers compared with their neighbours when a dataset is opened: all of a small index, a spread of a large one."""
FINGERPRINT_BLOCK = 1 << 12
FINGERPRINT_BLOCKS = 16
FINGERPRINT_WHOLE = 1 << 18
"""Files up to this many bytes are part of a fingerprint as a whole."""


def best_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """The dtype that Megatron stores such ids in: uint16 below 65,500 tokens, else int32."""
    return np.dtype("<u2") if vocabulary_size < 65_500 else np.dtype("<i4")


class IndexedDataset:
    """Documents of tokens: opening costs less than a millisecond and no memory, whatever the size.

    `tokens` sees the .bin as one stream; `document` sees documents, each of which may be several sequences of the index
    (ours are always one). Both read from the file when they are called; threads may share a dataset. It keeps two files
    open until `close`, the end of a `with` block, or its own.

    Raises `InputError` when a file is missing, truncated or not of this format, when the two do not belong together,
    and, from then on, wherever a file turns out to be shorter than it was.
    """

    def __init__(self, prefix: str | os.PathLike[str], *, files: DatasetFiles | None = None) -> None:
        """`files`: where they are not PREFIX.bin and PREFIX.idx of the file system (`remote.py`)."""
        self.prefix = os.fspath(prefix)
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
    def document_count(self) -> int:
        return len(self.document_indices) - 1

    def document(self, number: int) -> NDArray[Any]:
        """Tokens of document `number`, counted from 0, in the stored dtype."""
        return self.documents([number])[0]

    def documents(self, numbers: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Several documents in this order, read in one go: (their tokens one after the other, the length of each)."""
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
                f"{self.files.index.name} is damaged: document {numbers_N[np.argmax(wrong_N)]:,} is no part of the .bin"
            )
        return self._read(start_N, end_N - start_N), (end_N - start_N) // self.dtype.itemsize

    def tokens(self, start: int, count: int) -> NDArray[Any]:
        """`count` tokens from token `start` of the whole .bin on, in the stored dtype."""
        if not 0 <= start <= start + count <= self.token_count:
            raise IndexError(f"tokens {start} .. {start + count} of {self.prefix}, which has {self.token_count}")
        return self._read(*(np.array([value * self.dtype.itemsize]) for value in (start, count)))

    def _first_byte(self, sequence_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where these sequences begin in the .bin; the one after the last begins at its end."""
        sequences, end = len(self.sequence_pointers), self.files.data.size
        inside_N = (sequence_N >= 0) & (sequence_N < sequences)
        byte_N = np.where(sequence_N == sequences, end, -1)
        byte_N[inside_N] = self.sequence_pointers[sequence_N[inside_N]]
        return byte_N

    def _read(self, offset_N: NDArray[np.int64], bytes_N: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty(int(bytes_N.sum()), dtype=np.uint8)
        with self.files.data.pieces(offset_N, bytes_N) as pieces:
            failure = read_pieces(pieces, out)
        if failure is not None:
            kind, piece, byte, value = failure
            name, where = self.files.data.name, int(pieces.run_P[piece])
            before = int(pieces.bytes_P[:piece][pieces.run_P[:piece] == where].sum())
            raise InputError(explain_read_failure(name, kind, byte=int(offset_N[where]) + before + byte, value=value))
        return out.view(self.dtype)

    @functools.cached_property
    def description(self) -> dict[str, Any] | None:
        """What PREFIX.json says of the tokenizer and the inputs; None for a dataset that another program wrote."""
        return self.files.read_description()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 that tells datasets apart without reading them whole, wherever they are.

        Over the size of each of the two files and its bytes: all of a file up to 256 KiB; of a larger one 16 blocks of
        4 KiB, spread evenly from its first byte to its last. The index holds every length, so blocks of it change when
        a document anywhere before them does.
        """
        digest = hashlib.sha256()
        index, data = self.files.index, self.files.data
        index.check_size()
        starts, count = _sampled(len(index.content))
        digest.update(len(index.content).to_bytes(8, "little"))
        for start in starts:
            digest.update(index.content[start : start + count].tobytes())
        digest.update(data.size.to_bytes(8, "little"))
        for block in data.samples(*_sampled(data.size)):
            digest.update(block)
        return digest.hexdigest()


def _sampled(size: int) -> tuple[list[int], int]:
    """Where the blocks of a fingerprint begin in a file of `size` bytes, and how long they are."""
    if size <= FINGERPRINT_WHOLE:
        return [0], size
    last = size - FINGERPRINT_BLOCK
    return [last * block // (FINGERPRINT_BLOCKS - 1) for block in range(FINGERPRINT_BLOCKS)], FINGERPRINT_BLOCK


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
            f"{path} is {'truncated' if len(index) < expected else 'damaged'}: its header announces {sequences:,} "
            f"sequences and {max(0, indices - 1):,} documents, {expected:,} bytes; it has {len(index):,}. {remedy}"
        )
    return DTYPE_OF_CODE[code], sequences, indices


def _check_pair(dataset: IndexedDataset) -> None:
    """Refuse an index that contradicts itself or the .bin beside it; at most `CHECKED_POINTERS` pointers are read."""
    lengths, pointers, documents = dataset.sequence_lengths, dataset.sequence_pointers, dataset.document_indices
    path, data = dataset.files.index.name, dataset.files.data
    itemsize, sequences = dataset.dtype.itemsize, len(lengths)
    if len(documents) == 0 or documents[0] != 0 or documents[-1] != sequences:
        raise InputError(f"{path} is damaged: its documents do not cover its {sequences:,} sequences exactly")
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
        raise InputError(f"{path} is damaged: its pointers do not match its lengths (near sequence {wrong:,})")


class IndexedDatasetWriter:
    """Write PREFIX.bin, PREFIX.json and PREFIX.idx so that all appear, or nothing.

    Use as a context manager: add documents, then `finish`. Leaving the block without `finish`, by an error or not,
    removes what was written. The index comes last: where there is a .idx, the other two are complete. The bytes are
    those of Megatron's `IndexedDatasetBuilder` for the same documents. What a kill leaves behind is a `.partial` file
    in `temporary_folder` (on the same file system; by default the folder of the dataset).
    """

    def __init__(
        self,
        prefix: str | os.PathLike[str],
        dtype: DTypeLike,
        *,
        temporary_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.prefix = Path(prefix)
        self._temporary_folder = Path(temporary_folder or self.prefix.parent)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        if self.dtype not in CODE_OF_DTYPE:
            raise ValueError(f"tokens cannot be stored as {self.dtype}: use one of {[*map(str, CODE_OF_DTYPE)]}")
        self.document_count = 0
        self.token_count = 0
        self._lengths = array("i")
        self._data: IO[bytes] | None = None

    def __enter__(self) -> Self:
        with explain_write_errors(self.prefix):
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            self._data = self._temporary(".bin")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._data is not None:
            _discard(self._data)
            self._data = None

    def add_document(self, tokens: ArrayLike) -> None:
        """Append one document (one dimension; it may be empty)."""
        tokens = np.asarray(tokens)
        self.add_documents(tokens, [tokens.size])

    def add_documents(self, tokens: ArrayLike, lengths: ArrayLike) -> None:
        """Append several documents at once: their tokens one after the other, and the number of tokens of each."""
        tokens_N, lengths_N = np.asarray(tokens).reshape(-1), np.asarray(lengths, dtype=np.int64)
        if self._data is None:
            raise ValueError("this writer is not open: use it in a `with` block, before finish()")
        if lengths_N.sum() != tokens_N.size or (lengths_N < 0).any():
            raise ValueError(f"{tokens_N.size} tokens cannot be documents of {lengths_N.sum()} tokens in all")
        if (lengths_N > LONGEST_DOCUMENT).any():
            raise InputError(f"a document has {lengths_N.max():,} tokens; the format holds at most 2^31 - 1: split it")
        with explain_write_errors(with_ending(self.prefix, ".bin")):
            self._data.write(self._stored(tokens_N).data)
        self._lengths.frombytes(lengths_N.astype(np.int32).tobytes())
        self.document_count += len(lengths_N)
        self.token_count += tokens_N.size

    def _stored(self, tokens_N: NDArray[Any]) -> NDArray[Any]:
        """The tokens in the stored dtype, none of them changed by it."""
        stored_N = np.ascontiguousarray(tokens_N, dtype=self.dtype)
        if tokens_N.dtype != self.dtype and not np.array_equal(stored_N, tokens_N):
            raise ValueError(f"tokens {tokens_N.min()} .. {tokens_N.max()} do not fit in {self.dtype}")
        return stored_N

    def finish(self, description: dict[str, Any]) -> None:
        """Write the index and put all three files in place; `description` becomes PREFIX.json."""
        if self._data is None:
            raise ValueError("this writer is not open")
        json.dumps(description)  # before anything is replaced
        final = {ending: with_ending(self.prefix, ending) for ending in (".bin", ".json", ".idx")}
        with explain_write_errors(self.prefix), ExitStack() as cleanup:
            index = self._temporary(".idx")
            cleanup.callback(_discard, index)
            self._write_index(index)
            _flush_to_disk(index)
            _flush_to_disk(self._data)
            final[".idx"].unlink(missing_ok=True)  # never an old index beside new tokens
            os.replace(self._data.name, final[".bin"])
            write_json(final[".json"], description)
            os.replace(index.name, final[".idx"])
            sync_folder(self.prefix.parent)
        self._data = None

    def _temporary(self, ending: str) -> IO[bytes]:
        prefix, folder = f".{self.prefix.name}{ending}.", self._temporary_folder
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".partial", dir=folder)
        os.fchmod(handle, 0o644)
        os.close(handle)
        return open(name, "wb")  # a file that knows its name

    def _write_index(self, file: IO[bytes]) -> None:
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        file.write(HEADER.pack(MAGIC, VERSION, CODE_OF_DTYPE[self.dtype], len(lengths), len(lengths) + 1))
        file.write(lengths.astype("<i4").data)
        sizes = lengths.astype("<i8") * self.dtype.itemsize
        file.write((np.cumsum(sizes) - sizes).data)
        file.write(np.arange(len(lengths) + 1, dtype="<i8").data)


def _flush_to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _discard(file: IO[bytes]) -> None:
    """Close a temporary file and remove it, if it has not been put in place."""
    with suppress(OSError):  # closing flushes, and the disk may be full
        file.close()
    with suppress(FileNotFoundError):
        os.unlink(file.name)
