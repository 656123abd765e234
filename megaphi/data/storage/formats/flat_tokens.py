"""A dataset of consecutive tokens in one file, from some byte on, without an index of documents.

It is the common form of .npy files, headerless files and users' classes, once their headers are read. Documents are
found by the token that ends them (`document_end` of the source), searched in just the stretches that a batch reads, so
no index is built or kept. Shape legend: N runs, K document starts.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megaphi.data.storage.files.remote import RemoteStore
from megaphi.data.storage.files.token_files import (
    LocalTokens,
    TokenFile,
    is_url,
    open_to_read,
    read_description,
    read_run,
    sampled,
)
from megaphi.data.storage.formats.token_dataset import DocumentIndex, TokenLayout
from megaphi.errors import InputError

DocumentStarts = Callable[[int, int], NDArray[np.int64]]
"""(first token, number of tokens) -> the tokens of that stretch at which documents begin, ascending."""


class FlatTokens:
    """The tokens of one file, a `token_dataset.TokenDataset`."""

    def __init__(
        self,
        name: str,
        data: TokenFile,
        dtype: np.dtype[Any],
        *,
        first_byte: int = 0,
        token_count: int,
        document_end: int | None = None,
        document_starts: DocumentStarts | None = None,
        read_description: Callable[[], dict[str, Any] | None] = lambda: None,
        identity: str = "",
    ) -> None:
        """Documents begin at `document_starts` or, without it, after every token `document_end`.

        `identity` is part of the fingerprint: it distinguishes datasets of the same bytes.
        """
        self.name, self.data, self.dtype = name, data, dtype
        self.first_byte, self.token_count = first_byte, token_count
        self.document_end = document_end
        self._starts = document_starts or (self._behind_ends if document_end is not None else None)
        self.has_documents = self._starts is not None
        self._read_description, self._identity = read_description, identity

    def __repr__(self) -> str:
        return f"FlatTokens({self.name!r}: {self.token_count:,} tokens)"

    @property
    def document_count(self) -> int | None:
        """None: it is not known without reading all tokens; 0 for an empty dataset."""
        return None if self.token_count else 0

    @functools.cached_property
    def description(self) -> dict[str, Any] | None:
        return self._read_description()

    def tokens(self, start: int, count: int) -> NDArray[Any]:
        if not 0 <= start <= start + count <= self.token_count:
            raise IndexError(f"tokens {start} .. {start + count} of {self.name}, which has {self.token_count}")
        width = self.dtype.itemsize
        return read_run(self.data, self.first_byte + start * width, count * width).view(self.dtype)

    def document_index(self, start_N: NDArray[np.int64], count_N: NDArray[np.int64]) -> DocumentIndex:
        """The index of documents that begin within these runs; tokens between the runs are not searched."""
        assert self._starts is not None
        runs = zip(start_N.tolist(), count_N.tolist(), strict=True)
        start_K = np.unique(np.concatenate([[0], *(self._starts(start, count) for start, count in runs)]))
        start_K = start_K.astype(np.int64)
        return DocumentIndex(start_K, np.arange(len(start_K) + 1), self.token_count, 1, self.name)

    def _behind_ends(self, start: int, count: int) -> NDArray[np.int64]:
        (ends_K,) = np.nonzero(self.tokens(start, max(0, count - 1)) == self.document_end)
        return start + 1 + ends_K

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over the dtype, the size and the bytes: all of them up to 256 KiB, else 16 blocks of 4 KiB.

        The blocks are spread evenly from the first byte to the last. A change between them that keeps the size goes
        unnoticed, as in a .bin whose index does not change.
        """
        digest = hashlib.sha256(f"{self.dtype.str} {self.first_byte} {self.token_count} {self._identity}\n".encode())
        for block in self.data.samples(*sampled(self.data.size)):
            digest.update(block)
        return digest.hexdigest()

    def close(self) -> None:
        self.data.close()


class FlatSpan(NamedTuple):
    """Position and dtype of the tokens in a file."""

    dtype: np.dtype[Any]
    first_byte: int
    token_count: int


def open_flat(
    path: str,
    layout: TokenLayout,
    remote: RemoteStore,
    find_span: Callable[[str, TokenFile, TokenLayout], FlatSpan],
) -> FlatTokens:
    """Open the dataset of a file; `find_span` reads its header, if any. If it raises, the file is closed."""
    data, read_description = _open_token_file(path, remote)
    try:
        span = find_span(path, data, layout)
    except BaseException:
        data.close()
        raise
    return FlatTokens(
        path,
        data,
        span.dtype,
        first_byte=span.first_byte,
        token_count=span.token_count,
        document_end=layout.document_end,
        read_description=read_description,
    )


def _open_token_file(path: str, remote: RemoteStore) -> tuple[TokenFile, Callable[[], dict[str, Any] | None]]:
    """(the file, on disk or in object storage; how to read the .json of its name, which may tell its tokenizer)."""
    beside = path.rpartition(".")[0] + ".json"
    if is_url(path):
        return remote.tokens(path), functools.partial(remote.read_description, beside)
    descriptor = open_to_read(Path(path), hint=lambda: "check the folder and the name")
    return LocalTokens(Path(path), descriptor), functools.partial(read_description, Path(beside))


def counted(name: str, size: int, dtype: np.dtype[Any], *, first_byte: int = 0) -> int:
    """Tokens of a file of `size` bytes; raises InputError where they do not fill it."""
    tokens, rest = divmod(size - first_byte, dtype.itemsize)
    if rest:
        raise InputError(
            f"{name} has {size:,} bytes, no whole number of {dtype.name} tokens: it is truncated, or of another dtype"
        )
    return tokens
