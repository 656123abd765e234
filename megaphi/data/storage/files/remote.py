"""Datasets in object storage, anything that fsspec opens (s3, gs, https, memory, ...), read through a cache of blocks.

A dataset's .idx is fetched whole, once, and memory-mapped. Its .bin is fetched in blocks: those that a batch needs in
parallel, and those of later batches ahead of time, if `prepare` announced them. `block_cache.py` keeps the blocks under
a key of URL, size and version (ETag, generation or time). A block is used only if the object still had that version
after the fetch, so two versions are never mixed. A sample is a small part of a block, so the cache should hold all of
the data that the run draws from; if it cannot, smaller blocks waste less. Legend: N runs of bytes, P pieces of them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from megaphi.config import FilePath, Range, check_values
from megaphi.data.storage.files.block_cache import BlockCache
from megaphi.data.storage.files.token_files import DatasetFiles, MappedFile, Pieces
from megaphi.errors import InputError
from megaphi.json_text import parse_json
from megaphi.log import logger

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

Result = TypeVar("Result")

VERSION_FIELDS = "ETag etag md5 md5Hash checksum generation version_id mtime LastModified last_modified updated"
LONGEST_WAIT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteReading:
    """Reading of datasets in object storage (paths like s3://bucket/web_*)."""

    cache_folder: FilePath = str(Path.home() / ".cache/megaphi/blocks")
    """Folder of the cache for fetched blocks, on a disk of this machine; all its processes share it."""
    cache_bytes: Annotated[int, Range(minimum=1)] = 200_000_000_000
    """Size limit of the cache; ideally more than all the data drawn from."""
    block_bytes: Annotated[int, Range(minimum=4_096)] = 4 << 20
    """Bytes per request, a multiple of 8; choose less if the cache cannot hold the data."""
    read_ahead_blocks: Annotated[int, Range(minimum=0)] = 64
    """Blocks to fetch ahead of time, per process; 0 fetches none."""
    connections: Annotated[int, Range(minimum=1)] = 16
    """Simultaneous requests for a batch, and as many for reading ahead, per process."""
    attempts: Annotated[int, Range(minimum=1)] = 6
    """Attempts at a request before its failure ends the run."""
    first_wait_seconds: Annotated[float, Range(minimum=0, maximum=3_600)] = 0.5
    """Pause before the second attempt; it doubles with every further one."""


def check_remote_reading(settings: RemoteReading) -> None:
    """Refuse invalid settings. Raises InputError."""
    check_values(settings, where="task.mixture.remote")
    if settings.block_bytes % 8:
        raise InputError(f"task.mixture.remote.block_bytes={settings.block_bytes}: must be a multiple of 8")


class RemoteStore:
    """Object storage and its cache. It costs nothing, and needs no fsspec, until a URL is opened."""

    def __init__(self, settings: RemoteReading | None = None) -> None:
        self.settings = settings or RemoteReading()
        check_remote_reading(self.settings)
        self._ahead: set[str] = set()
        self._ahead_lock = threading.Lock()

    @functools.cached_property
    def cache(self) -> BlockCache:
        return BlockCache(Path(self.settings.cache_folder), limit_bytes=self.settings.cache_bytes)

    @functools.cached_property
    def pool(self) -> ThreadPoolExecutor:
        """Threads that fetch the blocks of a batch."""
        return ThreadPoolExecutor(self.settings.connections, thread_name_prefix="fetch")

    @functools.cached_property
    def requests(self) -> ThreadPoolExecutor:
        """Threads for requests under a lock of the cache; none of them waits for a lock itself."""
        return ThreadPoolExecutor(self.settings.connections, thread_name_prefix="fetch part")

    @functools.cached_property
    def _ahead_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.settings.connections, thread_name_prefix="fetch ahead")

    def glob(self, pattern: str) -> list[str]:
        """URLs that match a pattern; none if the folder does not exist."""
        system, path = open_file_system(pattern)
        try:
            found = self.persistently(lambda: system.glob(path), what=pattern)
        except FileNotFoundError:
            return []
        return [system.unstrip_protocol(str(name)) for name in found]

    def read(self, url: str, *, start: int = 0, end: int | None = None) -> bytes:
        """Bytes of an object, all of a small one by default. Raises FileNotFoundError if it does not exist."""
        system, path = open_file_system(url)
        return self.persistently(lambda: _bytes_of(system, path, start=start, end=end), what=url)

    def open(self, prefix: str) -> DatasetFiles:
        """Open the files of a dataset; the index is fetched unless it is cached."""
        hint = " (a dataset is a pair of .bin and .idx)"
        index, data = (RemoteTokens(self, prefix + ending, hint=hint) for ending in (".idx", ".bin"))
        descriptor = index.whole()
        path = self.cache.folder / index.key / "index"
        mapped = MappedFile(path, descriptor, name=index.name, size=index.size)
        return DatasetFiles(mapped, data, functools.partial(self.read_description, f"{prefix}.json"))

    def tokens(self, url: str) -> RemoteTokens:
        """Open one file of tokens. Raises InputError if it does not exist."""
        return RemoteTokens(self, url)

    def read_description(self, url: str) -> dict[str, Any] | None:
        """Contents of the .json beside a dataset; None without one."""
        try:
            found = parse_json(self.read(url))
        except FileNotFoundError:
            return None
        except InputError as error:
            raise InputError(f"dataset description {url} is not valid JSON: {error}") from None
        if not isinstance(found, dict):
            raise InputError(f"dataset description {url} is not an object with fields")
        return found

    def persistently(self, action: Callable[[], Result], *, what: str, verb: str = "read") -> Result:
        """Make a request, repeated after a pause when it fails; libraries raise exceptions of their own."""
        for attempt in range(1, self.settings.attempts + 1):
            try:
                return action()
            except (FileNotFoundError, InputError):
                raise
            except PermissionError as error:
                raise InputError(f"cannot {verb} {what}: permission denied ({error}). Check the credentials") from error
            except Exception as error:
                if attempt == self.settings.attempts:
                    raise InputError(
                        f"cannot {verb} {what}: {type(error).__name__}: {error} ({attempt} attempts)"
                    ) from error
                logger.debug("%s: attempt %d: %s", what, attempt, error)
                pause = self.settings.first_wait_seconds * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                time.sleep(min(pause, LONGEST_WAIT_SECONDS))
        raise AssertionError("at least one attempt")

    def fetch_ahead(self, name: str, obtain: Callable[[], int]) -> None:
        """Schedule `obtain`, which caches a file, unless enough fetches are in flight already."""
        with self._ahead_lock:
            if name in self._ahead or len(self._ahead) >= self.settings.read_ahead_blocks:
                return
            self._ahead.add(name)
        self._ahead_pool.submit(self._obtain_quietly, name, obtain)

    def _obtain_quietly(self, name: str, obtain: Callable[[], int]) -> None:
        try:
            os.close(obtain())
        except InputError as error:  # the reader of the block will get it again
            logger.debug("reading ahead: %s", error)
        finally:
            with self._ahead_lock:
                self._ahead.discard(name)


class RemoteTokens:
    """One remote file (`token_files.TokenFile`), read through the cache."""

    is_remote = True

    def __init__(self, store: RemoteStore, url: str, *, hint: str = "") -> None:
        self.name = url
        self._store = store
        self._system, self._path = open_file_system(url)
        try:
            self._version = self._version_now()
        except FileNotFoundError:
            raise InputError(f"dataset file not found: {url}{hint}") from None
        self.size = int(self._version["size"])
        meaning = json.dumps([url, self._version, store.settings.block_bytes])
        self.key = hashlib.sha256(meaning.encode()).hexdigest()[:32]

    @contextmanager
    def pieces(self, offset_N: NDArray[np.int64], bytes_N: NDArray[np.int64]) -> Iterator[Pieces]:
        """Open the blocks that hold these runs; those that are not cached are fetched in parallel."""
        run_P, block_P, begin_P, bytes_P = self._cut(offset_N, bytes_N)
        blocks, file_P = np.unique(block_P, return_inverse=True)
        waiting = [self._store.pool.submit(self._obtain, block) for block in blocks.tolist()]
        try:
            descriptors = [future.result() for future in waiting]
            yield Pieces(descriptors, file_P, begin_P, bytes_P, run_P)
        finally:
            for future in waiting:
                future.add_done_callback(_close_result)  # at once, where it is done

    def prepare(self, offset_N: NDArray[np.int64], bytes_N: NDArray[np.int64]) -> None:
        """Fetch the blocks of these runs ahead of time."""
        for block in np.unique(self._cut(offset_N, bytes_N)[1]).tolist():
            if not (self._store.cache.folder / self.key / str(block)).exists():
                self._store.fetch_ahead(f"{self.key}/{block}", functools.partial(self._obtain, block))

    def samples(self, starts: Sequence[int], count: int) -> list[bytes]:
        """Read from a few places of the file; the results are cached together."""
        lengths = [min(count, self.size - start) for start in starts]

        def fetched() -> Iterator[bytes]:
            return self._store.requests.map(self._fetch, starts, lengths)

        descriptor = self._cached("samples", sum(lengths), fetched)
        try:
            return [os.pread(descriptor, length, sum(lengths[:place])) for place, length in enumerate(lengths)]
        finally:
            os.close(descriptor)

    def whole(self) -> int:
        """A descriptor of the whole file in the cache, whose bytes are followed by the cache's trailer."""
        size = self._store.settings.block_bytes
        starts = range(0, self.size, size)

        def fetched() -> Iterator[bytes]:
            return self._store.requests.map(self._fetch, starts, [min(size, self.size - start) for start in starts])

        return self._cached("index", self.size, fetched)

    def close(self) -> None:
        """No-op: no file stays open between reads."""

    def _cut(self, offset_N: NDArray[np.int64], bytes_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Cut runs at the edges of blocks: (run, block, first byte in the block, number of bytes), each [P]."""
        size = self._store.settings.block_bytes
        first_N, last_N = offset_N // size, np.maximum(offset_N, offset_N + bytes_N - 1) // size
        blocks_N = np.where(bytes_N > 0, last_N - first_N + 1, 0)
        run_P = np.repeat(np.arange(len(offset_N)), blocks_N)
        place_P = np.arange(len(run_P)) - np.repeat(np.cumsum(blocks_N) - blocks_N, blocks_N)
        block_P = first_N[run_P] + place_P
        begin_P = np.maximum(offset_N[run_P], block_P * size)
        end_P = np.minimum((offset_N + bytes_N)[run_P], (block_P + 1) * size)
        return run_P, block_P, begin_P - block_P * size, end_P - begin_P

    def _obtain(self, block: int) -> int:
        """A descriptor of a block."""
        size = self._store.settings.block_bytes
        start, length = block * size, min(size, self.size - block * size)
        return self._cached(str(block), length, lambda: iter([self._fetch(start, length)]))

    def _cached(self, name: str, size: int, fetched: Callable[[], Iterator[bytes]]) -> int:
        cache, name = self._store.cache, f"{self.key}/{name}"
        descriptor = cache.open(name, size=size)
        if descriptor is not None:
            return descriptor
        with cache.sole_right(name):  # another process may be fetching it
            descriptor = cache.open(name, size=size)
            return cache.store(name, fetched()) if descriptor is None else descriptor

    def _fetch(self, start: int, count: int) -> bytes:
        """Fetch bytes of the object, in the version that was opened."""

        def request() -> bytes:
            content = _bytes_of(self._system, self._path, start=start, end=start + count) if count else b""
            if self._version_now() != self._version:
                raise InputError(f"{self.name} was replaced by another version while in use: start again with it")
            if len(content) != count:
                raise ConnectionError(f"{len(content):,} bytes came instead of {count:,}")
            return content

        try:
            return self._store.persistently(request, what=f"{self.name} at byte {start:,}")
        except FileNotFoundError:
            raise InputError(f"{self.name} is gone: it was deleted while in use") from None

    def _version_now(self) -> dict[str, str]:
        """Return the headers that identify this version of the object."""
        info = self._store.persistently(lambda: self._system.info(self._path), what=self.name)
        if info.get("type") == "directory" or info.get("size") is None:
            raise InputError(f"cannot read {self.name}: it is a folder, or its size is not known")
        fields = [name for name in VERSION_FIELDS.split() if info.get(name) is not None] or ["created"]
        return {name: str(info.get(name)) for name in ("size", *fields)}


def _close_result(future: Future[int]) -> None:
    if not future.cancelled() and future.exception() is None:
        with suppress(OSError):
            os.close(future.result())


def _bytes_of(system: AbstractFileSystem, path: str, *, start: int = 0, end: int | None = None) -> bytes:
    content = system.cat_file(path, start=start, end=end)
    return bytes(memoryview(content))  # pyright: ignore[reportArgumentType] (never text)


def open_file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """fsspec's file system for a URL, and the path in it; it remembers no listings, which would hide changes."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise InputError(f"{url} needs fsspec, which is not installed: pip install 'megaphi[remote]'") from None
    try:
        return url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:  # "Install s3fs to access S3"; an unknown protocol
        raise InputError(f"cannot open {url}: {error}") from error
