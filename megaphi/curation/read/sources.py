"""Files that a reader reads whole or as a stream: local ones, and those in object storage.

A path is a file, a folder (all files in it, without hidden ones, links not followed), a pattern, or a URL of anything
that fsspec opens, which may be a file, a folder or a pattern too. The order is that of the names, so every worker of a
job finds the same list. A local file is known by its content, a remote one by its size and version (ETag, generation).
"""

from __future__ import annotations

import glob
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from megaphi.curation.step import Portion
from megaphi.data.storage.files.remote import VERSION_FIELDS, RemoteStore, open_file_system
from megaphi.data.storage.files.token_files import is_url
from megaphi.data.text.input_identity import identify
from megaphi.errors import InputError
from megaphi.files import explain_read_errors

Wanted = Callable[[str], bool]
"""Takes a file's name within a folder; files named one by one are always wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePortion(Portion):
    """One file."""

    inside: str = ""
    """Path relative to the folder that was asked for; of a file asked for by name, its name."""


def find_sources(paths: Sequence[str], *, wanted: Wanted = lambda name: True) -> list[SourcePortion]:
    """The files that `paths` name, each once, in order.

    Raises:
        InputError: a path does not exist, matches nothing, or nothing in it is wanted.
    """
    found: dict[str, SourcePortion] = {}
    for given in paths:
        here = _remote(given, wanted) if is_url(given) else _local(given, wanted)
        if not here:
            raise InputError(f"{given}: nothing in it that this reader reads")
        for portion in here:
            found.setdefault(portion.source, portion)
    if not found:
        raise InputError("no input: name at least one file, folder, pattern or URL")
    return list(found.values())


def open_source(portion: SourcePortion) -> IO[bytes]:
    """The file as a stream that seeks. Raises InputError."""
    if not is_url(portion.source):
        with explain_read_errors(portion.source):
            return open(portion.source, "rb")
    system, path = open_file_system(portion.source)
    stream: Any = RemoteStore().persistently(lambda: system.open(path, "rb"), what=portion.source)
    return stream


@contextmanager
def local_copy(portion: SourcePortion) -> Iterator[Path]:
    """A temporary file with the bytes of a remote one, of the same name. Raises InputError."""
    system, path = open_file_system(portion.source)
    with tempfile.TemporaryDirectory(prefix="megaphi-") as folder:
        copy = Path(folder) / portion.source.rpartition("/")[2]
        RemoteStore().persistently(lambda: system.get_file(path, str(copy)), what=portion.source)
        again = _remote_portion(RemoteStore(), portion.source, portion.source)
        if again.fingerprint != portion.fingerprint or copy.stat().st_size != portion.size_bytes:
            raise InputError(f"{portion.source} was replaced by another version while in use: start again with it")
        yield copy


def read_source(portion: SourcePortion) -> bytes:
    """All bytes of a file. Raises InputError."""
    if is_url(portion.source):
        return RemoteStore().read(portion.source)
    with explain_read_errors(portion.source), open_source(portion) as file:
        return file.read()


def _local(given: str, wanted: Wanted) -> list[SourcePortion]:
    path = Path(given)
    if path.is_file():
        named = [(path, path.name)]
    elif path.is_dir():
        named = [(each, str(each.relative_to(path))) for each in walk(path) if wanted(each.name)]
    else:
        matches = [Path(name) for name in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207 (may be absolute)
        if not matches:
            raise InputError(f"input not found: {given} is neither a file, a folder nor a pattern that matches one")
        named = [(each, each.name) for each in matches if each.is_file()]
        for folder in (each for each in matches if each.is_dir()):
            named += [(each, str(each.relative_to(folder.parent))) for each in walk(folder) if wanted(each.name)]
    identified = identify([path for path, _ in named], threads=len(os.sched_getaffinity(0)))
    return [
        SourcePortion(
            name=str(file.path),
            size_bytes=file.size_bytes,
            fingerprint=f"{file.fingerprint} {inside}",
            source=str(file.path),
            inside=inside,
        )
        for file, (_, inside) in zip(identified, named, strict=True)
    ]


def walk(folder: Path) -> Iterator[Path]:
    """All regular files below a folder, by name; hidden ones and links are left out."""
    with explain_read_errors(folder):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from walk(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _remote(url: str, wanted: Wanted) -> list[SourcePortion]:
    store = RemoteStore()
    system, path = open_file_system(url)
    if any(sign in path for sign in "*?["):
        names = store.glob(url)
    elif store.persistently(lambda: system.isdir(path), what=url):
        listed: Any = store.persistently(lambda: system.find(path), what=url)
        names = [system.unstrip_protocol(str(name)) for name in listed if wanted(str(name).rpartition("/")[2])]
    else:
        names = [url]
    return [_remote_portion(store, name, url) for name in sorted(names)]


def _remote_portion(store: RemoteStore, name: str, asked: str) -> SourcePortion:
    system, path = open_file_system(name)
    try:
        info: dict[str, Any] = store.persistently(lambda: system.info(path), what=name)
    except FileNotFoundError:
        raise InputError(f"input not found: {name}") from None
    version = {field: str(info.get(field)) for field in VERSION_FIELDS.split() if info.get(field) is not None}
    version |= {} if version else {"created": str(info.get("created"))}
    fingerprint = hashlib.sha256(repr((name, info.get("size"), sorted(version.items()))).encode()).hexdigest()
    inside = name.removeprefix(asked.rstrip("/") + "/") if name != asked else name.rpartition("/")[2]
    return SourcePortion(
        name=name, size_bytes=int(info.get("size") or 0), fingerprint=fingerprint, source=name, inside=inside
    )
