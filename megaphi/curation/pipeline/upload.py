"""A finished folder of documents in object storage: files first, `lineage.json` last.

Object stores have no rename, but an object appears whole or not at all. So each file is one object, and lineage.json,
which lists them all, is the mark that they are complete: it is taken away before the first of them changes, and written
when the last one is there. An upload that was killed goes on with the objects that are missing or of other content.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megaphi.data.lineage.record import LINEAGE, fingerprint_of_blocks
from megaphi.data.storage.files.remote import RemoteStore, open_file_system
from megaphi.data.storage.files.token_files import is_url
from megaphi.errors import InputError
from megaphi.files import read_object
from megaphi.json_text import parse_json
from megaphi.log import logger


def check_upload(url: str) -> None:
    """Refuse what is no place in object storage, before any work. Raises InputError."""
    if not is_url(url) or url.startswith(("file:", "local:")):
        raise InputError(
            f"upload={url} is no object storage as s3://bucket/folder: on a disk they are in the run's folder"
        )
    open_file_system(url)


def upload_documents(folder: Path, url: str, *, store: RemoteStore | None = None) -> None:
    """Make the objects below `url` those of a finished folder.

    Raises:
        InputError: there are other objects below it, or the store cannot be read or written.
    """
    _Upload(folder, url.rstrip("/"), store or RemoteStore()).run()


class _Upload:
    """One folder on its way."""

    def __init__(self, folder: Path, url: str, store: RemoteStore) -> None:
        self._folder, self._url, self._store = folder, url, store
        self._system, self._root = open_file_system(url)
        self._files = {entry["name"]: entry for entry in read_object(folder / LINEAGE, what="lineage")["files"]}

    def run(self) -> None:
        mark, ours = self._mark(), (self._folder / LINEAGE).read_bytes()
        if mark == ours:
            logger.info("%s is up to date", self._url)
            return
        old = {entry["name"] for entry in parse_json(mark)["files"]} if mark else set()
        there = self._names()
        if strange := sorted(there - old - self._files.keys() - {LINEAGE}):
            raise InputError(f"{self._url} holds other things ({', '.join(strange[:3])}): choose another place")
        self._remove([LINEAGE] if mark is not None else [])
        sent = [name for name in self._files if not (name in there and self._is_same(name))]
        for name in sent:
            self._write(name, lambda name=name: self._system.put_file(str(self._folder / name), self._path(name)))
            if not self._is_same(name):
                raise InputError(f"{self._url}/{name} is not what was written there: is somebody else writing it?")
        self._remove(sorted(there & (old - self._files.keys())))
        self._write(LINEAGE, lambda: self._system.pipe_file(self._path(LINEAGE), ours))
        logger.info("%s: %d files written, %d were there", self._url, len(sent), len(self._files) - len(sent))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _mark(self) -> bytes | None:
        try:
            return self._store.read(f"{self._url}/{LINEAGE}")
        except FileNotFoundError:
            return None

    def _names(self) -> set[str]:
        """Names of all objects below the URL, as they are in the folder."""
        try:
            found: Any = self._store.persistently(lambda: self._system.find(self._root), what=self._url)
        except FileNotFoundError:
            return set()
        return {str(path).removeprefix(self._root.rstrip("/") + "/") for path in found}

    def _is_same(self, name: str) -> bool:
        """Return whether an object has the size and the sampled content of the file."""
        path, entry = self._path(name), self._files[name]
        info: Any = self._store.persistently(lambda: self._system.info(path), what=f"{self._url}/{name}")
        if info.get("size") != entry["bytes"]:
            return False

        def block(start: int, count: int) -> bytes:
            return self._store.read(f"{self._url}/{name}", start=start, end=start + count) if count else b""

        return fingerprint_of_blocks(entry["bytes"], block) == entry["fingerprint"]

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._write(name, lambda name=name: self._system.rm_file(self._path(name)))

    def _write(self, name: str, action: Any) -> None:
        self._store.persistently(action, what=f"{self._url}/{name}", verb="write")
