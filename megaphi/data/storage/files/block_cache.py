"""A cache of remote blocks on a local disk, shared by all processes of a machine, with a size limit.

A cached file holds its bytes and a trailer of 16: a magic, their number, their CRC-32. It appears by rename, so it is
complete or absent; damage by a crash or a bad disk is found by the trailer, and the block is fetched again. The CRC is
computed once per process and file. Reading a file records the time; when the limit is reached, the files that were read
least recently are removed, blocks before indices. A process that reads a file keeps it open, so it stays readable after
its removal. The bytes in use are counted in one locked file, and recounted at every clean-up.
"""

from __future__ import annotations

import fcntl
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from megaphi.errors import InputError
from megaphi.files import explain_write_errors

TRAILER = struct.Struct("<4sQI")
"""Magic, number of bytes, their CRC-32."""
MARK = b"mphi"
LOCKS = 4_096
KEPT_FRACTION = 0.9
"""A clean-up removes files until this much of the limit is used."""
SECONDS_BETWEEN_NOTES = 60.0
ABANDONED_SECONDS = 3_600.0
"""Age at which a half-written file belongs to a process that died."""
CHECKED_AT_ONCE = 1 << 20


class BlockCache:
    """Cached files by name (`dataset/3`) in one folder, which threads and processes may share."""

    def __init__(self, folder: str | os.PathLike[str], *, limit_bytes: int) -> None:
        self.folder = Path(folder)
        self.limit_bytes = limit_bytes
        self._verified: set[tuple[int, int, int]] = set()
        self._noted: dict[str, float] = {}

    def open(self, name: str, *, size: int) -> int | None:
        """A descriptor of the cached file of `size` bytes, or None; a corrupted one is removed."""
        path = self.folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"cannot read the cached file {path}: {error.strerror or error}") from error
        if not self._is_whole(descriptor, size=size):
            os.close(descriptor)
            with suppress(FileNotFoundError):
                path.unlink()
            return None
        self._note_use(name, descriptor)
        return descriptor

    def store(self, name: str, parts: Iterable[bytes]) -> int:
        """Cache a file and return its descriptor, which stays readable even if the file is removed."""
        path = self.folder / name
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
            os.fchmod(descriptor, 0o644)
            try:
                size = _write_with_trailer(descriptor, parts)
                os.replace(temporary, path)
            except BaseException:
                os.close(descriptor)
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
        status = os.fstat(descriptor)
        self._verified.add((status.st_ino, status.st_mtime_ns, status.st_size))
        _write_last_use(descriptor, time.time())  # the kernel's own note is of a slower clock: it may lie before others
        self._account(size)
        return descriptor

    @contextmanager
    def sole_right(self, name: str) -> Iterator[None]:
        """Lock a file, so that only one thread or process of the machine fetches it at a time."""
        lock = zlib.crc32(name.encode()) % LOCKS
        with _locked(self.folder / "locks" / f"{lock:03x}"):
            yield

    def _is_whole(self, descriptor: int, *, size: int) -> bool:
        status = os.fstat(descriptor)
        if status.st_size != size + TRAILER.size:
            return False
        identity = (status.st_ino, status.st_mtime_ns, status.st_size)
        if identity in self._verified:
            return True
        mark, bytes_said, checksum = TRAILER.unpack(os.pread(descriptor, TRAILER.size, size))
        if (mark, bytes_said, checksum) != (MARK, size, _checksum_of(descriptor, size)):
            return False
        self._verified.add(identity)
        return True

    def _note_use(self, name: str, descriptor: int) -> None:
        """Record the time of reading, at most once in `SECONDS_BETWEEN_NOTES`."""
        now = time.time()
        if now - self._noted.get(name, 0.0) > SECONDS_BETWEEN_NOTES:
            self._noted[name] = now
            _write_last_use(descriptor, now)

    def _account(self, size: int) -> None:
        """Count a file that was just stored."""
        with _locked(self.folder / "bytes") as counter:
            told = os.pread(counter, 32, 0)
            used = int(told) + size if told.isdigit() else self._scan()[1]
            if used > self.limit_bytes:
                used = self._clean_up()
            os.ftruncate(counter, 0)
            os.pwrite(counter, str(used).encode(), 0)

    def _scan(self) -> tuple[list[tuple[bool, float, int, Path]], int]:
        """([(is an index, last use, bytes, path)] of all cached files, in the order of removal; bytes of all)."""
        files, used = [], 0
        for folder in self.folder.iterdir():
            if not folder.is_dir() or folder.name == "locks":
                continue
            for path in folder.iterdir():
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if path.suffix != ".partial":
                        files.append((path.name == "index", status.st_atime, status.st_size, path))
                        used += status.st_size
                    elif time.time() - status.st_mtime > ABANDONED_SECONDS:
                        path.unlink()
        return sorted(files), used

    def _clean_up(self) -> int:
        """Remove the files that were read least recently; returns the bytes that are left."""
        files, used = self._scan()
        for _, _, size, path in files:
            if used <= self.limit_bytes * KEPT_FRACTION:
                break
            with suppress(FileNotFoundError):
                path.unlink()
            used -= size
            self._noted.pop(f"{path.parent.name}/{path.name}", None)
        return used


def _write_last_use(descriptor: int, seconds: float) -> None:
    """Record the time of reading (Unix seconds) as the file's access time; its modification time stays."""
    with suppress(OSError):  # a file of another user
        os.utime(descriptor, ns=(int(seconds * 1e9), os.fstat(descriptor).st_mtime_ns))


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold the lock of a file: between processes and, as every call reopens it, between threads."""
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)  # again: somebody may empty the cache while it is in use
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _write_with_trailer(descriptor: int, parts: Iterable[bytes]) -> int:
    """Bytes written, the trailer with them."""
    size = checksum = 0
    with open(descriptor, "wb", closefd=False) as file:
        for part in parts:
            file.write(part)
            size, checksum = size + len(part), zlib.crc32(part, checksum)
        file.write(TRAILER.pack(MARK, size, checksum))
    return size + TRAILER.size


def _checksum_of(descriptor: int, size: int) -> int:
    checksum = 0
    for start in range(0, size, CHECKED_AT_ONCE):
        checksum = zlib.crc32(os.pread(descriptor, min(CHECKED_AT_ONCE, size - start), start), checksum)
    return checksum
