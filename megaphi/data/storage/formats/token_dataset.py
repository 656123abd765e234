"""The interface of a dataset of any format, and a source's declaration for files that do not describe themselves.

A dataset is a stretch of tokens, numbered from 0, in a file or an object with a file's interface
(`token_files.TokenFile`). Sources, orders, ledgers, reports and the C++ reader know only `TokenDataset`. Each format is
one module with a `DatasetFormat`, and one line in `dataset_formats.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from megaphi.data.storage.files.token_files import TokenFile

if TYPE_CHECKING:
    from megaphi.data.storage.files.remote import RemoteStore


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLayout:
    """A source's declaration for files that do not describe themselves."""

    dtype: str | None = None
    """dtype of files without a header: uint16 or uint32."""
    document_end: int | None = None
    """The token that ends every document, in formats without an index of documents."""


class DocumentIndex(NamedTuple):
    """Index of documents, as far as the requested runs need it (`csrc/index/documents.h`)."""

    pointers_K: NDArray[np.int64]
    """First byte of each sequence, ascending from 0; bytes are counted from the first token."""
    documents_D: NDArray[np.int64]
    """Numbers of the sequences that begin a document."""
    bytes: int
    """End of the last sequence, in bytes."""
    token_bytes: int
    name: str
    """Its file, for messages."""


class TokenDataset(Protocol):
    """An open dataset, which threads may share. Failed reads raise an `InputError` that names the file."""

    name: str
    """The path it was opened by, for messages; ledgers compare fingerprints, never names."""
    dtype: np.dtype[Any]
    """dtype of the stored tokens, one that `reader.code_of` knows."""
    first_byte: int
    """Offset of token 0 in `data`; the others follow without gaps."""
    token_count: int
    has_documents: bool
    """True if `document_index` can be called."""

    @property
    def data(self) -> TokenFile:
        """The file that holds the tokens' bytes."""
        ...

    @property
    def document_count(self) -> int | None:
        """Number of documents; None if it cannot be known without reading everything."""
        ...

    @functools.cached_property
    def description(self) -> dict[str, Any] | None:
        """Contents of the .json beside it, which names the tokenizer; None without one."""
        ...

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 that changes with the tokens, computed without reading all of a large dataset."""
        ...

    def tokens(self, start: int, count: int) -> NDArray[Any]:
        """`count` tokens from token `start` on, in the stored dtype; raises IndexError outside the dataset."""
        ...

    def document_index(self, start_N: NDArray[np.int64], count_N: NDArray[np.int64]) -> DocumentIndex:
        """The document index of these runs of tokens; only if `has_documents`."""
        ...

    def close(self) -> None: ...


class DatasetFormat(NamedTuple):
    """A format of datasets: the paths that it claims, and the function that opens one."""

    claims: Callable[[str], bool]
    """Return whether a path, glob or URL is of this format, judged by its spelling alone."""
    marker: Callable[[str], str]
    """Maps a path or glob to the file or pattern whose existence means that the dataset exists."""
    open: Callable[[str, TokenLayout, RemoteStore], TokenDataset]
    """Opens a dataset. Raises InputError if it is missing, corrupted, of another format, or contradicts the layout."""
