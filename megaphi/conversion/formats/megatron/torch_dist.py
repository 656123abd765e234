"""Tensors of a `torch.distributed.checkpoint` folder, any rows of them by position, without running its pickles.

`.metadata` locates each chunk of each tensor: at an offset of a file `__RANK_NUMBER.distcp`, in the format of
`torch.save`, a zip archive whose entry `data/0` has the values, uncompressed. A small pickle in the archive holds type,
shape and strides. Both pickles are read by the restricted reader, the values by position.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from megaphi.checkpoint.box import Box, is_cover
from megaphi.checkpoint.tensor_file import MOST_DIMENSIONS, MOST_NUMBERS, read_at
from megaphi.errors import InputError
from megaphi.foreign.files import brief, damage_named, is_plain_name, open_regular, read_small
from megaphi.foreign.restricted_pickle import LARGEST_BYTES, StandIn, read_pickle

METADATA = ".metadata"
STORAGE_TYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.HalfStorage": torch.float16,
}
TYPES = {str(dtype): dtype for dtype in STORAGE_TYPES.values()}
_LOCAL_HEADER_BYTES = 30
_PACKAGES = ("torch.", "collections.", "pathlib.", "megatron.core.")
"""Packages of the metadata's own classes."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor, and the position of its archive."""

    box: Box
    file: str
    first_byte: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file."""

    file: str
    first_byte: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the folder."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


class TorchDistFolder:
    """An open folder.

    Raises:
        InputError: `.metadata` is missing, corrupted or hostile; on reading: a file is missing, truncated or corrupted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: Mapping[str, StoredTensor]
        self.objects: Mapping[str, Piece]
        """Whatever else is stored, by its key."""
        self.tensors, self.objects = _read_metadata(folder / METADATA)
        self._handles: dict[str, int] = {}
        self._values: dict[tuple[str, int], int] = {}
        """Archive -> first byte of its values."""

    def __del__(self) -> None:
        for handle in getattr(self, "_handles", {}).values():
            os.close(handle)

    def check(self, key: str) -> None:
        """Check that all chunks of a tensor are there and hold each of its numbers once. Raises InputError."""
        tensor = self.tensors[key]
        if not is_cover(tensor.shape, [chunk.box for chunk in tensor.chunks]):
            raise InputError(
                f"{self.folder}: the {len(tensor.chunks):,} chunks of {key} are not its {math.prod(tensor.shape):,} "
                "numbers, each once"
            )
        for chunk in tensor.chunks:
            size, end = os.fstat(self._open(chunk.file)).st_size, chunk.first_byte + chunk.bytes
            if end > size:
                raise InputError(
                    f"{self.folder / chunk.file} is truncated: {size:,} bytes, and {key} ends at byte {end:,}"
                )

    def read_object(self, key: str) -> Any:
        """The pickle of an object, by the restricted reader."""
        piece = self.objects[key]
        where = f"{self.folder / piece.file}, {key}"
        with damage_named(where, what="an archive of torch.save"):
            content = io.BufferedReader(_Window(self._open(piece.file), piece.first_byte, piece.bytes))
            with zipfile.ZipFile(content) as archive:
                return read_pickle(pickle_within(archive), where=where)

    def rows(self, key: str, above: tuple[int, ...], start: int, end: int) -> Tensor:
        """Rows [start, end) of the matrix (or vector) at the index `above` of the leading dimensions."""
        tensor = self.tensors[key]
        columns = tensor.shape[len(above) + 1 :]
        wanted = Box((*above, start, *(0 for _ in columns)), (*(1 for _ in above), end - start, *columns))
        values = torch.empty((end - start, *columns), dtype=tensor.dtype)
        for chunk in tensor.chunks:
            common = chunk.box.overlap(wanted)
            if common is not None:
                values[common.slices_within(wanted)[len(above) :]] = self._part(key, chunk, common, len(above))
        return values

    def _part(self, key: str, chunk: Chunk, part: Box, leading: int) -> Tensor:
        """Read a part of a chunk: whole rows, cut to the part's columns."""
        width = math.prod(chunk.box.shape[leading + 1 :])
        row = 0
        for start, origin, size in zip(
            part.offset[: leading + 1], chunk.box.offset[: leading + 1], chunk.box.shape[: leading + 1], strict=True
        ):
            row = row * size + start - origin
        dtype = self.tensors[key].dtype
        rows = torch.empty(part.shape[leading] * width, dtype=dtype)
        place = self._first_value(key, chunk) + row * width * dtype.itemsize
        read_at(self._open(chunk.file), rows, place, path=self.folder / chunk.file)
        left = part.offset[leading + 1 :]
        columns = tuple(
            slice(start - origin, start - origin + size)
            for start, origin, size in zip(
                left, chunk.box.offset[leading + 1 :], part.shape[leading + 1 :], strict=True
            )
        )
        return rows.view(part.shape[leading], *chunk.box.shape[leading + 1 :])[(slice(None), *columns)]

    def _open(self, name: str) -> int:
        if name not in self._handles:
            try:
                self._handles[name] = open_regular(self.folder / name)
            except FileNotFoundError:
                raise InputError(f"{self.folder / name} cannot be read: it is missing") from None
        return self._handles[name]

    def _first_value(self, key: str, chunk: Chunk) -> int:
        """Offset of the first value of a chunk, after checking its archive."""
        archive = (chunk.file, chunk.first_byte)
        if archive not in self._values:
            where = f"{self.folder / chunk.file}, the chunk of {key} at byte {chunk.first_byte:,}"
            content = _Window(self._open(chunk.file), chunk.first_byte, chunk.bytes)
            with damage_named(where, what="an archive of torch.save"):
                self._values[archive] = chunk.first_byte + _values_within(
                    io.BufferedReader(content),
                    size=chunk.bytes,
                    numel=chunk.box.numel,
                    dtype=self.tensors[key].dtype,
                    where=where,
                )
        return self._values[archive]


class _Window(io.RawIOBase):
    """A part of an open file as a file."""

    def __init__(self, handle: int, first: int, size: int) -> None:
        self._handle, self._first, self._size, self._place = handle, first, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._place))
        data = os.pread(self._handle, count, self._first + self._place)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def read_stored(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """An entry of an archive of `torch.save`, which compresses nothing. Raises ValueError for one that is, or is long.

    So what is read is never longer than the file.
    """
    _check_stored(entry)
    if entry.file_size > LARGEST_BYTES:
        raise ValueError(f"{entry.filename!r} has {entry.file_size:,} bytes")
    return archive.read(entry)


def _check_stored(entry: zipfile.ZipInfo) -> None:
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError(f"{entry.filename!r} is compressed")
    if entry.header_offset < 0:
        raise ValueError(f"{entry.filename!r} begins before the archive")


def pickle_within(archive: zipfile.ZipFile) -> bytes:
    """The pickle of an archive of `torch.save`. Raises ValueError if there is not one."""
    (entry,) = (entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl"))
    return read_stored(archive, entry)


def _values_within(content: IO[bytes], *, size: int, numel: int, dtype: torch.dtype, where: str) -> int:
    """Offset of the values of the only tensor in a `torch.save` archive of `size` bytes. Raises what zipfile raises."""
    with zipfile.ZipFile(content) as archive:
        entries = {entry.filename.split("/", 1)[-1]: entry for entry in archive.infolist()}
        if "byteorder" in entries and read_stored(archive, entries["byteorder"]) != b"little":
            raise InputError(f"{where} was written by a big-endian machine, which is not supported")
        described = read_pickle(read_stored(archive, entries["data.pkl"]), where=where, is_expected=_is_expected)
        storage_name, offset = _contiguous_storage(described, numel=numel, dtype=dtype, where=where)
        entry = entries[f"data/{storage_name}"]
        _check_stored(entry)
        if entry.file_size < (offset + numel) * dtype.itemsize:
            raise InputError(f"{where} is corrupted: {entry.file_size:,} bytes for {numel:,} numbers")
        content.seek(entry.header_offset)
        header = content.read(_LOCAL_HEADER_BYTES)
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        first = entry.header_offset + _LOCAL_HEADER_BYTES + names + offset * dtype.itemsize
        if first + numel * dtype.itemsize > size:
            raise InputError(f"{where} is corrupted: its values end after it")
        return first


def _contiguous_storage(described: Any, *, numel: int, dtype: torch.dtype, where: str) -> tuple[str, int]:
    """(name, first element) of the storage of a tensor that lies in it without gaps."""
    try:
        storage, offset, shape, strides = described.arguments[:4]
        ((kind, storage_class, name, _, _),) = storage.arguments
        found = STORAGE_TYPES.get(storage_class.global_name)
        offset, shape, strides = _checked_number(offset), _checked_numbers(shape), _checked_numbers(strides)
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{where} does not describe a tensor") from None
    dense = [math.prod(shape[number + 1 :]) for number in range(len(shape))]
    matters = [stride for stride, size in zip(strides, shape, strict=True) if size > 1]
    expected = [stride for stride, size in zip(dense, shape, strict=True) if size > 1]
    if kind != "storage" or found != dtype or math.prod(shape) != numel or matters != expected:
        raise InputError(f"{where} is no dense tensor of {numel:,} numbers of type {dtype}: it is not as it was saved")
    return str(name), offset


def _is_expected(name: str) -> bool:
    return name.startswith(_PACKAGES)


def _read_metadata(path: Path) -> tuple[dict[str, StoredTensor], dict[str, Piece]]:
    """(tensors, other objects) by their keys."""
    try:
        content = read_small(path, largest=LARGEST_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path} cannot be read: it is missing") from None
    metadata = read_pickle(content, where=str(path), is_expected=_is_expected)
    with damage_named(path, what="the metadata of a distributed checkpoint"):
        tensors = metadata.field("state_dict_metadata")
        places: dict[str, dict[tuple[int, ...], Any]] = {}
        for index, place in metadata.field("storage_data").items():
            offset = _numbers(index.field("offset")) if index.field("offset") is not None else ()
            places.setdefault(index.field("fqn"), {})[offset] = place
        entries = {key: entry for key, entry in tensors.items() if _is_tensor(entry)}
        found = {
            key: _stored_tensor(key, entry, TYPES[name], places.get(key, {}))
            for key, entry in entries.items()
            if (name := entry.field("properties").state[0].global_name) in TYPES
        }
        others = tensors.keys() & places.keys() - entries.keys()
        return found, {key: _piece(place) for key in others for place in places[key].values()}


def _is_tensor(entry: StandIn) -> bool:
    return entry.name.endswith(".TensorStorageMetadata")


def _stored_tensor(key: str, entry: StandIn, dtype: torch.dtype, places: Mapping[tuple[int, ...], Any]) -> StoredTensor:
    """Check one tensor's entry. Raises ValueError, TypeError, LookupError, AttributeError."""
    if not key.isprintable():
        raise ValueError(f"the name {key!r}")
    chunks = []
    for chunk in entry.field("chunks"):
        box = Box(_numbers(chunk.field("offsets")), _numbers(chunk.field("sizes")))
        piece = _piece(places[box.offset])
        if box.numel:
            chunks.append(Chunk(box, piece.file, piece.first_byte, piece.bytes))
    shape = _numbers(entry.field("size"))
    if any(len(chunk.box.shape) != len(shape) for chunk in chunks):
        raise ValueError(f"chunks of {key} have other dimensions")
    return StoredTensor(dtype, shape, tuple(chunks))


def _piece(place: StandIn) -> Piece:
    """The place where something is stored. Raises ValueError."""
    name = place.field("relative_path")
    if place.field("transform_descriptors") is not None or not is_plain_name(name):
        raise ValueError(f"the chunk in {brief(name)} is compressed, or not in this folder")
    return Piece(name, *(_checked_number(place.field(part)) for part in ("offset", "length")))


def _numbers(size: StandIn) -> tuple[int, ...]:
    """A `torch.Size`."""
    (numbers,) = size.arguments
    return _checked_numbers(numbers)


def _checked_numbers(numbers: Any) -> tuple[int, ...]:
    if len(numbers) > MOST_DIMENSIONS:
        raise ValueError(f"{len(numbers):,} dimensions")
    return tuple(map(_checked_number, numbers))


def _checked_number(value: Any) -> int:
    """A size or a place. Raises ValueError."""
    if type(value) is not int or not 0 <= value <= MOST_NUMBERS:
        raise ValueError(f"{brief(value)}, expected a whole number from 0")
    return value
