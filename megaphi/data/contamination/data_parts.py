"""Training data in parts that are scanned alone: pieces of text files, and stretches of documents of token datasets.

A dataset is known by its prefix, or by either of its files; a folder that holds datasets stands for all of them. Its
tokens are turned back into text by the tokenizer that made them, without the tokens that are none: ends, starts,
sentinels. Documents are whole there, however long.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.text.bad_records import Refuse
from megaphi.data.text.documents import FilePiece, LineAt, placed_texts, plan_pieces
from megaphi.data.text.input_files import LeftOut, find_files
from megaphi.decontamination.findings import TextPlace
from megaphi.errors import InputError
from megaphi.tokenizer.interface import Tokenizer
from megaphi.tokenizer.open_tokenizer import PHI4, open_path

PART_BYTES = 32 << 20
"""Bytes of a part: what is lost when a scan is ended, and a second or three of work."""


class DataPart(Protocol):
    """A part of the training data; it is pickled for other processes."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def identity(self) -> str:
        """All that decides its texts."""
        ...

    def texts(self, number: int, *, text_key: str, refuse: Refuse) -> Iterator[tuple[TextPlace, str]]:
        """Its texts in order; `number` is that of the part."""
        ...


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of a file of texts."""

    piece: FilePiece

    @property
    def size_bytes(self) -> int:
        return self.piece.size_bytes

    @property
    def identity(self) -> str:
        return f"{_identity(self.piece.path)} {self.piece.start} {self.piece.stop}"

    def texts(self, number: int, *, text_key: str, refuse: Refuse) -> Iterator[tuple[TextPlace, str]]:
        for count, (place, text) in enumerate(placed_texts(self.piece, text_key=text_key, refuse=refuse)):
            if isinstance(place, LineAt):
                yield TextPlace(number, count, str(place.path), place.byte), text
            else:
                yield TextPlace(number, count, place), text


@dataclass(frozen=True, slots=True)
class TokenPart:
    """Documents [start, stop) of a dataset of tokens."""

    prefix: str
    start: int
    stop: int
    size_bytes: int
    tokenizer: str
    """As `open_path` takes it."""
    vocabulary: int | None

    @property
    def identity(self) -> str:
        files = [_identity(Path(f"{self.prefix}{ending}")) for ending in (".bin", ".idx")]
        return f"{files} {self.start} {self.stop}"

    def texts(self, number: int, *, text_key: str, refuse: Refuse) -> Iterator[tuple[TextPlace, str]]:
        tokenizer, no_text = _opened(self.tokenizer, self.vocabulary)
        with IndexedDataset(self.prefix) as dataset:
            for document in range(self.start, self.stop):
                ids = dataset.document(document)
                text = tokenizer.decode(ids[~np.isin(ids, no_text)].tolist())
                yield TextPlace(number, document, f"{self.prefix}: document {document}"), text


def plan_parts(paths: Sequence[str], *, tokenizer: str, vocabulary: int | None, left_out: LeftOut) -> list[DataPart]:
    """Cut the training data into parts.

    Args:
        paths: files, folders and patterns of texts, and prefixes or folders of datasets.
        tokenizer: of the datasets, as `open_path` takes it.
        vocabulary: number of Phi-4's tokens; None: as the dataset says.
        left_out: collects the files of folders that are not read.

    Raises:
        InputError: an input is missing or unreadable, or was made with another tokenizer.
    """
    parts: list[DataPart] = []
    for path in dict.fromkeys(paths):
        prefixes = _prefixes(path)
        for prefix in prefixes:
            parts += _token_parts(prefix, tokenizer=tokenizer, vocabulary=vocabulary)
        if not prefixes:
            files = find_files([path], left_out=left_out)
            parts += [TextPart(piece) for file in files for piece in plan_pieces(file, piece_bytes=PART_BYTES)]
    return parts


def _prefixes(path: str) -> list[str]:
    """The datasets that a path means; none if it means texts."""
    place = Path(path)
    if place.is_dir():
        return sorted(str(index)[: -len(".idx")] for index in place.rglob("*.idx"))
    prefix = path[: -len(".idx")] if path.endswith((".bin", ".idx")) else path
    return [prefix] if Path(f"{prefix}.idx").is_file() else []


def _token_parts(prefix: str, *, tokenizer: str, vocabulary: int | None) -> Iterator[TokenPart]:
    with IndexedDataset(prefix) as dataset:
        described = dataset.description or {}
        documents, size = dataset.document_count, dataset.token_count * dataset.dtype.itemsize
    given = (vocabulary or described.get("vocabulary_size")) if tokenizer == PHI4 else None
    if tokenizer == PHI4 and given is None:
        raise InputError(f"{prefix} does not say which vocabulary it was made with: give --vocabulary")
    opened, _ = _opened(tokenizer, given)
    if described.get("tokenizer") not in (None, opened.fingerprint):
        raise InputError(f"{prefix} was made with another tokenizer than {tokenizer}: name its own with --tokenizer")
    count = max(1, min(documents, size // PART_BYTES))
    for part in range(count):
        start, stop = documents * part // count, documents * (part + 1) // count
        yield TokenPart(prefix, start, stop, size // count, tokenizer, given)


@functools.cache
def _opened(path: str, vocabulary: int | None) -> tuple[Tokenizer, NDArray[np.int64]]:
    """The tokenizer, and its tokens that are no text."""
    tokenizer = open_path(path, vocabulary=vocabulary)
    return tokenizer, np.array(sorted({*tokenizer.special_ids.values(), *tokenizer.text_start}), np.int64)


def _identity(path: Path) -> str:
    status = path.stat()
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"
