"""A dataset that is read by a class of the user's: `my_data.py:Shards`, or `my_data.py:Shards:ARGUMENT`.

    class Shards:
        def __init__(self, folder: str): ...                          # the argument as text; without one, no argument
        def __len__(self) -> int: ...                                 # number of tokens
        def read(self, start: int, count: int) -> numpy.ndarray: ...  # exactly those tokens, integers in one dimension

Two more methods are optional: `document_starts(start, count)` gives the tokens of that stretch at which documents
begin; `fingerprint()` gives a text that changes with the tokens, and without it a sample of them is hashed. Calls come
one at a time. The tokens go through a file in memory, so that all formats are read by the same code: `csrc/index`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaphi.data.storage.files.remote import RemoteStore
from megaphi.data.storage.files.token_files import Pieces
from megaphi.data.storage.formats.flat_tokens import FlatTokens
from megaphi.data.storage.formats.token_dataset import DatasetFormat, TokenLayout
from megaphi.errors import InputError
from megaphi.own_code import is_own_code, load_own, running, split_name

WIDTH = 8
"""Bytes of a token in that file: int64, whatever the class gives."""


class OwnTokens:
    """Tokens read by a user's class, as a `token_files.TokenFile` of int64."""

    is_remote = False

    def __init__(self, name: str, path: Path, make: Callable[[], Any]) -> None:
        self.name, self._path = name, path
        self._one_at_a_time = threading.Lock()
        self._own = self._call("cannot be made", make)
        for method in ("__len__", "read"):
            if not callable(getattr(self._own, method, None)):
                raise InputError(f"dataset {name!r}: {type(self._own).__name__} has no method {method}")
        self.size = WIDTH * self._call("__len__", lambda: len(self._own))

    def _call(self, what: str, action: Callable[[], Any]) -> Any:
        with self._one_at_a_time:
            return running(self._path, f"dataset {self.name!r}: {what}", action)

    def optional(self, method: str) -> Callable[..., Any] | None:
        """A method of the class, with its errors turned into InputErrors; None if the class lacks it."""
        found = getattr(self._own, method, None)
        return None if found is None else lambda *values: self._call(method, lambda: found(*values))

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """Read tokens by their numbers, and check their count and type."""
        where = f"read({start}, {count})"
        return self._whole_numbers(where, self._call(where, lambda: self._own.read(start, count)), count=count)

    def document_starts(self, start: int, count: int) -> NDArray[np.int64]:
        """Document starts in a stretch, according to the class."""
        where = f"document_starts({start}, {count})"
        found = self._call(where, lambda: self._own.document_starts(start, count))
        starts_K = self._whole_numbers(where, found, count=None)
        if ((starts_K < start) | (starts_K >= start + count)).any():
            raise InputError(f"dataset {self.name!r}: {where} gave places outside of the stretch")
        return starts_K

    def _whole_numbers(self, where: str, found: Any, *, count: int | None) -> NDArray[np.int64]:
        try:
            values = np.asarray(found)
        except ValueError:  # rows of several lengths
            values = np.empty(0, dtype=object)
        if values.ndim != 1 or (values.dtype.kind not in "iu" and values.size) or count not in (None, values.size):
            size = "" if count is None else f"{count} "
            raise InputError(
                f"dataset {self.name!r}: {where} gave {values.dtype} of shape {values.shape}, not {size}whole numbers"
                " in one row"
            )
        return np.ascontiguousarray(values, dtype=np.int64)  # a uint64 beyond int64 turns negative: no token

    @contextmanager
    def pieces(self, offset_N: NDArray[np.int64], bytes_N: NDArray[np.int64]) -> Iterator[Pieces]:
        """Read all runs into a temporary file, one after the other; it is closed with the block."""
        runs = zip((offset_N // WIDTH).tolist(), (bytes_N // WIDTH).tolist(), strict=True)
        tokens = [self.read(start, count) for start, count in runs]
        descriptor = os.memfd_create("tokens")
        try:
            for one in tokens:
                _write_fully(descriptor, one)
            number_N = np.arange(len(offset_N))
            yield Pieces([descriptor], np.zeros_like(number_N), np.cumsum(bytes_N) - bytes_N, bytes_N, number_N)
        finally:
            os.close(descriptor)

    def prepare(self, offset_N: NDArray[np.int64], bytes_N: NDArray[np.int64]) -> None:
        """No-op: the class is called when its tokens are needed."""

    def samples(self, starts: Sequence[int], count: int) -> list[bytes]:
        ends = [min(self.size, start + count) for start in starts]
        pairs = [(start // WIDTH, end // WIDTH) for start, end in zip(starts, ends, strict=True)]
        return [self.read(start, end - start).tobytes() for start, end in pairs]

    def close(self) -> None:
        if (close := self.optional("close")) is not None:
            close()


def _write_fully(descriptor: int, tokens: NDArray[np.int64]) -> None:
    content = tokens.tobytes()
    written = 0
    while written < len(content):
        written += os.write(descriptor, content[written:])


def open_own_dataset(path: str, layout: TokenLayout, remote: RemoteStore) -> FlatTokens:
    """Open the dataset that `file.py:Class:ARGUMENT` reads.

    Raises:
        InputError: the file or class does not exist, the class fails or lacks a method, or the source names a dtype.
    """
    name, argument = split_argument(path)
    if "://" in name:
        raise InputError(f"dataset {path!r}: Python is run from this machine's disk only, not from a URL")
    if layout.dtype is not None:
        raise InputError(f"dataset {path!r}: a class reads whole numbers of any dtype: leave the source's dtype out")
    make = load_own(name, what="dataset")
    file, _ = split_name(name, what="dataset")
    data = OwnTokens(path, file, make if argument is None else lambda: make(argument))
    fingerprint = data.optional("fingerprint")
    return FlatTokens(
        path,
        data,
        np.dtype("<i8"),
        token_count=data.size // WIDTH,
        document_end=layout.document_end,
        document_starts=None if data.optional("document_starts") is None else data.document_starts,
        identity="" if fingerprint is None else str(fingerprint()),
    )


def split_argument(path: str) -> tuple[str, str | None]:
    """Split `file.py:Class:ARGUMENT` into (`file.py:Class`, ARGUMENT or None); the argument may hold colons."""
    file, colon, rest = path.partition(".py:")
    own_class, has_argument, argument = rest.partition(":")
    return file + colon + own_class, argument if has_argument else None


def _file_of(path: str) -> str:
    return path.partition(".py:")[0].removesuffix(".py") + ".py"


OWN_DATASET = DatasetFormat(is_own_code, _file_of, open_own_dataset)
