"""The writer of Megatron's .bin/.idx pairs and our .json: all three files appear or none, in constant memory.

`IndexedDatasetWriter` appends documents to a temporary .bin and their lengths to a temporary file; `finish` streams the
index from it. `write_index` writes an index chunk by chunk; `put_in_place` renames the three files, the index last: if
there is a .idx, the other two are complete. The surprising fact: the format stores all lengths, then all pointers, so
the lengths are read twice; no array is longer than a chunk, even for a billion documents.
"""

from __future__ import annotations

import filecmp
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from megaphi.data.storage.files.token_files import LocalTokens, MappedFile, with_ending
from megaphi.data.storage.formats.indexed_dataset import (
    CODE_OF_DTYPE,
    HEADER,
    LONGEST_DOCUMENT,
    MAGIC,
    VERSION,
    pair_fingerprint,
)
from megaphi.errors import InputError
from megaphi.files import explain_write_errors, locked, sync_folder
from megaphi.json_text import json_bytes

CHUNK = 1 << 16
"""Most numbers of the index in memory at a time."""


class IndexedDatasetWriter:
    """Writer of PREFIX.bin, PREFIX.json and PREFIX.idx, which appear together or not at all.

    It is a context manager: add documents, then call `finish`. Leaving the block without `finish`, by an error or not,
    removes everything that was written. The bytes are those of Megatron's `IndexedDatasetBuilder` for the same
    documents. A killed process leaves `.partial` files in `temporary_folder` (on the same file system; by default the
    dataset's folder).
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
        self._cleanup = ExitStack()
        self._data: IO[bytes] | None = None
        self._lengths: IO[bytes] | None = None

    def __enter__(self) -> Self:
        with explain_write_errors(self.prefix):
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            self._data = self._temporary(".bin")
            self._lengths = self._temporary(".lengths")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data = self._lengths = None
        self._cleanup.close()

    def add_document(self, tokens: ArrayLike) -> None:
        """Append one document (one dimension; it may be empty)."""
        tokens = np.asarray(tokens)
        self.add_documents(tokens, [tokens.size])

    def add_documents(self, tokens: ArrayLike, lengths: ArrayLike) -> None:
        """Append several documents at once: their concatenated tokens, and the number of tokens of each."""
        tokens_N, lengths_N = np.asarray(tokens).reshape(-1), np.asarray(lengths, dtype=np.int64)
        if self._data is None:
            raise ValueError("this writer is not open: use it in a `with` block, before finish()")
        if lengths_N.sum() != tokens_N.size or (lengths_N < 0).any():
            raise ValueError(f"{tokens_N.size} tokens cannot be documents of {lengths_N.sum()} tokens in all")
        if (lengths_N > LONGEST_DOCUMENT).any():
            raise InputError(f"a document has {lengths_N.max():,} tokens; the format holds at most 2^31 - 1: split it")
        with explain_write_errors(with_ending(self.prefix, ".bin")):
            self._data.write(self._stored(tokens_N).data)
        self._note_lengths(lengths_N)

    def _note_lengths(self, lengths_N: NDArray[np.int64]) -> None:
        assert self._lengths is not None
        with explain_write_errors(with_ending(self.prefix, ".idx")):
            self._lengths.write(lengths_N.astype("<i4").data)
        self.document_count += len(lengths_N)
        self.token_count += int(lengths_N.sum())

    def _stored(self, tokens_N: NDArray[Any]) -> NDArray[Any]:
        """Convert tokens to the stored dtype. Raises InputError for tokens that it cannot hold."""
        stored_N = np.ascontiguousarray(tokens_N, dtype=self.dtype)
        if tokens_N.dtype != self.dtype and not np.array_equal(stored_N, tokens_N):
            raise ValueError(f"tokens {tokens_N.min()} .. {tokens_N.max()} do not fit in {self.dtype}")
        return stored_N

    def finish(self, description: dict[str, Any]) -> None:
        """Write the index and move all three files into place; `description` and their fingerprint are PREFIX.json."""
        data, lengths = self._data, self._lengths
        if data is None or lengths is None:
            raise ValueError("this writer is not open")
        with explain_write_errors(self.prefix):
            index = self._temporary(".idx")
            write_index(
                index,
                self.dtype,
                sequences=self.document_count,
                length_chunks=lambda: _read_lengths(lengths),
                documents=self.document_count,
                document_index_chunks=_ranges(self.document_count + 1),
            )
            described = {**description, "fingerprint": fingerprint_of(data, index)}
            put_in_place(self.prefix, data=data, index=index, description_file=self._describe(described))
        self._data = None

    def _describe(self, description: dict[str, Any]) -> IO[bytes]:
        file = self._temporary(".json")
        file.write(json_bytes(description))
        return file

    def _temporary(self, ending: str) -> IO[bytes]:
        return self._cleanup.enter_context(temporary_file(self.prefix, ending, folder=self._temporary_folder))


def fingerprint_of(data: IO[bytes], index: IO[bytes]) -> str:
    """`IndexedDataset.fingerprint` of the two files that are being written."""
    for file in (data, index):
        file.flush()
    mapped = MappedFile(Path(index.name), os.dup(index.fileno()))
    with closing(LocalTokens(Path(data.name), os.dup(data.fileno()))) as tokens, closing(mapped):
        return pair_fingerprint(mapped, tokens)


@contextmanager
def temporary_file(prefix: Path, ending: str, *, folder: Path) -> Iterator[IO[bytes]]:
    """A temporary file for one part of PREFIX, open for writing and reading; removed at the end unless renamed."""
    handle, name = tempfile.mkstemp(prefix=f".{prefix.name}{ending}.", suffix=".partial", dir=folder)
    os.fchmod(handle, 0o644)
    os.close(handle)
    file = open(name, "w+b")  # noqa: SIM115 (closed below, where the disk may be full; by its name it can be renamed)
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()
        with suppress(FileNotFoundError):
            os.unlink(name)


def write_index(
    file: IO[bytes],
    dtype: np.dtype[Any],
    *,
    sequences: int,
    length_chunks: Callable[[], Iterable[NDArray[Any]]],
    documents: int,
    document_index_chunks: Iterable[NDArray[Any]],
) -> None:
    """Stream an .idx: header, lengths, pointers, documents.

    Args:
        length_chunks: tokens of every sequence, in any number of arrays; called twice.
        document_index_chunks: first sequence of every document, and the number of sequences at the end: documents + 1.
    """
    file.write(HEADER.pack(MAGIC, VERSION, CODE_OF_DTYPE[dtype], sequences, documents + 1))
    for lengths_N in length_chunks():
        file.write(np.ascontiguousarray(lengths_N, dtype="<i4").data)
    offset = 0
    for lengths_N in length_chunks():
        ends_N = np.cumsum(lengths_N, dtype=np.int64) * dtype.itemsize + offset
        file.write((ends_N - np.asarray(lengths_N, dtype=np.int64) * dtype.itemsize).astype("<i8").data)
        offset = int(ends_N[-1]) if len(ends_N) else offset
    for indices_N in document_index_chunks:
        file.write(np.ascontiguousarray(indices_N, dtype="<i8").data)


def put_in_place(prefix: Path, *, data: IO[bytes], index: IO[bytes], description_file: IO[bytes] | None) -> None:
    """Sync the temporary files to disk and rename them; without a description an old PREFIX.json is removed."""
    for file in (data, index, description_file):
        if file is not None:
            file.flush()
            os.fsync(file.fileno())
            file.close()
    with locked(prefix.parent):
        _rename_parts(prefix, data=data, index=index, description_file=description_file)


def _rename_parts(prefix: Path, *, data: IO[bytes], index: IO[bytes], description_file: IO[bytes] | None) -> None:
    """Lock a dataset while it is renamed: the renames of two writers must not make a mixture of both."""
    final = {ending: with_ending(prefix, ending) for ending in (".bin", ".json", ".idx")}
    if not _is_same(index.name, final[".idx"]):
        final[".idx"].unlink(missing_ok=True)  # never an old index beside new tokens
    os.replace(data.name, final[".bin"])
    if description_file is None:
        final[".json"].unlink(missing_ok=True)
    else:
        os.replace(description_file.name, final[".json"])
    sync_folder(prefix.parent)  # a power cut must not keep the index without the tokens
    os.replace(index.name, final[".idx"])
    sync_folder(prefix.parent)


def _is_same(path: str, other: Path) -> bool:
    """Return whether two files hold the same bytes; an unchanged index may stay while its tokens are replaced."""
    try:
        return filecmp.cmp(path, other, shallow=False)
    except FileNotFoundError:
        return False


def _read_lengths(file: IO[bytes]) -> Iterator[NDArray[Any]]:
    file.flush()
    file.seek(0)
    while block := file.read(4 * CHUNK):
        yield np.frombuffer(block, dtype="<i4")


def _ranges(stop: int) -> Iterator[NDArray[np.int64]]:
    """Yield 0 .. stop - 1 in chunks."""
    for start in range(0, stop, CHUNK):
        yield np.arange(start, min(start + CHUNK, stop), dtype=np.int64)
