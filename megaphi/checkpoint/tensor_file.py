"""One safetensors file: written sequentially without holding it in memory, read by position without mapping it.

The format is a JSON header (every tensor's type, shape and bytes) and then the bytes. The library writes a file from
tensors that are all in memory, and maps what it reads: mapped pages count as a process's memory, and a mapped file that
shrinks kills it. A checkpoint of 14B parameters must pass through a small machine, so both ends stream here. SHA-256 is
computed of the bytes on their way to the disk, so that a reader can tell whether they arrived.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from megaphi.errors import InputError
from megaphi.files import explain_write_errors
from megaphi.foreign.files import brief, damage_named, open_regular
from megaphi.json_text import parse_json

CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8", torch.int64: "I64"}
DTYPES = {code: dtype for dtype, code in CODES.items()}
LARGEST_HEADER = 100_000_000
"""Size limit of a header, the format's own."""
MOST_DIMENSIONS, MOST_NUMBERS = 8, 1 << 53
"""Limits of a tensor in any file: sizes and places stay exact in every type that they pass through."""
_BLOCK_BYTES = 1 << 24
_WRITEBACK_BYTES = 1 << 25


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor of a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    first_byte: int
    """Position of its values, counted from the start of the file."""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size and SHA-256 that a file must have when it is read again."""

    bytes: int
    sha256: str
    """Empty for a file of a format that has no place for it."""


class TensorFileWriter:
    """Writes the tensors announced to it one after the other, each in as many parts as its caller likes.

    A block is hashed by another thread while it is written, unless `hashed` is False because nobody will compare it.
    Writeback starts immediately instead of when memory is full of dirty pages. The file is not whole until `close`;
    callers give it a temporary name or a temporary folder.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        *,
        metadata: Mapping[str, str] | None = None,
        hashed: bool = True,
    ) -> None:
        self.path = path
        header, self.entries, self._expected = _header(tensors, metadata or {})
        self._sha256 = hashlib.sha256() if hashed else None
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._written = self._on_its_way = 0
        with explain_write_errors(path):
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            self._write(memoryview(header))

    def append(self, values: Tensor) -> None:
        """Append the next elements, in the announced order, flattened."""
        flat = values.detach().cpu().contiguous().view(-1)
        if flat.numel():
            self._write(_bytes_of(flat))

    def _write(self, data: memoryview) -> None:
        hashed = self._hasher.submit(self._sha256.update, data) if self._sha256 is not None else None
        try:
            with explain_write_errors(self.path):
                while data:
                    data = data[os.write(self._handle, data) :]
        finally:
            if hashed is not None:
                hashed.result()
        self._written = os.lseek(self._handle, 0, os.SEEK_CUR)
        if self._written - self._on_its_way >= _WRITEBACK_BYTES and hasattr(os, "posix_fadvise"):
            # Dirty pages cannot be dropped: make Linux start to write them.
            length = self._written - self._on_its_way
            os.posix_fadvise(self._handle, self._on_its_way, length, os.POSIX_FADV_DONTNEED)
            self._on_its_way = self._written

    def close(self) -> FileRecord:
        """Sync the file to disk; returns its size and SHA-256."""
        if self._written != self._expected:
            raise RuntimeError(f"{self.path}: {self._written} of {self._expected} bytes were written")
        with explain_write_errors(self.path):
            os.fsync(self._handle)
        self.abandon()
        return FileRecord(self._written, self._sha256.hexdigest() if self._sha256 is not None else "")

    def abandon(self) -> None:
        """Close the file; safe to call twice."""
        self._hasher.shutdown()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _header(
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, TensorEntry], int]:
    """Return (the file's header, the position of every tensor, the size of the file)."""
    described: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        described[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    entries = {
        name: TensorEntry(dtype, tuple(shape), first + described[name]["data_offsets"][0])
        for name, (dtype, shape) in tensors.items()
    }
    return len(text).to_bytes(8, "little") + text, entries, first + end


class TensorFile:
    """An open safetensors file of anyone's.

    Raises:
        InputError: it is missing, truncated, or its header is corrupted; reading too may find that it has shrunk.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._handle = open_regular(self.path)
        except FileNotFoundError:
            raise InputError(f"{self.path} is missing") from None
        try:
            self.metadata, self.entries = self._read_header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _read_header(self) -> tuple[dict[str, str], dict[str, TensorEntry]]:
        size = os.fstat(self._handle).st_size
        length = int.from_bytes(self._bytes(0, min(8, size)), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise InputError(f"{self.path} is corrupted: {size:,} bytes cannot hold the header that it announces")
        try:
            described = parse_json(self._bytes(8, length), unique=True)
        except InputError as error:
            raise InputError(f"{self.path} is corrupted: its header is no JSON: {error}") from None
        with damage_named(self.path, what="a file with the header of a safetensors file"):
            metadata = described.pop("__metadata__", {})
            if not all(isinstance(text, str) for text in metadata.values()):
                raise TypeError("__metadata__ holds something else than texts")
            entries = {name: self._entry(name, entry, first=8 + length) for name, entry in described.items()}
        self._check_places(entries, first=8 + length, size=size)
        return metadata, entries

    def _entry(self, name: str, described: Mapping[str, Any], *, first: int) -> TensorEntry:
        """Check one tensor's description. Raises InputError, ValueError, TypeError, LookupError."""
        code, shape, (start, end) = described["dtype"], described["shape"], described["data_offsets"]
        if not name.isprintable():
            raise ValueError(f"the name {name!r}")
        if type(shape) is not list or len(shape) > MOST_DIMENSIONS:
            raise ValueError(f"{name} has the shape {brief(shape)}")
        if not all(type(number) is int and 0 <= number <= MOST_NUMBERS for number in (*shape, start, end)):
            raise ValueError(f"{name} has the shape {brief(shape)} and the place {brief([start, end])}")
        if not isinstance(code, str) or code not in DTYPES:
            raise InputError(f"{self.path}: {name} has the type {brief(code)}, which is none of {', '.join(DTYPES)}")
        entry = TensorEntry(DTYPES[code], tuple(shape), first + start)
        if end - start != entry.numel * entry.dtype.itemsize:
            raise ValueError(f"{end - start} bytes for {name} of the shape {shape}")
        return entry

    def _check_places(self, entries: Mapping[str, TensorEntry], *, first: int, size: int) -> None:
        """The tensors must fill the file, as the format demands: one after the other, without a gap or an overlap."""
        reached = first
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].first_byte, item[1].bytes)):
            if entry.first_byte != reached:
                raise InputError(f"{self.path} is corrupted: {name} does not begin where the tensor before it ends")
            reached += entry.bytes
        if reached > size:
            raise InputError(f"{self.path} is truncated: {size:,} bytes, and its header announces {reached:,}")
        if reached < size:
            raise InputError(f"{self.path} is corrupted: {size - reached:,} bytes follow after its last tensor")

    def read(self, name: str, start: int = 0, end: int | None = None) -> Tensor:
        """Elements [start, end) of a tensor, flattened."""
        entry = self.entries[name]
        end = entry.numel if end is None else end
        values = torch.empty(end - start, dtype=entry.dtype)
        self.read_into(values, entry.first_byte + start * entry.dtype.itemsize)
        return values

    def read_into(self, values: Tensor, first_byte: int) -> None:
        """Fill a contiguous CPU tensor from position `first_byte` of the file."""
        read_at(self._handle, values, first_byte, path=self.path)

    def _bytes(self, start: int, count: int) -> bytes:
        return os.pread(self._handle, count, start)


def read_at(handle: int, values: Tensor, first_byte: int, *, path: Path) -> None:
    """Fill a contiguous CPU tensor from a position of an open file. Raises InputError if it ends before."""
    buffer = _bytes_of(values.view(-1)) if values.numel() else memoryview(b"")
    place = first_byte
    while buffer:
        count = os.preadv(handle, [buffer], place)
        if count == 0:
            raise InputError(f"{path} ends at byte {place:,}, before all of its tensors: it was cut off")
        buffer, place = buffer[count:], place + count


def _bytes_of(flat: Tensor) -> memoryview:
    """The memory of a contiguous, one-dimensional CPU tensor of any type."""
    dense = flat.as_strided(flat.shape, (1,))  # a single element cut out of a tensor may keep another stride
    return memoryview(dense.view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]


def hash_file(path: Path, *, from_disk: bool = False) -> FileRecord:
    """Size and SHA-256 of a file; `from_disk` first drops it from the page cache (best effort)."""
    digest = hashlib.sha256()
    buffer = bytearray(_BLOCK_BYTES)
    with open(path, "rb", buffering=0) as file:
        if from_disk and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        size = 0
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            size += count
    return FileRecord(size, digest.hexdigest())
