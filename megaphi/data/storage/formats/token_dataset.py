"""The interface of a dataset of any format, and what a source declares about files that do not say it themselves.

A dataset is a stretch of tokens, numbered from 0, in one file or in what answers like one (`token_files.TokenFile`).
Sources, orders, ledgers, reports and the C++ reader know `TokenDataset` only. Each format is one module with a
`DatasetFormat`, and one line in `dataset_formats.py`.
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
    """uint16 or uint32, of files without a header."""
    document_end: int | None = None
    """The token that ends every document, in formats that do not list their documents."""


class DocumentIndex(NamedTuple):
    """Document starts, as far as the requested runs need them (`csrc/index/documents.h`)."""

    pointers_K: NDArray[np.int64]
    """First byte of each sequence, ascending from 0; bytes are counted from the first token."""
    documents_D: NDArray[np.int64]
    """Sequences that begin a document."""
    bytes: int
    """End of the last sequence, in bytes."""
    token_bytes: int
    name: str
    """Its origin, for messages."""


class TokenDataset(Protocol):
    """Tokens of one dataset, open. Threads may share it. Failures to read are an `InputError` that names the file."""

    name: str
    """The path it was opened by, for messages; a ledger compares fingerprints, never names."""
    dtype: np.dtype[Any]
    """Type of the stored tokens: one that `reader.code_of` knows."""
    first_byte: int
    """Offset of token 0 in `data`; the others follow without a gap."""
    token_count: int
    has_documents: bool
    """True if `document_index` knows where documents begin."""

    @property
    def data(self) -> TokenFile:
        """The file that holds the tokens' bytes."""
        ...

    @property
    def document_count(self) -> int | None:
        """None where only reading everything would tell."""
        ...

    @functools.cached_property
    def description(self) -> dict[str, Any] | None:
        """Contents of the .json beside it, which names the tokenizer; None where there is none."""
        ...

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of what a change of the tokens changes, found without reading all of a large dataset."""
        ...

    def tokens(self, start: int, count: int) -> NDArray[Any]:
        """`count` tokens from token `start` on, in the stored dtype; raises IndexError outside the dataset."""
        ...

    def document_index(self, start_N: NDArray[np.int64], count_N: NDArray[np.int64]) -> DocumentIndex:
        """Return the document index of these runs of tokens; only where `has_documents`."""
        ...

    def close(self) -> None: ...


class DatasetFormat(NamedTuple):
    """A way to store tokens: which paths mean it, and how one is opened."""

    claims: Callable[[str], bool]
    """Return whether a path, glob or URL is of this format, judged by its spelling alone."""
    marker: Callable[[str], str]
    """The file whose presence says that the dataset of a path is there; of a glob, what to look for."""
    open: Callable[[str, TokenLayout, RemoteStore], TokenDataset]
    """Raises InputError where it is missing, corrupted or not of this format, or the layout contradicts it."""
