"""Files out of archives of strangers: ZIP, tar, gzip; in memory, with limits, and never a path that leads outside.

Nothing is written to disk, so a path can harm only who believes it: names that are absolute or climb (`..`), links and
devices are left out and counted. Sizes are limited while unpacking, since an archive's own numbers may lie.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO

from megaphi.curation.extract.found import NotExtracted

LARGEST_FILE = 64 << 20
LARGEST_ARCHIVE = 256 << 20
"""Bytes of all files, unpacked."""
MOST_FILES = 10_000
LARGEST_RATIO = 200
"""Bytes out for one in, beyond `FREE_BYTES`; text seldom has more than 20."""
FREE_BYTES = 4 << 20
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    IndexError,
    UnicodeError,
)


@dataclass(slots=True)
class Unpacked:
    """The files of an archive by path, and the number of members that were left out for their names or kinds."""

    files: dict[str, bytes] = field(default_factory=dict)
    unsafe: int = 0
    total: int = 0


def unpack(content: bytes) -> Unpacked:
    """All regular files of an archive; a gzip that holds no tar is one file named `content`.

    Raises:
        NotExtracted: it is damaged (`malformed`), `encrypted`, or unpacks to more than the limits (`hostile_archive`).
    """
    try:
        if content.startswith(b"\x1f\x8b"):
            content = _gunzip(content)
            if not is_tar(content):
                return Unpacked({"content": content})
        return _of_tar(content) if is_tar(content) else _of_zip(content)
    except _DAMAGED as error:
        encrypted = "encrypted" in str(error) or "password" in str(error)
        raise NotExtracted("encrypted" if encrypted else "malformed", f"archive: {error}"[:200]) from None


def is_tar(content: bytes) -> bool:
    return content[257:262] == b"ustar" or (len(content) % 512 == 0 and len(content) >= 1024 and _old_tar(content))


def _old_tar(content: bytes) -> bool:
    try:
        return int(content[148:154].strip(b" \0") or b"-1", 8) == sum(content[:148]) + 256 + sum(content[156:512])
    except ValueError:
        return False


def _gunzip(content: bytes) -> bytes:
    """The first members of a gzip. Raises NotExtracted where it unpacks to too much."""
    limit = min(LARGEST_ARCHIVE, FREE_BYTES + LARGEST_RATIO * len(content))
    parts: list[bytes] = []
    rest = content
    while rest.startswith(b"\x1f\x8b"):
        member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        parts.append(member.decompress(rest, max(1, limit)))
        limit -= len(parts[-1])
        if limit <= 0:
            raise NotExtracted("hostile_archive", f"unpacks to more than {sum(map(len, parts)):,} bytes")
        if not member.eof:
            raise EOFError("truncated gzip")
        rest = member.unused_data
    return b"".join(parts)


def _of_zip(content: bytes) -> Unpacked:
    found = Unpacked()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        _check_count(len(members))
        for member in members:
            if member.is_dir():
                continue
            is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
            if is_link or not is_safe(member.filename):
                found.unsafe += 1
                continue
            with archive.open(member) as file:
                _add(found, member.filename, file, packed=len(content))
    return found


def _of_tar(content: bytes) -> Unpacked:
    found = Unpacked()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for number, member in enumerate(_members(archive)):
            _check_count(number)
            if member.isdir():
                continue
            file = archive.extractfile(member) if member.isreg() and is_safe(member.name) else None
            if file is None:
                found.unsafe += 1
                continue
            _add(found, member.name, file, packed=len(content))
    return found


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        yield member
        archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue] (it would keep all of them)


def is_safe(name: str) -> bool:
    """Return whether a path stays below the folder that it is relative to."""
    path = PurePosixPath(name.replace("\\", "/"))
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name and ":" not in name


def _check_count(number: int) -> None:
    if number > MOST_FILES:
        raise NotExtracted("hostile_archive", f"more than {MOST_FILES:,} files")


def _add(found: Unpacked, name: str, file: IO[bytes], *, packed: int) -> None:
    limit = min(LARGEST_FILE, LARGEST_ARCHIVE - found.total, FREE_BYTES + LARGEST_RATIO * packed - found.total)
    content = file.read(max(0, limit) + 1)
    if len(content) > limit:
        raise NotExtracted("hostile_archive", f"{name[:80]} unpacks to more than {max(0, limit):,} bytes")
    found.total += len(content)
    found.files[str(PurePosixPath(name.replace("\\", "/")))] = content
