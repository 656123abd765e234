"""Decompression of a file (gzip, bzip2, xz, zstandard, or none), block by block, in constant memory.

The compression is known by the file's first bytes, not its name. One loop serves all four, because each of the
libraries has an object that decompresses one member of a file and returns the bytes after it. So files of many members
(or frames, or streams) are read to their end, a file that stops within a member is called truncated, and trailing bytes
after the last one are an error; the libraries' own file readers pass over one or the other of these.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from megaphi.errors import InputError
from megaphi.files import explain_read_errors

Packing = Literal["gzip", "bzip2", "xz", "zstandard"]
PACKING_OF_ENDING: dict[str, Packing] = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstandard"}

READ_BYTES = 1 << 20
PACKED_BYTES: dict[Packing, int] = {"gzip": 1 << 17, "bzip2": 1 << 12, "xz": 1 << 12, "zstandard": 1 << 12}
"""Compressed bytes per call. Text seldom expands more than tenfold, but what somebody made to expand as far as the
format allows (gzip 1,032-fold, zstandard 32,768-fold) gives 135 MB at a time at most. The others expand further, and
are asked for less (`LARGEST_BLOCK`).
"""
LARGEST_BLOCK = 1 << 24
"""Bytes that bzip2, which expands a million-fold, and xz give at a time."""
LARGEST_WINDOW = 1 << 31
"""Largest window of a zstandard frame, in bytes: the library's limit (--long=31)."""
_SKIPPABLE = tuple(bytes([0x50 + kind]) + b"\x2a\x4d\x18" for kind in range(16))
_MAGIC: dict[Packing, tuple[bytes, ...]] = {
    "gzip": (b"\x1f\x8b\x08",),
    "bzip2": tuple(
        b"BZh%d%s" % (size, mark) for size in range(1, 10) for mark in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")
    ),
    "xz": (b"\xfd7zXZ\0",),
    "zstandard": (b"\x28\xb5\x2f\xfd", *_SKIPPABLE),
}


def packing_of(path: Path) -> Packing | None:
    """Compression of a file, by its first bytes; None for a plain one.

    Raises:
        InputError: its name says that it is compressed, and it is not.
    """
    with explain_read_errors(path), open(path, "rb") as file:
        head = file.read(16)
    found: Packing | None = next((packing for packing, magic in _MAGIC.items() if head.startswith(magic)), None)
    named = PACKING_OF_ENDING.get(path.suffix.lower())
    if head and named and not found:
        raise InputError(
            f"{path} is corrupted, or not compressed with {named} as its name says: it begins with {head[:6]!r}. If it"
            f" was decompressed on its way here, take {path.suffix} off its name"
        )
    return found


def unpacked_blocks(path: Path, packing: Packing | None) -> Iterator[bytes]:
    """The content of a file in blocks.

    Raises:
        InputError: the file is corrupted, truncated, or followed by something else.
    """
    if packing is not None:
        yield from _unpack(path, packing)
        return
    with explain_read_errors(path), open(path, "rb") as file:
        while block := file.read(READ_BYTES):
            yield block


def _unpack(path: Path, packing: Packing) -> Iterator[bytes]:
    new_member, faults = _tools(packing)
    member, members, begun = new_member(), 0, False
    with explain_read_errors(path), open(path, "rb") as file:
        while packed := file.read(PACKED_BYTES[packing]):
            while packed := packed if begun else packed.lstrip(b"\0"):  # tapes and xz fill up with zeros
                try:
                    for block in _expanded(member, packed):
                        if block:
                            yield block
                except faults as error:
                    raise InputError(_explained(path, packing, error, members=0 if begun else members)) from None
                begun, packed = not member.eof, member.unused_data
                if not begun:
                    member, members = new_member(), members + 1
    if begun:
        raise InputError(f"{path} is truncated: the data compressed with {packing} does not end")


def _expanded(member: Any, packed: bytes) -> Iterator[bytes]:
    """Blocks of the content of some bytes of a member."""
    if not hasattr(member, "needs_input"):  # gzip and zstandard, which `PACKED_BYTES` bounds
        yield member.decompress(packed)
        return
    yield member.decompress(packed, LARGEST_BLOCK)
    while not (member.eof or member.needs_input):
        yield member.decompress(b"", LARGEST_BLOCK)


def _tools(packing: Packing) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """Return the class that decompresses one member, and the errors that it raises on corrupted input."""
    if packing == "gzip":
        return lambda: zlib.decompressobj(wbits=16 + zlib.MAX_WBITS), (zlib.error,)
    if packing == "bzip2":
        return bz2.BZ2Decompressor, (OSError,)
    if packing == "xz":
        return lzma.LZMADecompressor, (lzma.LZMAError,)
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW).decompressobj, (zstandard.ZstdError,)


def _explained(path: Path, packing: Packing, error: Exception, *, members: int) -> str:
    """`members` is how many ended before the one that could not even begin; 0 if it had begun."""
    if "too much memory" in str(error):
        return (
            f"{path} was compressed with a window of more than {LARGEST_WINDOW >> 30} GiB, which cannot be decompressed"
            " here: compress it again with a smaller one (zstd --long=31 at most)"
        )
    if members:
        return f"{path} is corrupted: after its end ({packing}, part {members}) there is something else ({error})"
    return f"{path} is corrupted: {error}"
