"""The two open files of a dataset: tokens are read with pread, the index is memory-mapped.

Reading a memory map of a file that has shrunk kills the process without a message. So tokens are read through a file
descriptor, where a short file is an error that can be reported, with one system call per run of tokens. The index is
only searched and stays a map; the file's size is checked before every use (`MappedFile.check_size`). Each keeps one
descriptor, so there are two per dataset. Shape legend: N runs, P pieces of runs.
"""

from __future__ import annotations

import errno
import functools
import mmap
import os
import stat
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from megaphi.compiled.module import compiled
from megaphi.errors import InputError
from megaphi.files import read_object
from megaphi.own_code import is_own_code

CHANGED = "it was changed or cut while in use: put the file back as it was, or start again with the new one"
FINGERPRINT_BLOCK = 1 << 12
FINGERPRINT_BLOCKS = 16
FINGERPRINT_WHOLE = 1 << 18
"""Files up to this many bytes are hashed whole for a fingerprint."""


class Pieces(NamedTuple):
    """Pieces of open files that make up runs of bytes, in the order of the runs."""

    descriptors: Sequence[int]
    file_P: NDArray[np.int64]
    offset_P: NDArray[np.int64]
    bytes_P: NDArray[np.int64]
    run_P: NDArray[np.int64]
    """Run to which each piece belongs."""


class TokenFile(Protocol):
    """The interface of a file of tokens, from which a `TokenDataset` is read."""

    name: str
    """Path or URL, for messages."""
    size: int
    is_remote: bool
    """True if `prepare` has an effect."""

    def pieces(self, offset_N: NDArray[np.int64], bytes_N: NDArray[np.int64]) -> AbstractContextManager[Pieces]:
        """Locate these runs of bytes; the descriptors are open inside the block."""
        ...

    def prepare(self, offset_N: NDArray[np.int64], bytes_N: NDArray[np.int64]) -> None:
        """Announce runs of bytes that will be read soon."""
        ...

    def samples(self, starts: Sequence[int], count: int) -> list[bytes]:
        """Read `count` bytes (fewer at the end) from each of a few places, and nothing around them."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class DatasetFiles:
    """The open files of one dataset, and the reader of its description."""

    index: MappedFile
    data: TokenFile
    read_description: Callable[[], dict[str, Any] | None]


class LocalTokens:
    """A file of tokens on a file system: one descriptor, closed by `close` or with the object."""

    is_remote = False

    def __init__(self, path: Path, descriptor: int) -> None:
        self.name = str(path)
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self._closing = weakref.finalize(self, os.close, descriptor)

    @property
    def descriptor(self) -> int:
        if not self._closing.alive:
            raise ValueError(f"{self.name} is closed")
        return self._descriptor

    def pieces(self, offset_N: NDArray[np.int64], bytes_N: NDArray[np.int64]) -> AbstractContextManager[Pieces]:
        runs_N = np.arange(len(offset_N))
        return nullcontext(Pieces([self.descriptor], np.zeros_like(runs_N), offset_N, bytes_N, runs_N))

    def prepare(self, offset_N: NDArray[np.int64], bytes_N: NDArray[np.int64]) -> None:
        """No-op: the system reads ahead in files by itself."""

    def samples(self, starts: Sequence[int], count: int) -> list[bytes]:
        try:
            return [os.pread(self.descriptor, count, start) for start in starts]
        except OSError as error:
            raise InputError(f"cannot read {self.name}: {error.strerror or error}") from error

    def close(self) -> None:
        self._closing()


class MappedFile:
    """The first `size` bytes of a file as a read-only map; all of it by default."""

    def __init__(self, path: Path, descriptor: int, *, name: str | None = None, size: int | None = None) -> None:
        """Map a file, and close `descriptor`: the map has one of its own."""
        self.name = name or str(path)
        try:
            length = os.fstat(descriptor).st_size
            self._map = mmap.mmap(descriptor, length, prot=mmap.PROT_READ) if length else None
            self._advise("MADV_RANDOM")
        except OSError as error:  # the map's own descriptor, or the address space
            raise InputError(explain_open_error(self.name, error)) from error
        finally:
            os.close(descriptor)
        self._length = length
        everything = np.empty(0, np.uint8) if self._map is None else np.frombuffer(self._map, np.uint8)
        self.content: NDArray[np.uint8] = everything[:size]

    def _advise(self, name: str) -> None:
        """Advise the system of the access pattern, if it supports that."""
        if self._map is not None and hasattr(mmap, name):
            self._map.madvise(getattr(mmap, name))

    def will_be_read_through(self) -> None:
        """Let the system read ahead from now on. A new map is only searched, and would read megabytes in vain."""
        self._advise("MADV_SEQUENTIAL")

    def check_size(self) -> None:
        """Raise `InputError` if the file has become shorter than its map: reading beyond its end would be fatal."""
        if self._map is not None and (now := self._map.size()) < self._length:
            raise InputError(f"{self.name} ends at byte {now:,} and had {self._length:,} bytes when opened: {CHANGED}")

    def close(self) -> None:
        """Release the map; it is unmapped with the last array that refers to it."""
        self.content, self._map = np.empty(0, np.uint8), None


def open_local_files(prefix: str) -> DatasetFiles:
    """Open PREFIX.bin and PREFIX.idx.

    Raises:
        InputError: one of them is missing, is not a file, or cannot be read; too many files are open.
    """
    index_path, data_path = with_ending(prefix, ".idx"), with_ending(prefix, ".bin")
    hint = functools.partial(_half_of_a_pair, prefix)
    index = MappedFile(index_path, open_to_read(index_path, hint=hint))
    data = LocalTokens(data_path, open_to_read(data_path, hint=hint))
    return DatasetFiles(index, data, functools.partial(read_description, with_ending(prefix, ".json")))


def _half_of_a_pair(prefix: str) -> str:
    if with_ending(prefix, ".bin").exists():
        return f"only {prefix}.bin is there; if it has no index, name it with its ending, and its dtype"
    if with_ending(prefix, ".idx").exists():
        return f"only {prefix}.idx is there; `megaphi tokenize` writes both"
    return "give the prefix of a .bin/.idx pair without ending; `megaphi tokenize` writes both"


def with_ending(prefix: str | os.PathLike[str], ending: str) -> Path:
    """PREFIX.bin for PREFIX, which may contain dots itself (`web.2024`)."""
    return Path(os.fspath(prefix) + ending)


def is_url(path: str) -> bool:
    """Return whether a path refers to object storage. (A user's class may take a URL as its argument.)"""
    return "://" in path and not is_own_code(path)


def read_description(path: Path) -> dict[str, Any] | None:
    """Contents of the .json beside a dataset; None without one."""
    return read_object(path, what="dataset description") if path.exists() else None


def open_to_read(path: Path, *, hint: Callable[[], str]) -> int:
    """Open a regular file; opening a pipe must not wait for its writer. Returns a descriptor.

    `hint` gives the remedy if there is no such file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InputError(f"dataset file not found: {path} ({hint()})") from None
    except OSError as error:
        raise InputError(explain_open_error(str(path), error)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"cannot read the dataset file {path}: it is not a regular file")
    return descriptor


def explain_open_error(name: str, error: OSError) -> str:
    message = f"cannot read the dataset file {name}: {error.strerror or error}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        message += (
            ". Every dataset keeps two files open: allow more (`ulimit -n 65536` before the start; a hard limit is"
            " the administrator's), or join datasets into fewer"
        )
    return message


def read_pieces(pieces: Pieces, out: NDArray[np.uint8]) -> tuple[str, int, int, int] | None:
    """Fill `out` with the bytes of all pieces; returns the failure, if any (see `compiled().read_runs`)."""
    return compiled().read_runs(pieces.descriptors, pieces.file_P, pieces.offset_P, pieces.bytes_P, out)


def read_run(data: TokenFile, offset: int, count: int) -> NDArray[np.uint8]:
    """Read `count` bytes of a file from `offset` on. Raises InputError if the file is too short."""
    return read_runs(data, np.array([offset]), np.array([count]))


def read_runs(data: TokenFile, offset_N: NDArray[np.int64], bytes_N: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Read the bytes of several runs, concatenated."""
    out = np.empty(int(bytes_N.sum()), dtype=np.uint8)
    with data.pieces(offset_N, bytes_N) as pieces:
        failure = read_pieces(pieces, out)
    if failure is not None:
        kind, piece, byte, value = failure
        where = int(pieces.run_P[piece])
        before = int(pieces.bytes_P[:piece][pieces.run_P[:piece] == where].sum())
        raise InputError(explain_read_failure(data.name, kind, byte=int(offset_N[where]) + before + byte, value=value))
    return out


def sampled(size: int) -> tuple[list[int], int]:
    """Starts of the blocks of a fingerprint in a file of `size` bytes, and their length."""
    if size <= FINGERPRINT_WHOLE:
        return [0], size
    last = size - FINGERPRINT_BLOCK
    return [last * block // (FINGERPRINT_BLOCKS - 1) for block in range(FINGERPRINT_BLOCKS)], FINGERPRINT_BLOCK


def explain_read_failure(name: str, kind: str, *, byte: int, value: int) -> str:
    """The message for a read that failed at a byte of a file."""
    if kind == "ended":
        return f"{name} ends at or before byte {byte:,}, but its index or header describes more: {CHANGED}"
    return f"cannot read {name} at byte {byte:,}: {os.strerror(value)}"
